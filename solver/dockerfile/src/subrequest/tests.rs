//! What tools are answered.

use super::*;
use crate::lint::Rule;
use crate::lower::{OutlineArg, OutlineItem};
use crate::{ErrorKind, Lines};

fn source(text: &str) -> SourceInfo {
    SourceInfo {
        filename: "Dockerfile".into(),
        data: text.as_bytes().to_vec(),
        language: "Dockerfile".into(),
        definition: None,
    }
}

fn text(answer: &Answer, key: &str) -> String {
    String::from_utf8(answer[key].clone()).unwrap()
}

#[test]
fn targets_are_listed_with_descriptions() {
    let file =
        source("# a does <this>\nFROM x AS a\nFROM --platform=linux/amd64 y AS long-name\nFROM z");
    let answer = targets(&file).unwrap();
    let want = "TARGET    DESCRIPTION\na         does <this>\nlong-name \n(default) \n";
    assert_eq!(text(&answer, "result.txt"), want);
    let json: serde_json::Value = serde_json::from_slice(&answer["result.json"]).unwrap();
    assert_eq!(json["targets"][0]["description"], "does <this>");
    assert_eq!(
        json["targets"][0]["location"]["ranges"][0]["start"]["line"],
        2
    );
    assert_eq!(json["targets"][1]["platform"], "linux/amd64");
    assert_eq!(json["targets"][2]["default"], true);
    assert!(text(&answer, "result.json").contains("\\u003cthis\\u003e"));
    assert!(targets(&source("FROM")).is_err());
}

#[test]
fn outlines_are_tables() {
    let given = Outline {
        name: "t".into(),
        description: "makes it".into(),
        args: vec![OutlineArg {
            name: "VERSION".into(),
            value: "1".into(),
            description: "which one".into(),
            lines: Lines::one(1),
        }],
        secrets: vec![OutlineItem {
            name: "s".into(),
            required: true,
            lines: Lines::one(3),
        }],
        ssh: Vec::new(),
    };
    let answer = outline(&given, &source("x"));
    let want = "TARGET:      t\nDESCRIPTION: makes it\n\nBUILD ARG   VALUE   DESCRIPTION\nVERSION     1       which one\n\nSECRET   REQUIRED\ns        true\n\n";
    assert_eq!(text(&answer, "result.txt"), want);
    let json: serde_json::Value = serde_json::from_slice(&answer["result.json"]).unwrap();
    assert_eq!(json["secrets"][0]["required"], true);
    assert_eq!(json["sources"][0], "eA==");
}

#[test]
fn findings_show_their_lines() {
    let warning = Warning {
        rule: Rule::UndefinedVar,
        text: "what".into(),
        lines: Lines::one(2),
    };
    let failure = crate::Error::at(Lines { first: 3, last: 4 }, ErrorKind::Lint("R".into()));
    let outcome = Outcome {
        warnings: vec![warning],
        result: Err(failure),
    };
    let answer = lint(&outcome, &source("a\nb\nc\nd"));
    let want = "\nWARNING: UndefinedVar - https://docs.docker.com/go/dockerfile/rule/undefined-var/\nwhat\nDockerfile:2\n--------------------\n   1 |     a\n   2 | >>> b\n   3 |     c\n   4 |     d\n--------------------\n";
    assert_eq!(text(&answer, "result.txt"), want);
    assert_eq!(text(&answer, "result.statuscode"), "1");
    let json: serde_json::Value = serde_json::from_slice(&answer["result.json"]).unwrap();
    assert_eq!(json["warnings"][0]["ruleName"], "UndefinedVar");
    assert_eq!(
        json["buildError"]["location"]["ranges"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let fine = lint(
        &Outcome {
            warnings: Vec::new(),
            result: Ok(()),
        },
        &source("a"),
    );
    assert_eq!(text(&fine, "result.statuscode"), "0");
    let json: serde_json::Value = serde_json::from_slice(&fine["result.json"]).unwrap();
    assert!(json["warnings"].is_null() && json.get("buildError").is_none());
}

#[test]
fn capabilities_may_be_missing() {
    assert_eq!(
        missing_capability("moby.buildkit.frontend.subrequests+forward"),
        None
    );
    let missing = missing_capability("a+forward,moby.buildkit.frontend.inputs").unwrap();
    assert_eq!((missing.name.as_str(), missing.forward), ("a", true));
    assert!(!missing_capability("a+forward,b").unwrap().forward);
    assert!(text(&describe(), "result.txt").starts_with("NAME"));
}
