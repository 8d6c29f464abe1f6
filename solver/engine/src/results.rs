//! Where results live: the local store, and caches that a build brings along. It decides nothing itself.

use async_trait::async_trait;
use shipway_cache::{KeyIndex, ResultId};
use shipway_model::Failure;

use crate::OpContext;

/// Keeps results. After `save` returned, `load` of that id gives an equal value, in this process and in the next, until
/// the result is pruned; then it gives `None` for ever.
#[async_trait]
pub trait Results<V>: Send + Sync {
    /// Makes a value durable and names it. Saving an equal value twice may give one name. Is never cancelled.
    async fn save(&self, value: &V, description: &str) -> Result<ResultId, Failure>;

    /// The value, without fetching what it may not need; `None` where it is gone.
    async fn load(&self, ctx: &OpContext, result: &ResultId) -> Result<Option<V>, Failure>;
}

/// A cache that a build brings along, such as one in a registry: keys at hand, results loaded when one is taken.
#[async_trait]
pub trait CacheSource<V>: Send + Sync {
    /// Its keys.
    fn index(&self) -> &dyn KeyIndex;

    /// The value of one of its records; `None` where it is gone.
    async fn load(&self, ctx: &OpContext, result: &ResultId) -> Result<Option<V>, Failure>;
}
