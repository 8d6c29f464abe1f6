//! Progress events to `StatusResponse` messages. One message holds a batch; step output in one is bounded.

use jiff::Timestamp;
use shipway_model::SourceRange;
use shipway_model::definition::{ProgressGroup, SourceInfo};
use shipway_model::progress::{Event, Log, Status, VertexState, Warning};
use shipway_proto::{control, pb};

/// Most bytes of step output in one message.
const LOG_BATCH: usize = 1 << 20;

/// The messages for a batch of events, in order.
#[must_use]
pub fn messages(events: Vec<Event>) -> Vec<control::StatusResponse> {
    let mut done = Vec::new();
    let mut message = control::StatusResponse::default();
    let mut log_bytes = 0;
    for event in events {
        match event {
            Event::Vertex(state) => message.vertexes.push(vertex(state)),
            Event::Status(state) => message.statuses.push(status(state)),
            Event::Warning(text) => message.warnings.push(warning(*text)),
            Event::Log(line) => {
                log_bytes += line.data.len();
                message.logs.push(log(line));
            }
        }
        if log_bytes >= LOG_BATCH {
            done.push(std::mem::take(&mut message));
            log_bytes = 0;
        }
    }
    if message != control::StatusResponse::default() {
        done.push(message);
    }
    done
}

/// A point in time on the wire.
#[must_use]
pub fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.as_second(),
        nanos: at.subsec_nanosecond(),
    }
}

fn vertex(state: VertexState) -> control::Vertex {
    control::Vertex {
        digest: state.digest.to_string(),
        inputs: state.inputs.iter().map(ToString::to_string).collect(),
        name: state.name.to_string(),
        cached: state.cached,
        started: state.started.map(timestamp),
        completed: state.completed.map(timestamp),
        error: state.error,
        progress_group: state.progress_group.map(group),
    }
}

fn group(group: ProgressGroup) -> pb::ProgressGroup {
    pb::ProgressGroup {
        id: group.id,
        name: group.name,
        weak: group.weak,
    }
}

fn status(state: Status) -> control::VertexStatus {
    control::VertexStatus {
        id: state.id,
        vertex: state.vertex.to_string(),
        name: state.name,
        current: state.current,
        total: state.total,
        timestamp: Some(timestamp(state.timestamp)),
        started: state.started.map(timestamp),
        completed: state.completed.map(timestamp),
    }
}

fn log(line: Log) -> control::VertexLog {
    control::VertexLog {
        vertex: line.vertex.to_string(),
        timestamp: Some(timestamp(line.timestamp)),
        stream: line.stream.into(),
        msg: line.data,
    }
}

fn warning(warning: Warning) -> control::VertexWarning {
    control::VertexWarning {
        vertex: warning.vertex.to_string(),
        level: warning.level.into(),
        short: warning.short.into(),
        detail: warning.detail.into_iter().map(Into::into).collect(),
        url: warning.url,
        info: warning.info.map(|info| source_info(&info)),
        ranges: warning.ranges.iter().map(range).collect(),
    }
}

/// A source file on the wire.
#[must_use]
pub fn source_info(info: &SourceInfo) -> pb::SourceInfo {
    pb::SourceInfo {
        filename: info.filename.clone(),
        data: info.data.clone().into(),
        definition: None,
        language: info.language.clone(),
    }
}

/// A range on the wire.
#[must_use]
pub fn range(range: &SourceRange) -> pb::Range {
    let position = |line, character| Some(pb::Position { line, character });
    pb::Range {
        start: position(range.start_line, range.start_character),
        end: position(range.end_line, range.end_character),
    }
}

/// A range from the wire; missing ends are line 0.
#[must_use]
pub fn range_from(range: &pb::Range) -> SourceRange {
    let start = range.start.unwrap_or_default();
    let end = range.end.unwrap_or_default();
    SourceRange {
        start_line: start.line,
        start_character: start.character,
        end_line: end.line,
        end_character: end.character,
    }
}

#[cfg(test)]
mod tests {
    use shipway_model::Digest;

    use super::*;

    #[test]
    fn much_output_is_cut_into_several_messages() {
        let line = Log {
            vertex: Digest::of("v"),
            timestamp: Timestamp::UNIX_EPOCH,
            stream: 2,
            data: vec![b'x'; LOG_BATCH].into(),
        };
        let messages = messages(vec![Event::Log(line.clone()), Event::Log(line)]);
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0].logs[0].stream, 2);
    }

    #[test]
    fn no_events_are_no_message() {
        assert!(messages(Vec::new()).is_empty());
    }
}
