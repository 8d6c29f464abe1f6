//! A build's trace: one span for the build, one for each time that a step ran, and those that its client sends. In the form
//! of Go's SpanStub, one JSON object per line, which BuildKit's clients read. Pure: times and ids come from the events.

use std::collections::HashMap;
use std::fmt::{self, Write as _};

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use shipway_model::Digest;
use shipway_model::progress::{Event, VertexState};

use crate::Record;

/// Most spans of its client that a build keeps.
pub(crate) const MOST: usize = 4096;

/// Where a build stands in its client's trace: W3C's `traceparent`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace: [u8; 16],
    span: [u8; 8],
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", hex(&self.trace), hex(&self.span))
    }
}

impl TraceParent {
    /// Reads a header; `None` where it is not one of a real trace.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let (_version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
        let parent = Self {
            trace: unhex(trace)?,
            span: unhex(span)?,
        };
        (parent.trace != [0; 16]).then_some(parent)
    }

    /// Id of the trace, in hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        hex(&self.trace)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all that is written to it");
        text
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// Id of the trace of a build: its client's, else one of its own.
pub(crate) fn trace_id(record: &Record, parent: Option<TraceParent>) -> String {
    parent.map_or_else(
        || {
            let own = Digest::of(format!(
                "{} {} {}",
                record.namespace, record.id, record.created
            ));
            own.hex()[..32].to_owned()
        },
        |parent| parent.trace_id(),
    )
}

/// The trace's blob; `client` are its client's spans.
pub(crate) fn encode(
    record: &Record,
    parent: Option<TraceParent>,
    events: &[Event],
    client: Vec<Value>,
) -> Bytes {
    let trace = trace_id(record, parent);
    let id = |what: &str| Digest::of(format!("{trace} {what}")).hex()[..16].to_owned();
    let root = id("build");
    let end = record.completed.unwrap_or(record.created);
    let above = parent.map_or_else(|| "0".repeat(16), |parent| hex(&parent.span));
    let failed = record.error.as_ref().map_or("", |error| &error.message);
    let mut spans = vec![
        Span {
            name: "moby.buildkit.v1.Control/Solve",
            id: &root,
            above: &above,
            between: (record.created, end),
            failed,
            attributes: vec![("ref", &record.id), ("frontend", &record.frontend)],
        }
        .json(&trace),
    ];
    for (at, vertex) in runs(events).into_iter().enumerate() {
        let digest = vertex.digest.to_string();
        let cached = vertex.cached.to_string();
        let (Some(started), completed) = (vertex.started, vertex.completed.unwrap_or(end)) else {
            continue;
        };
        let span = Span {
            name: &vertex.name,
            id: &id(&format!("{at} {digest}")),
            above: &root,
            between: (started, completed),
            failed: &vertex.error,
            attributes: vec![("vertex", &digest), ("cached", &cached)],
        };
        spans.push(span.json(&trace));
    }
    spans.extend(client);
    let lines: Vec<String> = spans.iter().map(|span| format!("{span}\n")).collect();
    lines.concat().into()
}

/// Every time that a step ran, in the order of their ends: a step may run twice, for its key and for its result.
fn runs(events: &[Event]) -> Vec<&VertexState> {
    let mut ended = Vec::new();
    let mut open: HashMap<Digest, &VertexState> = HashMap::new();
    for event in events {
        let Event::Vertex(vertex) = event else {
            continue;
        };
        match (vertex.started, vertex.completed) {
            (Some(_), Some(_)) => {
                open.remove(&vertex.digest);
                ended.push(vertex);
            }
            (Some(_), None) => {
                open.insert(vertex.digest, vertex);
            }
            (None, _) => {}
        }
    }
    let mut cut_short: Vec<&VertexState> = open.into_values().collect();
    cut_short.sort_by_key(|vertex| vertex.started);
    ended.extend(cut_short);
    ended
}

struct Span<'a> {
    name: &'a str,
    id: &'a str,
    above: &'a str,
    between: (Timestamp, Timestamp),
    failed: &'a str,
    attributes: Vec<(&'a str, &'a str)>,
}

impl Span<'_> {
    fn json(&self, trace: &str) -> Value {
        let text = |(key, value): &(&str, &str)| json!({"Key": key, "Value": {"Type": "STRING", "Value": value}});
        let attributes: Vec<Value> = self.attributes.iter().map(text).collect();
        let code = if self.failed.is_empty() {
            "Unset"
        } else {
            "Error"
        };
        json!({
            "Name": self.name,
            "SpanContext": context(trace, self.id),
            "Parent": context(trace, self.above),
            "SpanKind": 1,
            "StartTime": self.between.0.to_string(),
            "EndTime": self.between.1.to_string(),
            "Attributes": attributes,
            "Events": null,
            "Links": null,
            "Status": {"Code": code, "Description": self.failed},
            "DroppedAttributes": 0,
            "DroppedEvents": 0,
            "DroppedLinks": 0,
            "ChildSpanCount": 0,
            "Resource": [text(&("service.name", "shipwayd"))],
            "InstrumentationLibrary": {"Name": "", "Version": "", "SchemaURL": ""},
        })
    }
}

fn context(trace: &str, span: &str) -> Value {
    json!({
        "TraceID": trace,
        "SpanID": span,
        "TraceFlags": "01",
        "TraceState": "",
        "Remote": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_parent_is_read_and_nonsense_is_not() {
        let parent = TraceParent::parse(HEADER).unwrap();
        assert_eq!(parent.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        for header in ["", "00-0af7-b7-01", "00-x-y-z"] {
            assert_eq!(TraceParent::parse(header), None, "{header}");
        }
    }

    #[test]
    fn each_run_of_a_step_is_a_span_below_the_build() {
        let at = |second| Timestamp::from_second(second).ok();
        let state = |started, completed| {
            Event::Vertex(VertexState {
                digest: Digest::of("v"),
                inputs: Vec::new(),
                name: "step".into(),
                cached: false,
                started,
                completed,
                error: String::new(),
                progress_group: None,
            })
        };
        let record = Record::begun("a", "n", Timestamp::UNIX_EPOCH);
        let events = [
            state(None, None),
            state(at(1), None),
            state(at(1), at(2)),
            state(at(3), None),
        ];
        let bytes = encode(
            &record,
            TraceParent::parse(HEADER),
            &events,
            vec![json!({})],
        );
        let lines: Vec<Value> = std::str::from_utf8(&bytes)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0]["Parent"]["SpanID"], "b7ad6b7169203331");
        assert_eq!(lines[1]["EndTime"], "1970-01-01T00:00:02Z");
        assert_eq!(lines[2]["StartTime"], "1970-01-01T00:00:03Z");
        assert_eq!(lines[2]["Parent"], lines[0]["SpanContext"]);
    }
}
