//! The history of builds: a durable record of each, with its large parts as blobs of containerd, in a namespace of their
//! own beside the one that the build belongs to. Decides what is kept and for how long, and who is told; never what a blob
//! looks like: its maker brings it encoded.
//!
//! ```text
//! begin ─► active ─► complete ─► record in the file, lease `ref_ID` in NAMESPACE_history holds its blobs
//!                        └─► trace, once asked for or after a while
//! ```

mod blobs;
mod filter;
mod history;
mod record;
mod retention;
mod spans;
mod steps;
mod store;

use std::path::PathBuf;
use std::sync::Arc;

pub use filter::InvalidQuery;
pub use history::{Change, Event, EventKind, History, Listener, Query};
pub use record::{ExporterRecord, Outcome, Record, ResultRecord};
pub use retention::Retention;
pub use spans::TraceParent;
pub use steps::{Steps, count};

/// Why the history failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HistoryError {
    /// The file could not be opened.
    #[error("opening the build history {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: Arc<redb::Error>,
    },
    /// The file could not be read or written.
    #[error("reading or writing the build history")]
    Access(#[source] Arc<redb::Error>),
    /// A record in the file cannot be read.
    #[error("reading build record {id}")]
    Malformed {
        /// The build.
        id: String,
        /// Cause.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// No such record.
    #[error("build record {0} not found")]
    NotFound(String),
    /// A blob or a lease in containerd.
    #[error("keeping the blobs of build record {id}")]
    Blobs {
        /// The build.
        id: String,
        /// Cause.
        #[source]
        source: Arc<shipway_backend::BackendError>,
    },
    /// The query cannot be understood.
    #[error(transparent)]
    Query(#[from] InvalidQuery),
    /// A task of ours ended early.
    #[error("the history's task ended")]
    Ended,
}
