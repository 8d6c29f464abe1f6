//! Progress events: what a build tells about its vertices while it runs. It decides no display.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use crate::definition::{ProgressGroup, SourceInfo};
use crate::{Digest, SourceRange};

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A vertex's state; replaces the one before.
    Vertex(VertexState),
    /// Part of a vertex, such as a download.
    Status(Status),
    /// Output of a step.
    Log(Log),
    /// Advice.
    Warning(Box<Warning>),
}

/// State of a vertex.
#[derive(Debug, Clone, PartialEq)]
pub struct VertexState {
    /// Identity in displays.
    pub digest: Digest,
    /// Digests of its inputs.
    pub inputs: Vec<Digest>,
    /// Text to show.
    pub name: Arc<str>,
    /// Answered by the cache.
    pub cached: bool,
    /// When it started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub completed: Option<Timestamp>,
    /// Why it failed; empty where it did not.
    pub error: String,
    /// Group.
    pub progress_group: Option<ProgressGroup>,
}

/// State of a part of a vertex.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Identity within the vertex, and the text to show.
    pub id: String,
    /// The vertex.
    pub vertex: Digest,
    /// Kind of the part, such as `transferring`.
    pub name: String,
    /// Done so far, in bytes where it is a transfer.
    pub current: i64,
    /// In all; 0 where unknown.
    pub total: i64,
    /// When this was so.
    pub timestamp: Timestamp,
    /// When it started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub completed: Option<Timestamp>,
}

/// Output of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// The vertex.
    pub vertex: Digest,
    /// When.
    pub timestamp: Timestamp,
    /// 1 or 2.
    pub stream: u8,
    /// Raw bytes.
    pub data: Bytes,
}

/// Advice about a vertex.
#[derive(Debug, Clone, PartialEq)]
pub struct Warning {
    /// The vertex.
    pub vertex: Digest,
    /// Importance; 1 is what a linter says.
    pub level: i32,
    /// One line.
    pub short: String,
    /// More lines.
    pub detail: Vec<String>,
    /// Where to read more.
    pub url: String,
    /// The source file.
    pub info: Option<Arc<SourceInfo>>,
    /// Its lines.
    pub ranges: Vec<SourceRange>,
}

/// Takes events, in order, without blocking.
pub trait Sink: Send + Sync {
    /// Takes one event.
    fn send(&self, event: Event);
}
