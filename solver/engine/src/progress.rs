//! Progress of a vertex, fanned out to every job that has it, and replayed to those that join late. It decides which
//! vertices a job shows as cached; it never decides wording or layout.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use shipway_model::Digest;
use shipway_model::progress::{Event, Log, Sink, Status, VertexState, Warning};

use crate::job::JobShared;

/// Bytes of logs that a late joiner still gets.
const REPLAYED_LOG: usize = 2 << 20;
/// Events other than logs that a late joiner still gets.
const REPLAYED_EVENTS: usize = 4096;

/// Progress of one vertex.
pub struct VertexProgress {
    digest: Digest,
    clock: fn() -> Timestamp,
    inner: Mutex<Inner>,
}

struct Inner {
    viewers: Vec<Arc<JobShared>>,
    state: VertexState,
    history: Vec<Event>,
    /// Where in `history` the last event of each part stands.
    parts: HashMap<String, usize>,
    log_bytes: usize,
}

impl VertexProgress {
    pub(crate) fn new(state: VertexState, clock: fn() -> Timestamp) -> Self {
        Self {
            digest: state.digest,
            clock,
            inner: Mutex::new(Inner {
                viewers: Vec::new(),
                state,
                history: Vec::new(),
                parts: HashMap::new(),
                log_bytes: 0,
            }),
        }
    }

    /// The vertex that this is the progress of.
    #[must_use]
    pub const fn vertex(&self) -> Digest {
        self.digest
    }

    /// The time that events of now carry.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Output of the step; stream 1 or 2.
    pub fn log(&self, stream: u8, data: Bytes) {
        let log = Log {
            vertex: self.digest,
            timestamp: self.now(),
            stream,
            data,
        };
        self.emit(&Event::Log(log));
    }

    /// State of a part, which replaces the earlier one with the same id.
    pub fn status(&self, status: Status) {
        self.emit(&Event::Status(status));
    }

    /// Advice.
    pub fn warn(&self, warning: Warning) {
        self.emit(&Event::Warning(Box::new(warning)));
    }

    /// Any event, also of another vertex that is part of this one.
    pub fn emit(&self, event: &Event) {
        let mut inner = self.lock();
        inner.remember(event);
        inner.show(event);
    }

    pub(crate) fn started(&self, cached: bool) {
        let now = self.now();
        self.change(|state| {
            state.started = Some(now);
            state.completed = None;
            state.cached = cached;
            state.error.clear();
        });
    }

    pub(crate) fn completed(&self, error: &str) {
        let now = self.now();
        self.change(|state| {
            state.started.get_or_insert(now);
            state.completed = Some(now);
            error.clone_into(&mut state.error);
        });
    }

    fn change(&self, change: impl FnOnce(&mut VertexState)) {
        let mut inner = self.lock();
        change(&mut inner.state);
        let event = Event::Vertex(inner.state.clone());
        inner.show(&event);
    }

    /// Shows this vertex to one more job, from its beginning.
    pub(crate) fn add_viewer(&self, job: &Arc<JobShared>) {
        let mut inner = self.lock();
        if inner.viewers.iter().any(|v| v.key == job.key) {
            return;
        }
        job.view.show(&Event::Vertex(inner.state.clone()));
        for event in &inner.history {
            job.view.show(event);
        }
        inner.viewers.push(Arc::clone(job));
    }

    pub(crate) fn remove_viewer(&self, job: &Arc<JobShared>) {
        self.lock().viewers.retain(|v| v.key != job.key);
    }

    pub(crate) fn sessions(&self) -> Vec<Arc<str>> {
        let inner = self.lock();
        let alive = inner.viewers.iter().filter(|job| !job.is_cancelled());
        let mut sessions: Vec<_> = alive.flat_map(|job| job.sessions.clone()).collect();
        let mut seen = HashSet::new();
        sessions.retain(|session| seen.insert(Arc::clone(session)));
        sessions
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn show(&self, event: &Event) {
        for job in &self.viewers {
            job.view.show(event);
        }
    }

    fn remember(&mut self, event: &Event) {
        match event {
            Event::Log(log) if self.log_bytes + log.data.len() > REPLAYED_LOG => return,
            Event::Log(log) => self.log_bytes += log.data.len(),
            Event::Status(status) => {
                if let Some(&at) = self.parts.get(&status.id) {
                    self.history[at] = event.clone();
                    return;
                }
                if self.history.len() >= REPLAYED_EVENTS {
                    return;
                }
                self.parts.insert(status.id.clone(), self.history.len());
            }
            Event::Vertex(_) | Event::Warning(_) if self.history.len() >= REPLAYED_EVENTS => return,
            Event::Vertex(_) | Event::Warning(_) => {}
        }
        self.history.push(event.clone());
    }
}

/// What one job is shown: the events of its vertices, and for vertices that never ran since what follows them did not
/// need it, that they were cached.
pub(crate) struct JobView {
    sink: Arc<dyn Sink>,
    state: Mutex<Shown>,
}

#[derive(Default)]
struct Shown {
    vertices: HashMap<Digest, VertexState>,
    closed: bool,
}

impl JobView {
    pub(crate) fn new(sink: Arc<dyn Sink>) -> Self {
        Self {
            sink,
            state: Mutex::default(),
        }
    }

    fn show(&self, event: &Event) {
        let mut shown = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.closed {
            return;
        }
        if let Event::Vertex(vertex) = event {
            for skipped in shown.passed_over(vertex) {
                self.sink.send(Event::Vertex(skipped));
            }
            shown.vertices.insert(vertex.digest, vertex.clone());
        }
        self.sink.send(event.clone());
    }

    /// Ends what is still open, as cancelled, and shows nothing from then on.
    pub(crate) fn close(&self, now: Timestamp) {
        let mut shown = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut shown.closed, true) {
            return;
        }
        for (_, mut vertex) in shown.vertices.drain() {
            if vertex.started.is_some() && vertex.completed.is_none() {
                vertex.completed = Some(now);
                "context canceled".clone_into(&mut vertex.error);
                self.sink.send(Event::Vertex(vertex));
            }
        }
    }
}

impl Shown {
    /// Vertices that were not needed for `consumer`, which starts now.
    fn passed_over(&mut self, consumer: &VertexState) -> Vec<VertexState> {
        let Some(started) = consumer.started else {
            return Vec::new();
        };
        let mut skipped = Vec::new();
        let mut inputs = consumer.inputs.clone();
        while let Some(input) = inputs.pop() {
            let Some(vertex) = self.vertices.get_mut(&input) else {
                continue;
            };
            if vertex.started.is_some() {
                continue;
            }
            vertex.cached = true;
            vertex.started = Some(started);
            vertex.completed = Some(started);
            inputs.extend_from_slice(&vertex.inputs);
            skipped.push(vertex.clone());
        }
        skipped
    }
}
