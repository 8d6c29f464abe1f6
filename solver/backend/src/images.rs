//! Image records and leases of one namespace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shipway_model::{Descriptor, Digest};

use crate::BackendError;

/// A named image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Name, canonical.
    pub name: String,
    /// What it names: a manifest or an index.
    pub target: Descriptor,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Image records. Law: after `put` the image is listed under its name, replaced if it was there.
#[async_trait]
pub trait Images: Send + Sync {
    /// The image of this exact name.
    async fn get(&self, name: &str) -> Result<Option<Image>, BackendError>;
    /// Creates or replaces.
    async fn put(&self, image: Image) -> Result<(), BackendError>;
}

/// Leases. Law: what is made under a lease is not collected before the lease ends or expires.
#[async_trait]
pub trait Leases: Send + Sync {
    /// A new lease with a name of ours, which expires by itself after `ttl`.
    async fn create(&self, ttl: Duration) -> Result<Lease, BackendError>;
    /// Puts existing objects under a lease.
    async fn hold(&self, lease: &Lease, resources: &[Resource]) -> Result<(), BackendError>;
    /// The lease of this exact name, made where there is none. It never expires, outlives the daemon, and ends by
    /// [`Leases::forget`] only.
    async fn keep(&self, name: &str) -> Result<Lease, BackendError>;
    /// Ends a lease of [`Leases::keep`]; what nothing else holds is gone when this returns. Fine where there is none.
    async fn forget(&self, name: &str) -> Result<(), BackendError>;
    /// Has what nothing holds any more removed, in every namespace, before this returns.
    async fn collect(&self) -> Result<(), BackendError>;
    /// Names of the leases that `keep` has made in this namespace, also in earlier lives of the daemon.
    async fn kept(&self) -> Result<Vec<String>, BackendError>;
    /// Deletes the leases that an earlier daemon of ours left behind.
    async fn clean_up(&self) -> Result<(), BackendError>;
}

/// Something that a lease can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// A blob.
    Blob(Digest),
    /// A snapshot: snapshotter and key.
    Snapshot(String, String),
}

/// A lease; ends in the background when the last clone is dropped, or at once by [`Lease::end`].
#[derive(Clone)]
pub struct Lease {
    id: Arc<str>,
    keeper: Option<Arc<dyn LeaseKeeper>>,
}

/// Ends one lease.
#[async_trait]
pub trait LeaseKeeper: Send + Sync {
    /// Ends it; fine where it has ended. The keeper's own drop must do the same in the background.
    async fn end(&self) -> Result<(), BackendError>;
}

impl Lease {
    /// A lease with something that ends it.
    #[must_use]
    pub fn new(id: impl Into<Arc<str>>, keeper: Arc<dyn LeaseKeeper>) -> Self {
        Self {
            id: id.into(),
            keeper: Some(keeper),
        }
    }

    /// A lease that another keeps and ends.
    #[must_use]
    pub fn borrowed(id: impl Into<Arc<str>>) -> Self {
        Self {
            id: id.into(),
            keeper: None,
        }
    }

    /// Its id, as sent to containerd.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// True where there are other clones of it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        let keeper = self.keeper.as_ref();
        keeper.is_some_and(|keeper| Arc::strong_count(keeper) > 1)
    }

    /// Ends it now, for all clones.
    pub async fn end(&self) -> Result<(), BackendError> {
        match &self.keeper {
            Some(keeper) => keeper.end().await,
            None => Ok(()),
        }
    }
}
