//! The JSON forms of the answers. Keys are those that buildx reads.

use super::Target;
use crate::error::Error;
use crate::lint::Warning;
use crate::lower;
use crate::span::Lines;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use shipway_model::SourceRange;
use shipway_model::definition::SourceInfo;

#[derive(Serialize)]
struct Position {
    #[serde(skip_serializing_if = "is_zero")]
    line: i32,
    #[serde(skip_serializing_if = "is_zero")]
    character: i32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

#[derive(Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Serialize, Default)]
struct Location {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<Range>,
}

impl From<Lines> for Location {
    fn from(lines: Lines) -> Self {
        Self {
            ranges: lines.ranges().iter().map(range).collect(),
        }
    }
}

fn range(range: &SourceRange) -> Range {
    Range {
        start: Position {
            line: range.start_line,
            character: range.start_character,
        },
        end: Position {
            line: range.end_line,
            character: range.end_character,
        },
    }
}

#[derive(Serialize)]
pub(super) struct Outline<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Arg<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<Item<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<Item<'a>>,
    sources: [String; 1],
}

#[derive(Serialize)]
struct Arg<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    value: &'a str,
    location: Location,
}

#[derive(Serialize)]
struct Item<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    required: bool,
    location: Location,
}

impl<'a> Outline<'a> {
    pub(super) fn new(outline: &'a lower::Outline, source: &SourceInfo) -> Self {
        let arg = |arg: &'a lower::OutlineArg| Arg {
            name: &arg.name,
            description: &arg.description,
            value: &arg.value,
            location: arg.lines.into(),
        };
        let item = |item: &'a lower::OutlineItem| Item {
            name: &item.name,
            required: item.required,
            location: item.lines.into(),
        };
        Self {
            name: &outline.name,
            description: &outline.description,
            args: outline.args.iter().map(arg).collect(),
            secrets: outline.secrets.iter().map(item).collect(),
            ssh: outline.ssh.iter().map(item).collect(),
            sources: [STANDARD.encode(&source.data)],
        }
    }
}

#[derive(Serialize)]
pub(super) struct Targets<'a> {
    targets: Vec<TargetJson<'a>>,
    sources: [String; 1],
}

#[derive(Serialize)]
struct TargetJson<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    default: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    base: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    platform: &'a str,
    location: Location,
}

impl<'a> Targets<'a> {
    pub(super) fn new(targets: &'a [Target], source: &SourceInfo) -> Self {
        let target = |target: &'a Target| TargetJson {
            name: &target.stage.name,
            default: target.default,
            description: &target.stage.doc,
            base: &target.stage.base,
            platform: &target.stage.platform,
            location: target.stage.lines.into(),
        };
        let targets = targets.iter().map(target).collect();
        Self {
            targets,
            sources: [STANDARD.encode(&source.data)],
        }
    }
}

/// The findings of a lint; without any, `warnings` is null.
#[derive(Serialize)]
pub(super) struct Lint<'a> {
    warnings: Option<Vec<WarningJson<'a>>>,
    sources: [Source<'a>; 1],
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    error: Option<BuildError>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WarningJson<'a> {
    rule_name: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    url: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    location: Location,
}

#[derive(Serialize)]
struct Source<'a> {
    filename: &'a str,
    data: String,
    language: &'a str,
}

#[derive(Serialize)]
struct BuildError {
    message: String,
    location: Location,
}

impl<'a> Lint<'a> {
    pub(super) fn new(
        warnings: &[&'a Warning],
        error: Option<&Error>,
        source: &'a SourceInfo,
    ) -> Self {
        let warning = |warning: &&'a Warning| WarningJson {
            rule_name: warning.rule.name(),
            description: warning.rule.description(),
            url: warning.rule.url(),
            detail: &warning.text,
            location: warning.lines.into(),
        };
        let error = error.map(|error| BuildError {
            message: error.to_string(),
            location: Location {
                ranges: merged(&error.locations).iter().map(range).collect(),
            },
        });
        let source = Source {
            filename: &source.filename,
            data: STANDARD.encode(&source.data),
            language: &source.language,
        };
        let found = (!warnings.is_empty()).then(|| warnings.iter().map(warning).collect());
        Self {
            warnings: found,
            sources: [source],
            error,
        }
    }
}

/// All places of an error in order of lines, overlapping ones joined.
fn merged(places: &[Lines]) -> Vec<SourceRange> {
    let mut ranges: Vec<SourceRange> = places.iter().flat_map(|place| place.ranges()).collect();
    ranges.sort_by_key(|range| range.start_line);
    let mut merged: Vec<SourceRange> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start_line <= last.end_line => {
                last.end_line = last.end_line.max(range.end_line);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// One subrequest, as clients are told of it.
#[derive(Serialize)]
pub(super) struct Request {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    pub(super) description: &'static str,
    opts: Option<Vec<Named>>,
    inputs: Option<Vec<Named>>,
    metadata: Vec<Named>,
    refs: Option<Vec<Named>>,
}

#[derive(Serialize)]
struct Named {
    name: &'static str,
    description: &'static str,
}

/// The subrequests of this frontend.
pub(super) fn requests() -> Vec<Request> {
    let named = |name| Named {
        name,
        description: "",
    };
    let request = |name, description, opts| Request {
        name,
        version: "1.0.0",
        kind: "rpc",
        description,
        opts,
        inputs: None,
        metadata: vec![named("result.json"), named("result.txt")],
        refs: None,
    };
    let target = Named {
        name: "target",
        description: "Target build stage",
    };
    let outline = "List all parameters current build target supports";
    vec![
        request(super::OUTLINE, outline, Some(vec![target])),
        request(
            super::TARGETS,
            "List all targets current build supports",
            Some(Vec::new()),
        ),
        request(super::DESCRIBE, "List available subrequest types", None),
    ]
}
