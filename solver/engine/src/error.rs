//! Why a build failed. It decides no wording beyond naming what was attempted.

use shipway_model::{Digest, Failure};

/// Why a build gave no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// A vertex failed.
    #[error("{}", during.describe(cause))]
    Vertex {
        /// The vertex.
        vertex: Digest,
        /// What it was doing.
        during: During,
        /// Why.
        #[source]
        cause: Failure,
    },
    /// Somebody ended the build.
    #[error("the build was cancelled")]
    Cancelled {
        /// Why.
        #[source]
        cause: Failure,
    },
    /// What was handed in is not a graph.
    #[error("invalid graph: {reason}")]
    InvalidGraph {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The engine was shut down.
    #[error("the engine has ended")]
    Ended,
}

/// What a vertex was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum During {
    /// Finding out its definition key.
    CacheMap,
    /// Making this input usable, or a key of its content.
    ContentKey {
        /// The input.
        input: usize,
    },
    /// Running.
    Execute,
}

impl During {
    fn describe(self, cause: &Failure) -> String {
        match self {
            Self::CacheMap => format!("failed to load cache key: {cause}"),
            Self::ContentKey { .. } => format!("failed to compute cache key: {cause}"),
            // A failed step speaks for itself; clients say that the build failed.
            Self::Execute => cause.to_string(),
        }
    }
}
