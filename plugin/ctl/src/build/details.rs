//! What a failed call says besides its text: the lines at fault. Reads both forms that details come in, JSON under a type
//! URL that ends in `+json`, and plain protobuf; passes over what it doesn't know.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use serde::Deserialize;
use shipway_proto::{errdefs, pb, rpc};
use tonic::Status;

/// The lines at fault of every source that the status names, ready to print.
pub(crate) fn snippets(status: &Status) -> Vec<String> {
    let Ok(status) = rpc::Status::decode(status.details()) else {
        return Vec::new();
    };
    status
        .details
        .iter()
        .filter_map(source)
        .filter_map(|source| snippet(&source))
        .collect()
}

fn source(detail: &prost_types::Any) -> Option<errdefs::Source> {
    let name = detail.type_url.rsplit('/').next().unwrap_or_default();
    match name {
        "errdefs.Source+json" => serde_json::from_slice::<JsonSource>(&detail.value)
            .ok()
            .map(Into::into),
        "errdefs.Source" => errdefs::Source::decode(detail.value.as_slice()).ok(),
        _ => None,
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct JsonSource {
    info: JsonInfo,
    ranges: Vec<JsonRange>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct JsonInfo {
    filename: String,
    data: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct JsonRange {
    start: JsonPosition,
    end: JsonPosition,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct JsonPosition {
    line: i32,
    character: i32,
}

impl From<JsonSource> for errdefs::Source {
    fn from(json: JsonSource) -> Self {
        let position = |p: JsonPosition| {
            Some(pb::Position {
                line: p.line,
                character: p.character,
            })
        };
        let info = pb::SourceInfo {
            filename: json.info.filename,
            data: STANDARD.decode(json.info.data).unwrap_or_default().into(),
            ..pb::SourceInfo::default()
        };
        let ranges = json
            .ranges
            .into_iter()
            .map(|r| pb::Range {
                start: position(r.start),
                end: position(r.end),
            })
            .collect();
        Self {
            info: Some(info),
            ranges,
        }
    }
}

/// First and last line of a range.
fn lines_of(range: &pb::Range) -> (i32, i32) {
    let start = range.start.as_ref().map_or(0, |position| position.line);
    let end = range.end.as_ref().map_or(0, |position| position.line);
    (start, end.max(start))
}

fn snippet(source: &errdefs::Source) -> Option<String> {
    use std::fmt::Write as _;
    let info = source.info.as_ref()?;
    let ranges: Vec<_> = source.ranges.iter().map(lines_of).collect();
    let text = String::from_utf8_lossy(&info.data);
    let lines: Vec<&str> = text.split('\n').collect();
    let count = i32::try_from(lines.len()).ok()?;
    let first = ranges.iter().map(|range| range.0).min()?;
    let last = ranges.iter().map(|range| range.1).max()?.min(count);
    if first < 1 || first > count {
        return None;
    }
    let (from, to) = widen(first, last, count);
    let mut out = format!("{}:{first}\n--------------------\n", info.filename);
    for number in from..=to {
        let hit = ranges
            .iter()
            .any(|(start, end)| (*start..=*end).contains(&number));
        let mark = if hit { ">>>" } else { "   " };
        let line = lines[usize::try_from(number - 1).ok()?];
        writeln!(out, " {number:3} | {mark} {line}").expect("a String takes everything");
    }
    out.push_str("--------------------\n");
    Some(out)
}

/// Adds lines around the fault, alternating, until there is enough to see where it is.
fn widen(first: i32, last: i32, count: i32) -> (i32, i32) {
    let wanted = if first == last { 4 } else { 2 };
    let (mut from, mut to, mut added) = (first, last, 0);
    while added < wanted {
        if from > 1 {
            from -= 1;
            added += 1;
        }
        if to != count {
            to += 1;
            added += 1;
        }
        added += 1;
    }
    (from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(type_url: &str, value: Vec<u8>) -> Status {
        let any = prost_types::Any {
            type_url: type_url.into(),
            value,
        };
        let details = rpc::Status {
            code: 2,
            message: "m".into(),
            details: vec![any],
        };
        Status::with_details(tonic::Code::Unknown, "m", details.encode_to_vec().into())
    }

    const EXPECTED: &str = "Dockerfile:2\n--------------------\n   1 |     FROM x\n   \
        2 | >>> RUN false\n   3 |     RUN true\n   4 |     \n--------------------\n";

    #[test]
    fn both_forms_show_the_line() {
        let data = STANDARD.encode("FROM x\nRUN false\nRUN true\n");
        let json = format!(
            r#"{{"info":{{"filename":"Dockerfile","data":"{data}","definition":{{}}}},
                "ranges":[{{"start":{{"line":2}},"end":{{"line":2}}}}]}}"#
        );
        let from_json = status(
            "github.com/moby/buildkit/errdefs.Source+json",
            json.clone().into(),
        );
        assert_eq!(snippets(&from_json), [EXPECTED]);

        let source: errdefs::Source = serde_json::from_str::<JsonSource>(&json).unwrap().into();
        let from_proto = status("type.googleapis.com/errdefs.Source", source.encode_to_vec());
        assert_eq!(snippets(&from_proto), [EXPECTED]);

        let unknown = status("github.com/moby/buildkit/stack.Stack+json", b"{}".to_vec());
        assert!(snippets(&unknown).is_empty());
    }
}
