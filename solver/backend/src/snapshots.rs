//! Snapshots of one namespace, of any snapshotter, as containerd lists them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use shipway_model::Digest;

use crate::{BackendError, Lease};

/// A mount as containerd describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSpec {
    /// `overlay`, `bind`, …
    pub kind: String,
    /// Device or directory.
    pub source: String,
    /// Options.
    pub options: Vec<String>,
}

/// A snapshot of a namespace, by its names there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotNames {
    /// Its own.
    pub name: String,
    /// Its parent's; empty for none.
    pub parent: String,
}

/// Outcome of an attempt to adopt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// The chain ID is a snapshot of the namespace now, held by the lease.
    Adopted,
    /// The snapshotter has nothing to offer under that chain ID on that parent.
    NotOffered,
}

/// Snapshots of one namespace.
#[async_trait]
pub trait Snapshots: Send + Sync {
    /// True where this committed or active snapshot exists. Protects nothing from the collector.
    async fn exists(&self, snapshotter: &str, key: &str) -> Result<bool, BackendError>;
    /// Asks the snapshotter to hand out its own layer as `chain_id` on `parent`: a Prepare labelled
    /// `containerd.io/snapshot.ref`. Leaves no active snapshot behind in either case. `NotFound` where `parent` is missing.
    async fn adopt(
        &self,
        lease: &Lease,
        snapshotter: &str,
        chain_id: &Digest,
        parent: Option<&Digest>,
    ) -> Result<Adoption, BackendError>;
    /// A new active snapshot and its mounts.
    async fn prepare(
        &self,
        lease: &Lease,
        snapshotter: &str,
        key: &str,
        parent: Option<&str>,
    ) -> Result<Vec<MountSpec>, BackendError>;
    /// A read-only view of a committed snapshot and its mounts.
    async fn view(
        &self,
        lease: &Lease,
        snapshotter: &str,
        key: &str,
        parent: &str,
    ) -> Result<Vec<MountSpec>, BackendError>;
    /// Turns an active snapshot into a committed one; `AlreadyExists` where `name` is taken (the active one stays).
    async fn commit(
        &self,
        lease: &Lease,
        snapshotter: &str,
        name: &str,
        key: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<(), BackendError>;
    /// Every snapshot of the namespace that the snapshotter still has.
    async fn list(&self, snapshotter: &str) -> Result<Vec<SnapshotNames>, BackendError>;
    /// Removes; fine where there is none.
    async fn remove(&self, snapshotter: &str, key: &str) -> Result<(), BackendError>;
}
