//! Names every reason for which a step's specification is refused. It never decides what happens then.

use std::path::PathBuf;

/// Why the value of an `Any` is not a step that can be started.
#[derive(Debug, thiserror::Error)]
pub enum InvalidStep {
    /// The `Any` is of another type.
    #[error("a step's specification has type {expected}, not {found:?}")]
    TypeUrl {
        /// The type URL of steps.
        expected: &'static str,
        /// The type URL that came.
        found: String,
    },
    /// The value is not the JSON of a step.
    #[error("reading a step's specification")]
    Json(#[from] serde_json::Error),
    /// The OCI specification has no process.
    #[error("a step's specification has no process")]
    NoProcess,
    /// The process has no arguments.
    #[error("a step's process has no arguments")]
    NoArguments,
    /// A path that has to be absolute is not.
    #[error("{what} {path:?} is not an absolute path")]
    NotAbsolute {
        /// What the path is for.
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A path climbs out with `..`.
    #[error("{what} {path:?} contains \"..\"")]
    Climbs {
        /// What the path is for.
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The tree has neither lower directories nor an upper one.
    #[error("{0} has no directory to mount")]
    NoLayers(&'static str),
    /// A mount would cover part of `/proc`.
    #[error("mount {0:?} is inside /proc")]
    InsideProc(PathBuf),
    /// A string that the kernel takes has a NUL in it.
    #[error("{0} contains a NUL byte")]
    Nul(&'static str),
}
