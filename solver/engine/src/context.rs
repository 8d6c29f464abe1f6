//! What an operation may ask while it works: its progress, whether to stop, whose sessions to use. It decides nothing.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::VertexProgress;

/// Number of one piece of work, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TaskId(pub(crate) u64);

/// Surroundings of one call of an operation.
#[derive(Clone)]
pub struct OpContext {
    pub(crate) task: TaskId,
    pub(crate) progress: Arc<VertexProgress>,
    pub(crate) cancelled: CancellationToken,
}

impl OpContext {
    /// Where to report logs, parts and warnings: seen by every build that has this vertex, also by those that join later.
    #[must_use]
    pub fn progress(&self) -> &VertexProgress {
        &self.progress
    }

    /// The same, to keep.
    #[must_use]
    pub fn progress_handle(&self) -> Arc<VertexProgress> {
        Arc::clone(&self.progress)
    }

    /// Fires when no build wants this work any more.
    #[must_use]
    pub const fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }

    /// Sessions of all builds that have this vertex now: any of them may answer for secrets, credentials and files.
    #[must_use]
    pub fn sessions(&self) -> Vec<Arc<str>> {
        self.progress.sessions()
    }
}
