//! What a failed build tells its client beside a message: the step, the source lines, the exit code. It decides no wire
//! form; `api` turns it into status details.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::definition::SourceInfo;

/// Lines of a source file; lines and characters count from 1 and 0 as BuildKit's do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "a start and an end, each line and character")]
pub struct SourceRange {
    pub start_line: i32,
    pub start_character: i32,
    pub end_line: i32,
    pub end_character: i32,
}

impl SourceRange {
    /// Whole lines.
    #[must_use]
    pub const fn lines(start: i32, end: i32) -> Self {
        Self {
            start_line: start,
            start_character: 0,
            end_line: end,
            end_character: 0,
        }
    }
}

/// Something that lives as long as the failure that it belongs to; its type is its maker's business.
#[derive(Clone)]
pub struct Held(Arc<dyn Any + Send + Sync>);

impl Held {
    /// Holds nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self::new(())
    }

    /// Holds a value.
    #[must_use]
    pub fn new(value: impl Any + Send + Sync) -> Self {
        Self(Arc::new(value))
    }

    /// The value, if it is of this type.
    #[must_use]
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

impl PartialEq for Held {
    /// The same value, not an equal one.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Which part of an op is at fault: it decides what the ids beside it stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailedPart {
    /// The op as a whole; ids are those of its mounts.
    #[default]
    Whole,
    /// The action in this place of an op that changes files; ids are those of its inputs and of its actions.
    FileAction(usize),
    /// The content of the input in this place, of which no cache key could be made; the one id is that input's.
    Content(usize),
}

/// A structured fact about a failure.
#[derive(Debug, Clone, PartialEq)]
pub enum FailureDetail {
    /// The vertex that failed.
    Vertex(Digest),
    /// Where it stands in a source file.
    Source {
        /// The file.
        info: Arc<SourceInfo>,
        /// The lines.
        ranges: Vec<SourceRange>,
    },
    /// A process ended with this code.
    Exit(u32),
    /// The op that failed and the results that its inputs and mounts were, for debuggers.
    Solve {
        /// Ids of the results behind the op's mounts before it ran, or behind what else is at fault; empty for none.
        input_ids: Vec<String>,
        /// Ids of the results behind the op's mounts as it left them; empty for none.
        mount_ids: Vec<String>,
        /// Which part of the op is at fault.
        subject: FailedPart,
        /// The marshalled op.
        op: Arc<[u8]>,
        /// Description of the vertex.
        description: BTreeMap<String, String>,
        /// The results themselves.
        held: Held,
    },
    /// The frontend that failed.
    Frontend(String),
    /// A subrequest that the frontend does not know.
    UnsupportedSubrequest(String),
    /// A capability that the frontend lacks.
    UnsupportedFrontendCap(String),
    /// A client's own policy denied a source, for these reasons.
    Denied(Vec<String>),
    /// A detail as it came from a client or a frontend, handed on unread.
    Opaque {
        /// Type URL.
        type_url: String,
        /// Value.
        value: Vec<u8>,
    },
}

/// Class of a failure: decides the status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailureKind {
    /// Anything else.
    #[default]
    Unknown,
    /// Ended because somebody asked.
    Cancelled,
    /// The request itself is wrong.
    InvalidArgument,
    /// Something named does not exist.
    NotFound,
    /// Something to be made exists.
    AlreadyExists,
    /// The client or the registry does not allow it.
    PermissionDenied,
    /// Not built in.
    Unimplemented,
}

/// A build's failure: message, class and details. Cheap to clone, so that every waiter of a shared step gets it.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The whole message.
    pub message: Arc<str>,
    /// Class.
    pub kind: FailureKind,
    /// Facts, innermost first.
    pub details: Arc<[FailureDetail]>,
    /// Where in this program it was raised; `None` for one that a client reports. No part of its identity.
    pub raised: Option<&'static Location<'static>>,
}

impl PartialEq for Failure {
    fn eq(&self, other: &Self) -> bool {
        (&self.message, self.kind, &self.details) == (&other.message, other.kind, &other.details)
    }
}

impl Failure {
    /// A failure without details.
    #[must_use]
    #[track_caller]
    pub fn new(message: impl Into<Arc<str>>) -> Self {
        Self::of_kind(FailureKind::Unknown, message)
    }

    /// A failure of a class.
    #[must_use]
    #[track_caller]
    pub fn of_kind(kind: FailureKind, message: impl Into<Arc<str>>) -> Self {
        Self {
            message: message.into(),
            kind,
            details: Arc::new([]),
            raised: Some(Location::caller()),
        }
    }

    /// A failure from an error: its message and those of its causes, joined by `: ` unless a message already ends with it.
    #[must_use]
    #[track_caller]
    pub fn from_error(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            if let Some(failure) = error.downcast_ref::<Self>() {
                return failure.clone().within(message);
            }
            let text = error.to_string();
            if !message.ends_with(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        Self::new(message)
    }

    /// The same inside of something whose message may already end with this one's.
    fn within(mut self, outer: String) -> Self {
        self.message = if outer.ends_with(&*self.message) {
            outer.into()
        } else {
            format!("{outer}: {}", self.message).into()
        };
        self
    }

    /// The failure of a build that somebody ended.
    #[must_use]
    #[track_caller]
    pub fn cancelled() -> Self {
        Self::of_kind(FailureKind::Cancelled, "context canceled")
    }

    /// The same with `prefix: ` before its message.
    #[must_use]
    pub fn context(mut self, prefix: impl fmt::Display) -> Self {
        self.message = format!("{prefix}: {}", self.message).into();
        self
    }

    /// The same with one more detail.
    #[must_use]
    pub fn with(mut self, detail: FailureDetail) -> Self {
        self.details = self.details.iter().cloned().chain([detail]).collect();
        self
    }

    /// True where the build was ended on request.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.kind == FailureKind::Cancelled
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("reading x")]
    struct Reading(#[source] Failure);

    #[test]
    fn a_failure_inside_an_error_keeps_its_details() {
        let inner = Failure::new("gone").with(FailureDetail::Exit(3));
        let outer = Failure::from_error(&Reading(inner));
        assert_eq!(&*outer.message, "reading x: gone");
        assert_eq!(&*outer.details, [FailureDetail::Exit(3)]);
        let raised = outer.raised.map(Location::file);
        assert!(raised.is_some_and(|file| file.ends_with("failure.rs")));
        assert_eq!(Failure::new("x"), Failure::new("x"));
    }
}
