//! Events as lines of JSON, in the form that BuildKit's clients write and others read.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_types::Timestamp;
use serde::Serialize;
use shipway_proto::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use shipway_proto::pb;

use super::{Display, put};

/// One line per event.
pub(super) struct Lines<W> {
    to: W,
}

impl<W> Lines<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to }
    }
}

impl<W: Write + Send> Display for Lines<W> {
    fn update(&mut self, event: &StatusResponse) {
        let mut line = serde_json::to_string(&Event::from(event)).expect("events have a JSON form");
        line.push('\n');
        put(&mut self.to, &line);
    }

    fn repaint(&mut self) {}

    fn finish(&mut self) {}
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn zero(number: &i64) -> bool {
    *number == 0
}

#[derive(Serialize)]
struct Event<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vertexes: Vec<JsonVertex<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<JsonStatus<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logs: Vec<JsonLog<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<JsonWarning<'a>>,
}

#[derive(Serialize)]
struct JsonVertex<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    digest: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    inputs: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cached: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
    #[serde(rename = "progressGroup", skip_serializing_if = "Option::is_none")]
    group: Option<JsonGroup<'a>>,
}

#[derive(Serialize)]
struct JsonGroup<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    weak: bool,
}

#[derive(Serialize)]
struct JsonStatus<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    vertex: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "zero")]
    total: i64,
    current: i64,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
}

#[derive(Serialize)]
struct JsonLog<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    vertex: &'a str,
    #[serde(skip_serializing_if = "zero")]
    stream: i64,
    data: String,
    timestamp: String,
}

#[derive(Serialize)]
struct JsonWarning<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    vertex: &'a str,
    #[serde(skip_serializing_if = "zero")]
    level: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    short: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    detail: Vec<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    url: &'a str,
    #[serde(rename = "sourceInfo", skip_serializing_if = "Option::is_none")]
    source_info: Option<JsonSource<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    range: Vec<JsonRange>,
}

#[derive(Serialize)]
struct JsonSource<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    filename: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    data: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    language: &'a str,
}

#[derive(Serialize)]
struct JsonRange {
    start: JsonPosition,
    end: JsonPosition,
}

#[derive(Serialize)]
struct JsonPosition {
    #[serde(skip_serializing_if = "is_zero")]
    line: i32,
    #[serde(skip_serializing_if = "is_zero")]
    character: i32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// A time as RFC 3339 with as many digits as it needs.
pub(crate) fn time(time: &Timestamp) -> String {
    jiff::Timestamp::new(time.seconds, time.nanos)
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_string()
}

fn optional(at: Option<&Timestamp>) -> Option<String> {
    at.map(time)
}

fn required(at: Option<&Timestamp>) -> String {
    time(&at.copied().unwrap_or_default())
}

impl<'a> From<&'a StatusResponse> for Event<'a> {
    fn from(event: &'a StatusResponse) -> Self {
        Self {
            vertexes: event.vertexes.iter().map(Into::into).collect(),
            statuses: event.statuses.iter().map(Into::into).collect(),
            logs: event.logs.iter().map(Into::into).collect(),
            warnings: event.warnings.iter().map(Into::into).collect(),
        }
    }
}

impl<'a> From<&'a Vertex> for JsonVertex<'a> {
    fn from(vertex: &'a Vertex) -> Self {
        let group = vertex.progress_group.as_ref();
        Self {
            digest: &vertex.digest,
            inputs: &vertex.inputs,
            name: &vertex.name,
            started: optional(vertex.started.as_ref()),
            completed: optional(vertex.completed.as_ref()),
            cached: vertex.cached,
            error: &vertex.error,
            group: group.map(|group| JsonGroup {
                id: &group.id,
                name: &group.name,
                weak: group.weak,
            }),
        }
    }
}

impl<'a> From<&'a VertexStatus> for JsonStatus<'a> {
    fn from(status: &'a VertexStatus) -> Self {
        Self {
            id: &status.id,
            vertex: &status.vertex,
            name: &status.name,
            total: status.total,
            current: status.current,
            timestamp: required(status.timestamp.as_ref()),
            started: optional(status.started.as_ref()),
            completed: optional(status.completed.as_ref()),
        }
    }
}

impl<'a> From<&'a VertexLog> for JsonLog<'a> {
    fn from(log: &'a VertexLog) -> Self {
        Self {
            vertex: &log.vertex,
            stream: log.stream,
            data: STANDARD.encode(&log.msg),
            timestamp: required(log.timestamp.as_ref()),
        }
    }
}

impl<'a> From<&'a VertexWarning> for JsonWarning<'a> {
    fn from(warning: &'a VertexWarning) -> Self {
        let info = warning.info.as_ref();
        Self {
            vertex: &warning.vertex,
            level: warning.level,
            short: STANDARD.encode(&warning.short),
            detail: warning
                .detail
                .iter()
                .map(|line| STANDARD.encode(line))
                .collect(),
            url: &warning.url,
            source_info: info.map(|info| JsonSource {
                filename: &info.filename,
                data: STANDARD.encode(&info.data),
                language: &info.language,
            }),
            range: warning.ranges.iter().map(range).collect(),
        }
    }
}

fn range(range: &pb::Range) -> JsonRange {
    let position = |at: Option<&pb::Position>| {
        at.map_or(
            JsonPosition {
                line: 0,
                character: 0,
            },
            |at| JsonPosition {
                line: at.line,
                character: at.character,
            },
        )
    };
    JsonRange {
        start: position(range.start.as_ref()),
        end: position(range.end.as_ref()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_without_what_is_empty() {
        let at = Timestamp {
            seconds: 1_700_000_000,
            nanos: 120_000_000,
        };
        let event = StatusResponse {
            vertexes: vec![Vertex {
                digest: "sha256:a".into(),
                name: "n".into(),
                started: Some(at),
                ..Vertex::default()
            }],
            logs: vec![VertexLog {
                vertex: "sha256:a".into(),
                timestamp: Some(at),
                stream: 1,
                msg: "hi".into(),
            }],
            ..StatusResponse::default()
        };
        let mut out = Vec::new();
        Lines::new(&mut out).update(&event);
        let expected = concat!(
            r#"{"vertexes":[{"digest":"sha256:a","name":"n","started":"2023-11-14T22:13:20.12Z"}],"#,
            r#""logs":[{"vertex":"sha256:a","stream":1,"data":"aGk=","timestamp":"2023-11-14T22:13:20.12Z"}]}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
