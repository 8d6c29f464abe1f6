//! Vertices of progress displays that are no operations: loading an image's metadata, exporting.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use shipway_layers::Report;
use shipway_model::progress::{Event, Sink, Status, VertexState};
use shipway_model::{Digest, Failure};

/// A vertex without an operation.
pub(crate) struct PseudoVertex {
    digest: Digest,
    name: Arc<str>,
    sink: Arc<dyn Sink>,
    started: Timestamp,
    parts: Mutex<HashMap<String, Timestamp>>,
}

impl PseudoVertex {
    /// Shows that it has started.
    pub(crate) fn start(digest: Digest, name: &str, sink: Arc<dyn Sink>) -> Arc<Self> {
        let vertex = Self {
            digest,
            name: name.into(),
            sink,
            started: Timestamp::now(),
            parts: Mutex::default(),
        };
        vertex.show(None, String::new());
        Arc::new(vertex)
    }

    /// Shows how it ended.
    pub(crate) fn end<T>(&self, outcome: &Result<T, Failure>) {
        let error = match outcome {
            Ok(_) => String::new(),
            Err(failure)
                if failure.is_cancelled() && !failure.message.ends_with("context canceled") =>
            {
                format!("{}: context canceled", failure.message)
            }
            Err(failure) => failure.message.to_string(),
        };
        self.show(Some(Timestamp::now()), error);
    }

    fn show(&self, completed: Option<Timestamp>, error: String) {
        self.sink.send(Event::Vertex(VertexState {
            digest: self.digest,
            inputs: Vec::new(),
            name: Arc::clone(&self.name),
            cached: false,
            started: Some(self.started),
            completed,
            error,
            progress_group: None,
        }));
    }
}

impl Report for PseudoVertex {
    fn part(&self, id: &str, name: &str, current: u64, total: u64, done: bool) {
        let now = Timestamp::now();
        let started = *self.parts.lock().entry(id.to_owned()).or_insert(now);
        self.sink.send(Event::Status(Status {
            id: id.to_owned(),
            vertex: self.digest,
            name: name.to_owned(),
            current: current.cast_signed(),
            total: total.cast_signed(),
            timestamp: now,
            started: Some(started),
            completed: done.then_some(now),
        }));
    }
}
