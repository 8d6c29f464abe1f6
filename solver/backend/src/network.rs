//! Networks of their own for steps. It decides nothing about what such a network reaches.

use std::path::Path;

use async_trait::async_trait;

use crate::BackendError;

/// A network namespace that one step uses.
pub trait NetworkUse: Send + Sync {
    /// Where the namespace is mounted, absolute; there as long as the value lives.
    fn path(&self) -> &Path;
}

/// Gives steps networks of their own.
///
/// Law: as long as a [`NetworkUse`] lives, its namespace is nobody else's; when it is dropped another step may get it.
#[async_trait]
pub trait Networks: Send + Sync {
    /// A namespace for one step. A `hostname` is made known to the network where it can do something with it; such a
    /// namespace serves no other step.
    async fn enter(&self, hostname: Option<&str>) -> Result<Box<dyn NetworkUse>, BackendError>;
}
