//! Records of the history to wire messages, and the blobs of records in the forms that clients read: progress as
//! length-prefixed `StatusResponse`s, failures as `google.rpc.Status`. It decides nothing about what is kept.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use shipway_build::BlobFormat;
use shipway_history::{Event, EventKind, Outcome, Record, ResultRecord};
use shipway_model::progress;
use shipway_model::{Descriptor, Failure};
use shipway_proto::{control, rpc};

use crate::wire::failure;
use crate::wire::progress::{messages, timestamp};

/// The forms of blobs.
pub struct Format;

impl BlobFormat for Format {
    fn logs(&self, events: Vec<progress::Event>) -> Bytes {
        let mut bytes = BytesMut::new();
        for message in messages(events) {
            let length = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
            bytes.put_u32_le(length);
            bytes.put_slice(&message.encode_to_vec());
        }
        bytes.freeze()
    }

    fn failure(&self, failure: &Failure) -> (Outcome, Bytes) {
        let wire = failure::to_wire(failure);
        let outcome = Outcome {
            code: wire.code,
            message: wire.message.clone(),
        };
        (outcome, wire.encode_to_vec().into())
    }
}

/// The progress that a blob of [`Format::logs`] holds, as far as it can be read.
pub fn replay(mut bytes: Bytes) -> Vec<control::StatusResponse> {
    let mut messages = Vec::new();
    while bytes.len() >= 4 {
        let length = usize::try_from(bytes.get_u32_le()).unwrap_or(usize::MAX);
        if length > bytes.len() {
            break;
        }
        match control::StatusResponse::decode(bytes.split_to(length)) {
            Ok(message) => messages.push(message),
            Err(_) => break,
        }
    }
    messages
}

/// A change of the history on the wire.
#[must_use]
pub fn event(event: Event) -> control::BuildHistoryEvent {
    use control::BuildHistoryEventType as Type;
    let kind = match event.kind {
        EventKind::Started => Type::Started,
        EventKind::Complete => Type::Complete,
        EventKind::Deleted => {
            // Nothing is left but its name.
            let gone = control::BuildHistoryRecord {
                r#ref: event.record.id,
                ..Default::default()
            };
            return control::BuildHistoryEvent {
                r#type: Type::Deleted.into(),
                record: Some(gone),
            };
        }
    };
    control::BuildHistoryEvent {
        r#type: kind.into(),
        record: Some(record(event.record)),
    }
}

fn record(record: Record) -> control::BuildHistoryRecord {
    let exporters = record.exporters.into_iter().map(|e| control::Exporter {
        r#type: e.kind,
        attrs: e.attrs,
    });
    let results = record.results.into_iter();
    control::BuildHistoryRecord {
        r#ref: record.id,
        frontend: record.frontend,
        frontend_attrs: record.options,
        exporters: exporters.collect(),
        error: record.error.map(|error| rpc::Status {
            code: error.code,
            message: error.message,
            details: Vec::new(),
        }),
        created_at: Some(timestamp(record.created)),
        completed_at: record.completed.map(timestamp),
        logs: record.logs.map(descriptor),
        exporter_response: record.response,
        result: record.result.map(result),
        results: results.map(|(key, of)| (key, result(of))).collect(),
        generation: record.generation,
        trace: record.trace.map(descriptor),
        pinned: record.pinned,
        num_cached_steps: record.steps.cached,
        num_total_steps: record.steps.total,
        num_completed_steps: record.steps.completed,
        external_error: record.external_error.map(descriptor),
        num_warnings: record.steps.warnings,
    }
}

fn result(result: ResultRecord) -> control::BuildResultInfo {
    let exported = result.exported.into_iter();
    let results: std::collections::BTreeMap<i64, _> =
        exported.map(|(at, of)| (at, descriptor(of))).collect();
    control::BuildResultInfo {
        // Older clients know one result only.
        result_deprecated: results.values().next().cloned(),
        attestations: result.attestations.into_iter().map(descriptor).collect(),
        results,
    }
}

fn descriptor(of: Descriptor) -> control::Descriptor {
    control::Descriptor {
        media_type: of.media_type,
        digest: of.digest.to_string(),
        size: of.size.cast_signed(),
        annotations: of.annotations,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use shipway_model::Digest;

    use super::*;

    #[test]
    fn progress_comes_back_from_its_blob() {
        let log = |text: &'static str| {
            progress::Event::Log(progress::Log {
                vertex: Digest::of("v"),
                timestamp: Timestamp::UNIX_EPOCH,
                stream: 1,
                data: Bytes::from_static(text.as_bytes()),
            })
        };
        let bytes = Format.logs(vec![log("a"), log("b")]);
        let replayed = replay(bytes.clone());
        assert_eq!(replayed.len(), 1);
        assert_eq!(replayed[0].logs[1].msg, "b");
        assert!(replay(bytes.slice(..bytes.len() - 1)).is_empty());
    }

    #[test]
    fn a_failure_s_details_are_in_the_blob_only() {
        let failure = Failure::new("boom");
        let (outcome, bytes) = Format.failure(&failure);
        let status = rpc::Status::decode(bytes).unwrap();
        assert_eq!((outcome.code, outcome.message.as_str()), (2, "boom"));
        assert_eq!(status.message, "boom");
        assert!(!status.details.is_empty());
    }
}
