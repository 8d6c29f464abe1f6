//! Words and facts of a failed vertex for the client. It decides no wire form.

use std::sync::Arc;

use shipway_engine::{During, EngineError};
use shipway_model::failure::{FailedPart, Held};
use shipway_model::{Definition, Failure, FailureDetail, Vertex};
use shipway_ops::graph;

/// What a client is told of an engine's error: BuildKit's words, and where in the source it happened.
pub(crate) fn explain(error: EngineError, definition: &Definition) -> Failure {
    let (digest, failure) = match error {
        EngineError::Vertex {
            vertex,
            during,
            cause,
        } => (
            vertex,
            match during {
                During::CacheMap => cause.context("failed to load cache key"),
                During::ContentKey { .. } => cause.context("failed to compute cache key"),
                During::Execute => cause,
            },
        ),
        EngineError::Cancelled { .. } => return Failure::cancelled(),
        error @ (EngineError::InvalidGraph { .. } | EngineError::Ended) => {
            return Failure::from_error(&error);
        }
    };
    let mut vertices = definition.vertices.iter();
    match vertices.find(|vertex| vertex.digest == digest) {
        Some(vertex) => graph::at(vertex, definition, with_op(failure, vertex)),
        None => failure.with(FailureDetail::Vertex(digest)),
    }
}

/// The failure with the op that failed, for debuggers.
fn with_op(failure: Failure, vertex: &Vertex) -> Failure {
    let mut details = failure.details.iter();
    if details.any(|detail| matches!(detail, FailureDetail::Solve { .. })) {
        return failure;
    }
    failure.with(FailureDetail::Solve {
        input_ids: Vec::new(),
        mount_ids: Vec::new(),
        subject: FailedPart::Whole,
        op: Arc::clone(&vertex.bytes),
        description: vertex.meta.description.clone(),
        held: Held::nothing(),
    })
}
