//! What a case lowers to, in the form of the golden files. Shared by the corpus' test and the fuzzer; decides nothing.

use async_trait::async_trait;
use serde_json::{Value, json};
use shipway_dockerfile::lint::Warning;
use shipway_dockerfile::resolve::{ImageRequest, ResolvedImage};
use shipway_dockerfile::{
    BuildOptions, Error, MainContext, MetaResolver, Request, lower, subrequest,
};
use shipway_model::definition::SourceInfo;
use shipway_model::{Definition, Digest, Failure, Platform};
use std::collections::{BTreeMap, BTreeSet};

/// A Dockerfile and what surrounds it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Case {
    /// Its text.
    pub(crate) dockerfile: Vec<u8>,
    /// Text of the context's `.dockerignore`; empty for none.
    pub(crate) ignore: String,
    /// Options of the frontend.
    pub(crate) options: BTreeMap<String, String>,
    /// Configurations of images that differ from the others.
    pub(crate) images: BTreeMap<String, Value>,
}

/// Every image exists, unless its name says `missing`, and has the same configuration, unless the case says another.
struct Images<'a>(&'a Case);

#[async_trait]
impl MetaResolver for Images<'_> {
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
            .images
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
        let ignore = self.0.ignore.clone().into_bytes();
        Ok((!ignore.is_empty()).then_some(ignore))
    }

    async fn input(&self, _: &str) -> Result<Option<Definition>, Failure> {
        Ok(None)
    }

    async fn source_epoch(&self, _: &Definition, _: &str) -> Result<Option<i64>, Failure> {
        Ok(None)
    }
}

/// What it lowers to.
pub(crate) fn run(case: &Case) -> Value {
    let options = BuildOptions::parse(&case.options, "sess", &Platform::new("linux", "amd64", ""));
    let options = match options {
        Ok(options) => options,
        Err(error) => return json!({"error": error.to_string(), "error_lines": [], "warnings": []}),
    };
    let request = Request {
        source: SourceInfo {
            filename: "Dockerfile".into(),
            data: case.dockerfile.clone(),
            language: "Dockerfile".into(),
            definition: None,
        },
        options: &options,
        context: MainContext::Local {
            name: "context".into(),
            ignore: shipway_patterns::parse_ignore_file(&case.ignore),
        },
    };
    if let Some(wanted) = case.options.get("requestid") {
        return match answer(wanted, &request, &Images(case)) {
            Ok(found) => json!({"answer": in_words(found)}),
            Err(error) => failure(&error, &[]),
        };
    }
    let outcome = futures::executor::block_on(lower(&request, &Images(case)));
    match outcome.result {
        Err(error) => failure(&error, &outcome.warnings),
        Ok(built) => json!({
            "platforms": built.iter().map(platform).collect::<Vec<_>>(),
            "warnings": warnings(&outcome.warnings),
        }),
    }
}

fn answer(
    wanted: &str,
    request: &Request<'_>,
    images: &Images<'_>,
) -> Result<subrequest::Answer, Error> {
    let source = &request.source;
    Ok(match wanted {
        subrequest::OUTLINE => {
            let outcome = futures::executor::block_on(lower::outline(request, images));
            subrequest::outline(&outcome.result?, source)
        }
        subrequest::LINT => {
            let outcome = futures::executor::block_on(lower::lint(request, images));
            subrequest::lint(&outcome, source)
        }
        subrequest::CONVERT => {
            let outcome = futures::executor::block_on(lower::convert(request, images));
            subrequest::convert(&outcome.result?.definition)
        }
        subrequest::TARGETS => subrequest::targets(source)?,
        _ => subrequest::describe(),
    })
}

/// An answer with its JSON read, as the order of members means nothing, without the random names of groups.
fn in_words(answer: subrequest::Answer) -> BTreeMap<String, Value> {
    let read = |(key, bytes): (String, Vec<u8>)| {
        let text = String::from_utf8(bytes).expect("answers are text");
        let value = match key.as_str() {
            "result.json" => without_group_ids(serde_json::from_str(&text).expect("JSON")),
            _ => Value::String(text),
        };
        (key, value)
    };
    answer.into_iter().map(read).collect()
}

fn without_group_ids(mut answer: Value) -> Value {
    let known = answer.get_mut("metadata").and_then(Value::as_object_mut);
    for op in known.into_iter().flat_map(|known| known.values_mut()) {
        if let Some(group) = op.get_mut("progress_group").and_then(Value::as_object_mut) {
            group.remove("id");
        }
    }
    answer
}

fn failure(error: &Error, found: &[Warning]) -> Value {
    let lines = error.locations.iter().map(|place| {
        let ranges = place.ranges().into_iter();
        ranges.map(|range| range.start_line).collect::<Vec<_>>()
    });
    json!({
        "error": error.to_string(),
        "error_lines": lines.collect::<Vec<_>>(),
        "warnings": warnings(found),
    })
}

fn warnings(found: &[Warning]) -> Vec<Value> {
    let mut found: Vec<_> = found
        .iter()
        .map(|warning| {
            let ranges = warning.lines.ranges();
            let lines: Vec<i32> = ranges.iter().map(|range| range.start_line).collect();
            let rule = warning.rule;
            (warning.short(), rule.url(), rule.description(), lines)
        })
        .collect();
    found.sort();
    let value = |(text, url, detail, lines)| json!({"text": text, "url": url, "detail": detail, "lines": lines});
    found.into_iter().map(value).collect()
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

/// Takes the lines off vertices and errors for which upstream knows none (images behind `RUN --mount=from=`, stages that
/// `COPY --from` can't name): ours may.
pub(crate) fn without_extra_lines(mut got: Value, golden: &Value) -> Value {
    if golden["error_lines"] == json!([]) && got["error_lines"].is_array() {
        got["error_lines"] = json!([]);
    }
    let places = got.get_mut("platforms").and_then(Value::as_array_mut);
    let places = places.into_iter().flatten().enumerate();
    for (platform, built) in places {
        let vertices = built["vertices"].as_array_mut();
        for (vertex, found) in vertices.into_iter().flatten().enumerate() {
            let known = &golden["platforms"][platform]["vertices"][vertex]["lines"];
            let (known, had) = (known.as_array(), found["lines"].as_array_mut());
            if let (Some(known), Some(had)) = (known, had)
                && had.starts_with(known)
            {
                had.truncate(known.len());
            }
        }
    }
    got
}

/// Where two outcomes differ, at most a dozen places.
pub(crate) fn difference(want: &Value, got: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare(want, got, "", &mut found);
    found.truncate(12);
    found
}

fn compare(want: &Value, got: &Value, place: &str, found: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(wanted), Value::Object(had)) => {
            let keys: BTreeSet<&String> = wanted.keys().chain(had.keys()).collect();
            for key in keys {
                compare(&want[key], &got[key], &format!("{place}/{key}"), found);
            }
        }
        (Value::Array(wanted), Value::Array(had)) => {
            for at in 0..wanted.len().max(had.len()) {
                compare(&want[at], &got[at], &format!("{place}/{at}"), found);
            }
        }
        _ if want != got => found.push(format!("{place}:\n- {want}\n+ {got}")),
        _ => {}
    }
}
