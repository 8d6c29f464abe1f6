//! Every Dockerfile below `corpus/` lowers to what BuildKit v0.33.1's own frontend makes of it: the same op digests in the
//! same order, the same image configuration, the same warnings or the same error. `golden.json` holds what that printed.
//! Only where upstream knows no lines for a vertex (images behind `RUN --mount=from=`), ours may.
//!
//! A case is a directory: `Dockerfile`, and where it needs them `dockerignore`, `opts.json`, `images.json`.

use async_trait::async_trait;
use serde_json::{Value, json};
use shipway_dockerfile::resolve::{ImageRequest, ResolvedImage};
use shipway_dockerfile::{BuildOptions, MainContext, MetaResolver, Request, lower};
use shipway_model::definition::SourceInfo;
use shipway_model::{Definition, Digest, Failure, Platform};
use std::collections::BTreeMap;
use std::path::Path;

struct Images(BTreeMap<String, Value>);

#[async_trait]
impl MetaResolver for Images {
    async fn image_config(&self, request: ImageRequest) -> Result<ResolvedImage, Failure> {
        let name = request.reference;
        if name.contains("missing") {
            return Err(Failure::new(format!("pull access denied for {name}")));
        }
        let digest = Digest::of(&name);
        let platform = request
            .platform
            .unwrap_or_else(|| Platform::new("linux", "amd64", ""));
        let default = json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["sh"]},
            "created": "2024-01-01T00:00:00Z",
            "rootfs": {"type": "layers", "diff_ids": [digest.to_string()]},
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "base"}],
        });
        let config = self
            .0
            .get(&name)
            .unwrap_or(&default)
            .to_string()
            .into_bytes();
        Ok(ResolvedImage {
            reference: name,
            digest: Some(digest),
            config,
            replaced: None,
        })
    }

    async fn read_file(&self, _: &Definition, _: &str) -> Result<Option<Vec<u8>>, Failure> {
        Ok(None)
    }

    async fn input(&self, _: &str) -> Result<Option<Definition>, Failure> {
        Ok(None)
    }

    async fn source_epoch(&self, _: &Definition, _: &str) -> Result<Option<i64>, Failure> {
        Ok(None)
    }
}

fn read<T: serde::de::DeserializeOwned + Default>(path: &Path) -> T {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).expect("JSON"),
        Err(_) => T::default(),
    }
}

/// What a case lowers to, in the form of the golden files.
fn run(case: &Path) -> Value {
    let raw: BTreeMap<String, String> = read(&case.join("opts.json"));
    let images = Images(read(&case.join("images.json")));
    let ignore = std::fs::read_to_string(case.join("dockerignore")).unwrap_or_default();
    let options = BuildOptions::parse(&raw, "sess", &Platform::new("linux", "amd64", ""));
    let options = match options {
        Ok(options) => options,
        Err(error) => return json!({"error": error.to_string()}),
    };
    let request = Request {
        source: SourceInfo {
            filename: "Dockerfile".into(),
            data: std::fs::read(case.join("Dockerfile")).expect("a case has a Dockerfile"),
            language: "Dockerfile".into(),
            definition: None,
        },
        options: &options,
        context: MainContext::Local {
            name: "context".into(),
            ignore: shipway_patterns::parse_ignore_file(&ignore),
        },
    };
    let outcome = futures::executor::block_on(lower(&request, &images));
    let warnings = outcome.warnings.iter().map(|warning| {
        json!({
            "text": warning.short(),
            "url": warning.rule.url(),
            "detail": warning.rule.description(),
            "lines": warning.lines.ranges().iter().map(|r| r.start_line).collect::<Vec<_>>(),
        })
    });
    let mut warnings: Vec<Value> = warnings.collect();
    warnings.sort_by_key(Value::to_string);
    match outcome.result {
        Err(error) => json!({"error": error.to_string(), "warnings": warnings}),
        Ok(built) => json!({
            "platforms": built.iter().map(platform).collect::<Vec<_>>(),
            "warnings": warnings,
        }),
    }
}

fn platform(built: &shipway_dockerfile::Lowered) -> Value {
    let definition = &built.definition;
    let vertices = definition.vertices.iter().map(|vertex| {
        let name = vertex
            .meta
            .description
            .get("llb.customname")
            .cloned()
            .unwrap_or_default();
        let group = vertex
            .meta
            .progress_group
            .as_ref()
            .map(|group| group.name.clone());
        let lines: Vec<i32> = definition
            .source_maps
            .locations
            .get(&vertex.digest)
            .into_iter()
            .flatten()
            .flat_map(|location| location.ranges.iter().map(|range| range.start_line))
            .collect();
        json!({
            "digest": vertex.digest.to_string(),
            "name": name,
            "group": group.unwrap_or_default(),
            "no_cache": vertex.meta.ignore_cache,
            "caps": vertex.meta.caps.keys().collect::<Vec<_>>(),
            "lines": lines,
        })
    });
    let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).expect("JSON is text");
    json!({
        "vertices": vertices.collect::<Vec<_>>(),
        "config": text(&built.config),
        "base": built.base_config.as_ref().map(text).unwrap_or_default(),
    })
}

#[test]
fn every_dockerfile_lowers_as_upstream_lowers_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut cases: Vec<_> = std::fs::read_dir(root)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    cases.sort();
    assert!(cases.len() > 30);
    let mut wrong = Vec::new();
    for case in &cases {
        let golden: Value = read(&case.join("golden.json"));
        let got = without_extra_lines(run(case), &golden);
        if got != golden {
            let name = case.file_name().unwrap().to_string_lossy().into_owned();
            let texts = [golden, got].map(|v| serde_json::to_string_pretty(&v).unwrap());
            let differs: Vec<String> = difference(&texts[0], &texts[1]);
            wrong.push(format!("{name}:\n{}", differs.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn without_extra_lines(mut got: Value, golden: &Value) -> Value {
    let places = got.get_mut("platforms").and_then(Value::as_array_mut);
    let places = places.into_iter().flatten().enumerate();
    for (platform, built) in places {
        let vertices = built["vertices"]
            .as_array_mut()
            .into_iter()
            .flatten()
            .enumerate();
        for (vertex, found) in vertices {
            if golden["platforms"][platform]["vertices"][vertex]["lines"] == json!([]) {
                found["lines"] = json!([]);
            }
        }
    }
    got
}

/// Lines in which two texts differ.
fn difference(want: &str, got: &str) -> Vec<String> {
    let (want, got): (Vec<_>, Vec<_>) = (want.lines().collect(), got.lines().collect());
    let line = |lines: &[&str], at: usize| lines.get(at).copied().unwrap_or_default().to_owned();
    (0..want.len().max(got.len()))
        .filter(|&at| line(&want, at) != line(&got, at))
        .map(|at| format!("- {}\n+ {}", line(&want, at), line(&got, at)))
        .take(12)
        .collect()
}
