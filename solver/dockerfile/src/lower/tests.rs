//! Rules of the Dockerfile reference that hold between instructions and stages. That whole files lower as upstream's do is
//! tested by the corpus.

use super::*;
use crate::resolve::{ImageRequest, ResolvedImage};
use crate::{ErrorKind, Lines};
use async_trait::async_trait;
use proptest::prelude::*;
use serde_json::{Value, json};
use shipway_model::op::{FileActionKind, Op};
use shipway_model::{Digest, Failure, FailureDetail};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Every image exists, for the platform asked for.
#[derive(Default)]
struct Images {
    asked: AtomicUsize,
}

#[async_trait]
impl MetaResolver for Images {
    async fn image_config(&self, request: ImageRequest) -> Result<ResolvedImage, Failure> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if request.reference.contains("missing") {
            return Err(Failure::new("not there").with(FailureDetail::Exit(1)));
        }
        let platform = request.platform.unwrap_or_default();
        let config = json!({
            "architecture": platform.architecture, "os": platform.os,
            "config": {"Cmd": ["sh"], "Env": ["FROM_BASE=1"]},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:00"]},
        });
        let digest = Some(Digest::of(&request.reference));
        let config = config.to_string().into_bytes();
        Ok(ResolvedImage {
            reference: request.reference,
            digest,
            config,
            replaced: None,
        })
    }

    async fn read_file(&self, _: &Definition, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        assert_eq!(path, ".dockerignore");
        Ok(Some(b"secret\n".to_vec()))
    }

    async fn input(&self, name: &str) -> Result<Option<Definition>, Failure> {
        let mut graph = Graph::default();
        let local = shipway_llb::build::Local {
            name: name.into(),
            ..Default::default()
        };
        let state = graph.local(local, shipway_llb::VertexOptions::default());
        Ok(graph.definition(&state, None).ok())
    }

    async fn source_epoch(&self, _: &Definition, _: &str) -> Result<Option<i64>, Failure> {
        Ok(Some(42))
    }
}

fn build_with(
    text: &str,
    options: &[(&str, &str)],
    images: &Images,
) -> Result<Vec<Lowered>, Error> {
    let raw = options
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let options = BuildOptions::parse(&raw, "s", &Platform::new("linux", "amd64", ""))?;
    let source = SourceInfo {
        data: text.as_bytes().to_vec(),
        ..SourceInfo::default()
    };
    let context = MainContext::Local {
        name: "context".into(),
        ignore: Vec::new(),
    };
    let request = Request {
        source,
        options: &options,
        context,
    };
    futures::executor::block_on(lower(&request, images)).result
}

fn build(text: &str, options: &[(&str, &str)]) -> Lowered {
    build_with(text, options, &Images::default())
        .unwrap()
        .remove(0)
}

fn config(text: &str, options: &[(&str, &str)]) -> Value {
    serde_json::from_slice(&build(text, options).config).unwrap()
}

fn names(text: &str, options: &[(&str, &str)]) -> Vec<String> {
    let name = |vertex: shipway_model::Vertex| {
        vertex
            .meta
            .description
            .get("llb.customname")
            .cloned()
            .unwrap_or_default()
    };
    build(text, options)
        .definition
        .vertices
        .into_iter()
        .map(name)
        .collect()
}

#[test]
fn an_entrypoint_drops_the_command_of_the_base_only() {
    let cases = [
        ("FROM a\nENTRYPOINT [\"e\"]", Value::Null),
        ("FROM a\nCMD [\"c\"]\nENTRYPOINT [\"e\"]", json!(["c"])),
        ("FROM a\nENTRYPOINT [\"e\"]\nCMD [\"c\"]", json!(["c"])),
        (
            "FROM a AS b\nCMD [\"c\"]\nFROM b\nENTRYPOINT [\"e\"]",
            Value::Null,
        ),
        ("FROM a\nUSER x", json!(["sh"])),
    ];
    for (text, want) in cases {
        assert_eq!(config(text, &[])["config"]["Cmd"], want, "{text}");
    }
}

type Options<'a> = &'a [(&'a str, &'a str)];

#[test]
fn arguments_and_variables_shadow_each_other() {
    let given = [("build-arg:E", "arg")];
    let cases: [(&str, Options<'_>, &str); 8] = [
        ("ARG G=g\nFROM a\nLABEL l=$G", &[], ""),
        ("ARG G=g\nFROM a\nARG G\nLABEL l=$G", &[], "g"),
        ("ARG G=g\nFROM a\nARG G=x\nLABEL l=$G", &[], "x"),
        ("FROM a\nENV E=env\nARG E\nLABEL l=$E", &given, "arg"),
        ("FROM a\nARG E\nENV E=env\nLABEL l=$E", &given, "env"),
        ("FROM a AS b\nARG E=1\nFROM b\nLABEL l=$E", &[], "1"),
        (
            "FROM a AS b\nENV E=env\nARG E\nFROM b\nLABEL l=$E",
            &given,
            "env",
        ),
        (
            "ARG X=g\nFROM a AS b\nARG X=local\nFROM b\nARG X\nLABEL l=$X",
            &[],
            "g",
        ),
    ];
    for (text, options, want) in cases {
        assert_eq!(
            config(text, options)["config"]["Labels"]["l"],
            want,
            "{text}"
        );
    }
}

#[test]
fn an_instruction_sees_the_environment_before_it() {
    let env = |text: &str| config(text, &[])["config"]["Env"].clone();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(
        env("FROM a\nENV A=1 B=$A"),
        json!(["FROM_BASE=1", path, "A=1", "B="])
    );
    assert_eq!(env("FROM a\nENV A=1\nENV A=2 B=$A")[3], "B=1");
    assert_eq!(env("FROM a\nARG A=1 B=${A}2\nENV C=$B")[2], "C=12");
}

#[test]
fn platform_arguments_must_be_declared_and_can_be_given() {
    let label = |text: &str, options: &[(&str, &str)]| {
        config(text, options)["config"]["Labels"]["l"].clone()
    };
    assert_eq!(label("FROM a\nLABEL l=$TARGETARCH", &[]), "");
    assert_eq!(
        label("FROM a\nARG TARGETARCH\nLABEL l=$TARGETARCH", &[]),
        "amd64"
    );
    let text = "FROM a AS st\nARG TARGETARCH\nARG TARGETSTAGE\nLABEL l=$TARGETARCH-$TARGETSTAGE";
    assert_eq!(label(text, &[("build-arg:TARGETARCH", "foo")]), "foo-st");
    assert_eq!(
        label("FROM a\nARG TARGETSTAGE\nLABEL l=$TARGETSTAGE", &[]),
        "default"
    );
}

#[test]
fn proxies_reach_steps_without_being_declared() {
    let built = build("FROM a\nRUN x", &[("build-arg:hTTp_proxy", "p")]);
    let Op::Exec(exec) = &built.definition.vertices[1].op else {
        panic!("an exec op")
    };
    assert_eq!(exec.meta.proxy_env.as_ref().unwrap().http_proxy, "p");
    assert!(!exec.meta.env.iter().any(|pair| pair.ends_with("=p")));
    assert!(!String::from_utf8(built.config).unwrap().contains("=p"));
}

#[test]
fn triggers_run_first_in_the_first_child() {
    let text = "FROM x AS a\nONBUILD RUN t\nFROM a AS b\nRUN o\nFROM b\nRUN z";
    let got = names(text, &[]);
    let want = [
        "[b 1/2] ONBUILD RUN t",
        "[b 2/2] RUN o",
        "[stage-2 1/1] RUN z",
    ]
    .map(str::to_owned);
    assert_eq!(got[1..], want);
    assert_eq!(config(text, &[])["config"]["OnBuild"], Value::Null);
}

#[test]
fn steps_are_numbered_per_stage() {
    let cases = [
        ("FROM scratch\nCOPY a /", "[1/1] COPY a /"),
        ("FROM a\nENV A=1\nWORKDIR /w\nRUN $A", "[3/3] RUN 1"),
        (
            "FROM a\nRUN --mount=type=tmpfs,target=/x y",
            "[stage-0 2/2] RUN --mount=type=tmpfs,target=/x y",
        ),
        ("FROM a AS n\nFROM n\nrun x", "[stage-1 1/1] RUN x"),
        ("FROM a\nCOPY --link x /", "[2/2] LINK COPY --link x /"),
    ];
    for (text, want) in cases {
        assert_eq!(names(text, &[]).last().unwrap(), want, "{text}");
    }
    let cross = "FROM --platform=$BUILDPLATFORM a\nARG TARGETARCH\nRUN x";
    let options = [("platform", "linux/arm64"), ("multi-platform", "true")];
    assert_eq!(names(cross, &options)[1], "[linux/amd64->arm64 2/2] RUN x");
}

#[test]
fn the_directory_belongs_to_the_user() {
    let built = build("FROM a\nUSER 1234\nWORKDIR /w//x\nWORKDIR /", &[]);
    assert_eq!(built.definition.vertices.len(), 2);
    let Op::File(file) = &built.definition.vertices[1].op else {
        panic!("a file op")
    };
    let FileActionKind::MkDir {
        path,
        owner,
        make_parents,
        ..
    } = &file.actions[0].kind
    else {
        panic!("a mkdir")
    };
    assert_eq!((path.as_str(), *make_parents), ("/w/x", true));
    assert!(format!("{owner:?}").contains("ById(1234)"));
    let image: Value = serde_json::from_slice(&built.config).unwrap();
    assert_eq!(image["config"]["WorkingDir"], "/");
    assert_eq!(image["history"][1]["created_by"], "WORKDIR /w//x");
}

#[test]
fn only_needed_paths_of_the_context_are_asked_for() {
    let paths = |text: &str| {
        let built = build(text, &[]);
        let source = built
            .definition
            .vertices
            .iter()
            .find_map(|vertex| match &vertex.op {
                Op::Source(source) if source.identifier == "local://context" => {
                    Some(source.clone())
                }
                _ => None,
            });
        source.and_then(|source| source.attrs.get("local.followpaths").cloned())
    };
    let cases = [
        ("FROM a\nCOPY b a /", Some(r#"["a","b"]"#)),
        ("FROM a\nADD ../x/ https://h/f /d/", Some(r#"["x"]"#)),
        ("FROM a\nRUN --mount=target=/m,source=s y", Some(r#"["s"]"#)),
        ("FROM a\nRUN --mount=target=/m y", None),
        ("FROM a\nCOPY a /\nCOPY . /", None),
    ];
    for (text, want) in cases {
        assert_eq!(paths(text).as_deref(), want, "{text}");
    }
}

#[test]
fn images_are_asked_for_once_and_only_where_needed() {
    let images = Images::default();
    let text = "FROM missing AS no\nFROM a AS b\nFROM a\nCOPY --from=b / /\nCOPY --from=a / /x";
    build_with(text, &[("platform", "linux/amd64,linux/arm64")], &images).unwrap();
    assert_eq!(images.asked.load(Ordering::Relaxed), 2);
}

#[test]
fn named_contexts_stand_in_for_images_and_stages() {
    let text = "FROM base\nCOPY --from=src /a /b\nCOPY --from=in / /c";
    let options = [
        ("context:base", "docker-image://debian"),
        ("context:src", "local:dir"),
        ("context:in", "input:given"),
    ];
    let sources: Vec<_> = build(text, &options)
        .definition
        .vertices
        .into_iter()
        .filter_map(|vertex| match vertex.op {
            Op::Source(source) => Some(source),
            _ => None,
        })
        .collect();
    let ids: Vec<_> = sources
        .iter()
        .map(|source| source.identifier.as_str())
        .collect();
    let debian = "docker-image://docker.io/library/debian:latest";
    assert_eq!(ids, [debian, "local://dir", "local://given"]);
    assert_eq!(sources[1].attrs["local.excludepatterns"], r#"["secret"]"#);
    assert_eq!(sources[1].attrs["local.followpaths"], r#"["a"]"#);
    for (kind, want) in [
        ("nope", "invalid context specifier nope for base"),
        ("ftp:x", "unsupported context source ftp for base"),
        ("git:x", "invalid git context git:x"),
    ] {
        let error = build_with(text, &[("context:base", kind)], &Images::default()).unwrap_err();
        assert_eq!(error.to_string(), want);
    }
}

#[test]
fn an_epoch_may_be_a_source() {
    let text = "FROM scratch AS src\nADD https://h/f /\nFROM a\nARG SOURCE_DATE_EPOCH\nENV A=1";
    let epoch = |value: &str| {
        build_with(
            text,
            &[("build-arg:SOURCE_DATE_EPOCH", value)],
            &Images::default(),
        )
    };
    for value in ["src", "42"] {
        let built = epoch(value).unwrap().remove(0);
        assert_eq!(built.epoch, Some(42), "{value}");
        let image: Value = serde_json::from_slice(&built.config).unwrap();
        assert_eq!(image["history"][0]["created"], "1970-01-01T00:00:42Z");
        assert_eq!(
            image["history"][0]["created_by"],
            "ARG SOURCE_DATE_EPOCH=42"
        );
    }
    let error = epoch("nowhere").unwrap_err();
    assert_eq!(error.to_string(), "invalid SOURCE_DATE_EPOCH: nowhere");
}

#[test]
fn failures_point_into_the_file() {
    let error = build_with("FROM a\nRUN x\nFROM missing", &[], &Images::default()).unwrap_err();
    assert!(matches!(*error.kind, ErrorKind::Resolve { .. }));
    assert_eq!(error.locations, [Lines::one(3)]);
    let failure = error.to_failure(&Arc::new(SourceInfo::default()));
    assert_eq!(&*failure.message, "missing: not there");
    assert_eq!(failure.details[0], FailureDetail::Exit(1));
    assert!(
        matches!(&failure.details[1], FailureDetail::Source { ranges, .. } if ranges[0].start_line == 3)
    );
}

#[test]
fn a_long_file_lowers_without_deep_recursion() {
    let text = format!("FROM a\n{}", "RUN x\nENV A=1\nCOPY f /\n".repeat(2_000));
    assert_eq!(build(&text, &[]).definition.vertices.len(), 4_002);
    let mut text = String::from("FROM a AS s0\n");
    for n in 0..1_500 {
        text.push_str(&["FROM s", &n.to_string(), " AS s", &(n + 1).to_string()].concat());
        text.push_str(&["\nCOPY --from=s", &n.to_string(), " / /\n"].concat());
    }
    assert!(build(&text, &[]).definition.vertices.len() > 1_500);
}

fn instruction() -> impl Strategy<Value = String> {
    let names = "(RUN|COPY|ADD|ENV|ARG|LABEL|WORKDIR|USER|CMD|EXPOSE|VOLUME|FROM|ONBUILD|STOPSIGNAL|HEALTHCHECK CMD|RUN --mount=|COPY --from=|FROM a AS)";
    proptest::string::string_regex(&format!(
        "{names} ?[-a-c0-2$={{}}:/., \"'\\\\\\[\\]<]{{0,14}}"
    ))
    .unwrap()
}

proptest! {
    #[test]
    fn no_dockerfile_panics(lines in prop::collection::vec(instruction(), 0..8)) {
        let text = format!("FROM a AS b\n{}\n", lines.join("\n"));
        drop(build_with(&text, &[], &Images::default()));
    }
}

#[test]
fn a_base_keeps_its_files_when_the_last_stage_that_continues_it_takes_its_settings() {
    let text = "FROM scratch AS a\nENV A=1\nARG B=2\nENV C=3\nWORKDIR /w\nRUN a\n\
        FROM a AS b\nRUN b\n\
        FROM a AS c\nENV A=4\nRUN c\nCOPY --from=a /x /y\nCOPY --from=b /x /y\n";
    let lowered = build(text, &[]);
    let commands = lowered.definition.vertices.iter().filter_map(|vertex| {
        let Op::Exec(exec) = &vertex.op else {
            return None;
        };
        let env = exec
            .meta
            .env
            .iter()
            .filter(|pair| !pair.starts_with("PATH="));
        let env: Vec<&str> = env.map(String::as_str).collect();
        Some((exec.meta.args[2].clone(), env.join(" ")))
    });
    let mut commands: Vec<(String, String)> = commands.collect();
    commands.sort();
    let want = [
        ("a", "A=1 B=2 C=3"),
        ("b", "B=2 A=1 C=3"),
        ("c", "B=2 C=3 A=4"),
    ];
    assert_eq!(
        commands,
        want.map(|(name, env)| (name.to_owned(), env.to_owned()))
    );
    let config: Value = serde_json::from_slice(&lowered.config).unwrap();
    assert_eq!(config["history"].as_array().unwrap().len(), 9);
    assert_eq!(config["config"]["WorkingDir"], "/w");
}

#[test]
fn only_so_many_unknown_names_come_with_a_suggestion() {
    let unknown: String = (0..150).map(|_| "LABEL a=$NAMF\n").collect();
    let text = format!("FROM scratch\nENV NAME=1\n{unknown}");
    let options = BuildOptions::parse(&OptionMap::new(), "s", &Platform::host()).unwrap();
    let request = Request {
        source: SourceInfo {
            data: text.into_bytes(),
            ..SourceInfo::default()
        },
        options: &options,
        context: MainContext::Local {
            name: "context".into(),
            ignore: Vec::new(),
        },
    };
    let found = futures::executor::block_on(lower(&request, &Images::default())).warnings;
    let suggests = |warning: &&Warning| warning.text.contains("did you mean $NAME?");
    assert_eq!(
        (found.len(), found.iter().filter(suggests).count()),
        (150, 100)
    );
}
