//! Content-addressed blobs of one namespace.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use shipway_model::Digest;

use crate::{BackendError, ByteStream, Lease};

/// What is known of a stored blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Length in bytes.
    pub size: u64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Answer to the wish to write a blob.
pub enum BlobSlot {
    /// It is there already (and now held by the lease).
    Present,
    /// Write it.
    Write(Box<dyn BlobWriter>),
}

/// Content-addressed blobs of one namespace.
///
/// Law: a blob can be opened from the moment that `commit` returned; one that is held by a lease or by a label of a live
/// object is never collected. A writer that is dropped leaves nothing that can be opened.
#[async_trait]
pub trait Blobs: Send + Sync {
    /// What is known of a blob; `None` where this namespace does not record it.
    async fn info(&self, digest: &Digest) -> Result<Option<BlobInfo>, BackendError>;
    /// The bytes from `offset`; `NotFound` where this namespace does not record it.
    async fn open(&self, digest: &Digest, offset: u64) -> Result<ByteStream, BackendError>;
    /// Starts to write. With `expected` (digest, size) the blob may turn out to be present, also by sharing another
    /// namespace's. `labels` are set at commit.
    async fn write(
        &self,
        lease: &Lease,
        name: &str,
        expected: Option<(Digest, u64)>,
        labels: BTreeMap<String, String>,
    ) -> Result<BlobSlot, BackendError>;
    /// Adds labels to a blob.
    async fn label(
        &self,
        digest: &Digest,
        labels: BTreeMap<String, String>,
    ) -> Result<(), BackendError>;
    /// Deletes the record of a blob; fine where there is none.
    async fn delete(&self, digest: &Digest) -> Result<(), BackendError>;
}

/// A blob that is being written.
#[async_trait]
pub trait BlobWriter: Send {
    /// Appends; chunks of 1 MiB travel best.
    async fn append(&mut self, data: Bytes) -> Result<(), BackendError>;
    /// Ends the blob and checks its digest and size; Corrupt where they differ. Of a large blob that was not announced only
    /// the size need be checked: its writer made it, and its digest with it.
    async fn commit(self: Box<Self>, digest: Digest, size: u64) -> Result<(), BackendError>;
}
