//! Spans that clients export to the form that traces of builds are kept in: Go's SpanStub as JSON. Keeps what a reader of
//! a trace looks at; links and states are left out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Value, json};
use shipway_proto::trace as wire;

/// All spans of an export, by trace.
#[must_use]
pub fn by_trace(request: wire::ExportTraceServiceRequest) -> BTreeMap<String, Vec<Value>> {
    let mut traces: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for group in request.resource_spans {
        let resource = attributes(&group.resource.unwrap_or_default().attributes);
        for scoped in group.scope_spans {
            let library = scoped.scope.unwrap_or_default();
            let library =
                json!({"Name": library.name, "Version": library.version, "SchemaURL": ""});
            for span in &scoped.spans {
                let json = stub(span, &resource, &library);
                traces.entry(hex(&span.trace_id)).or_default().push(json);
            }
        }
    }
    traces
}

fn stub(span: &wire::Span, resource: &Value, library: &Value) -> Value {
    let status = span.status.clone().unwrap_or_default();
    let code = ["Unset", "Ok", "Error"];
    let code = usize::try_from(status.code)
        .ok()
        .and_then(|at| code.get(at));
    let events: Vec<Value> = span.events.iter().map(event).collect();
    json!({
        "Name": span.name,
        "SpanContext": context(&span.trace_id, &span.span_id),
        "Parent": context(&span.trace_id, &span.parent_span_id),
        "SpanKind": span.kind,
        "StartTime": time(span.start_time_unix_nano),
        "EndTime": time(span.end_time_unix_nano),
        "Attributes": attributes(&span.attributes),
        "Events": events,
        "Links": null,
        "Status": {"Code": code.unwrap_or(&"Unset"), "Description": status.message},
        "DroppedAttributes": span.dropped_attributes_count,
        "DroppedEvents": span.dropped_events_count,
        "DroppedLinks": 0,
        "ChildSpanCount": 0,
        "Resource": resource,
        "InstrumentationLibrary": library,
    })
}

fn event(event: &wire::span::Event) -> Value {
    json!({
        "Name": event.name,
        "Attributes": attributes(&event.attributes),
        "DroppedAttributeCount": 0,
        "Time": time(event.time_unix_nano),
    })
}

fn context(trace: &[u8], span: &[u8]) -> Value {
    let span = if span.is_empty() {
        "0".repeat(16)
    } else {
        hex(span)
    };
    json!({
        "TraceID": hex(trace),
        "SpanID": span,
        "TraceFlags": "01",
        "TraceState": "",
        "Remote": false,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all that is written to it");
        text
    })
}

fn time(nanoseconds: u64) -> String {
    let at = Timestamp::from_nanosecond(nanoseconds.into());
    at.unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

fn attributes(all: &[wire::KeyValue]) -> Value {
    let known = all.iter().filter_map(|attribute| {
        let value = value(attribute.value.as_ref()?)?;
        Some(json!({"Key": attribute.key, "Value": value}))
    });
    Value::Array(known.collect())
}

fn value(value: &wire::AnyValue) -> Option<Value> {
    use wire::any_value::Value as Kind;
    Some(match value.value.as_ref()? {
        Kind::StringValue(text) => json!({"Type": "STRING", "Value": text}),
        Kind::BoolValue(truth) => json!({"Type": "BOOL", "Value": truth}),
        Kind::IntValue(number) => json!({"Type": "INT64", "Value": number}),
        Kind::DoubleValue(number) => json!({"Type": "FLOAT64", "Value": number}),
        Kind::ArrayValue(list) => {
            let texts: Option<Vec<&String>> = list.values.iter().map(text).collect();
            json!({"Type": "STRINGSLICE", "Value": texts?})
        }
    })
}

/// A list is kept where all of it is text, as command lines are.
fn text(value: &wire::AnyValue) -> Option<&String> {
    match value.value.as_ref()? {
        wire::any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_come_by_their_trace_with_what_they_say() {
        let text = |text: &str| wire::AnyValue {
            value: Some(wire::any_value::Value::StringValue(text.into())),
        };
        let span = wire::Span {
            trace_id: vec![1; 16].into(),
            span_id: vec![2; 8].into(),
            name: "solve".into(),
            start_time_unix_nano: 1_000_000_000,
            attributes: vec![wire::KeyValue {
                key: "k".into(),
                value: Some(text("v")),
            }],
            ..Default::default()
        };
        let scoped = wire::ScopeSpans {
            spans: vec![span],
            ..Default::default()
        };
        let group = wire::ResourceSpans {
            scope_spans: vec![scoped],
            ..Default::default()
        };
        let request = wire::ExportTraceServiceRequest {
            resource_spans: vec![group],
        };
        let traces = by_trace(request);
        let spans = &traces[&"01".repeat(16)];
        assert_eq!(spans[0]["Parent"]["SpanID"], "0".repeat(16));
        assert_eq!(spans[0]["StartTime"], "1970-01-01T00:00:01Z");
        assert_eq!(spans[0]["Attributes"][0]["Value"]["Value"], "v");
    }
}
