//! What the engine asks of one vertex: its identity, its cache key, its result. It decides nothing itself.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use shipway_cache::KeyParts;
use shipway_model::definition::ProgressGroup;
use shipway_model::{Digest, Failure};

use crate::OpContext;

/// Identity and display of a vertex.
#[derive(Debug, Clone)]
pub struct VertexInfo {
    /// Digest of the marshalled op. Vertices with equal digests, equal inputs and equal `ignore_cache` are one.
    pub digest: Digest,
    /// Text to show.
    pub name: Arc<str>,
    /// Group to show it in.
    pub progress_group: Option<ProgressGroup>,
    /// Run it even where the cache has a result.
    pub ignore_cache: bool,
}

/// One vertex's work. The engine calls `cache_map` at most once per success, `execute` at most once per success, both on
/// any thread. A call that returns because `ctx.cancelled()` fired may return any error; it must return within 100 ms.
/// A panic counts as a failure.
#[async_trait]
pub trait Operation<V>: Send + Sync {
    /// Identity and display.
    fn vertex(&self) -> &VertexInfo;

    /// Digest of the work, and how each input contributes to the key. Has as many deps as the vertex has inputs.
    async fn cache_map(&self, ctx: &OpContext) -> Result<CacheMap<V>, Failure>;

    /// The outputs. `inputs` are in the order of the graph.
    async fn execute(&self, ctx: &OpContext, inputs: Vec<V>) -> Result<Vec<V>, Failure>;

    /// True where `execute` counts against the limit of steps at a time. An operation that waits for other vertices,
    /// such as a nested build, must not.
    fn takes_slot(&self) -> bool {
        true
    }

    /// What became known while it ran, such as a resolved digest, for whoever asks [`crate::Job::operations`].
    fn facts(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}

/// The definition key of a vertex.
pub struct CacheMap<V> {
    /// Digest of the work itself, without inputs.
    pub digest: Digest,
    /// One per input.
    pub deps: Vec<Dep<V>>,
    /// True where the digest is never seen again, as a client's directory: it is neither looked up nor recorded, and
    /// what follows is found by content only.
    pub volatile: bool,
    /// What `digest` was made of, to explain a miss.
    pub parts: KeyParts,
}

/// How one input contributes to a key.
pub struct Dep<V> {
    /// Digest of the part of the input that is used; `None` for all of it.
    pub selector: Option<Digest>,
    /// Makes a key of the input's content, where that is worth while and safe.
    pub content: Option<Arc<dyn ContentKey<V>>>,
    /// Done to the input's result before it is hashed or used, under the input's progress; such as a pull.
    pub prepare: Option<Arc<dyn Prepare<V>>>,
}

/// Keys an input by content.
#[async_trait]
pub trait ContentKey<V>: Send + Sync {
    /// Digest of the content that the vertex can see of this input.
    async fn digest(&self, ctx: &OpContext, input: &V) -> Result<Digest, Failure>;
}

/// Makes an input usable.
#[async_trait]
pub trait Prepare<V>: Send + Sync {
    /// Makes `input` usable. `ctx` is the input's own.
    async fn prepare(&self, ctx: &OpContext, input: &V) -> Result<(), Failure>;
}

impl<V> CacheMap<V> {
    /// A key of this digest with inputs that contribute by their keys alone.
    #[must_use]
    pub fn new(digest: Digest, inputs: usize) -> Self {
        Self {
            digest,
            deps: (0..inputs).map(|_| Dep::default()).collect(),
            volatile: false,
            parts: KeyParts::default(),
        }
    }
}

impl<V> Default for Dep<V> {
    fn default() -> Self {
        Self {
            selector: None,
            content: None,
            prepare: None,
        }
    }
}
