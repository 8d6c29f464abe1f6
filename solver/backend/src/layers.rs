//! Where layers live: directories of changes, with ids of our own, and who needs them.

use std::any::Any;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shipway_model::Digest;

use crate::BackendError;

/// Identity of a layer; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerId(pub u64);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A layer that is being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLayer {
    /// Its id.
    pub id: LayerId,
    /// Overlay upper directory, empty, mode 0755.
    pub fs: PathBuf,
    /// Overlay work directory on the same filesystem, empty.
    pub work: PathBuf,
}

/// Disk use as `du` counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes of allocated blocks.
    pub bytes: u64,
    /// Inodes, a hard-linked one once.
    pub inodes: u64,
}

/// Keeps layers alive while it lives; dropping it releases them.
pub struct Pin(#[expect(dead_code, reason = "held for its drop")] Box<dyn Any + Send + Sync>);

impl Pin {
    /// A pin that releases what `guard`'s drop releases.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self(Box::new(guard))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin")
    }
}

/// Holds layers. A layer has no parent: stacks of layers are the caller's business.
///
/// Law: a created layer is gone after a restart unless committed; a committed one is never changed, and lives while an
/// owner, a pin or a containerd snapshot needs it, until the next `collect`. All methods are short, and all but `commit` are
/// durable when they return; a commit is after the next `flush` or other change, and undone should that fail (a layer's *contents* are durable after the next `sync`; a machine that stops before loses the layer, never half of it).
pub trait LayerStore: Send + Sync {
    /// A new empty layer, pinned until it is committed or discarded.
    fn create(&self) -> Result<NewLayer, BackendError>;
    /// Ends the writing of a layer and gives it its first owner.
    fn commit(&self, id: LayerId, usage: Usage, owner: &str) -> Result<(), BackendError>;
    /// Makes every commit so far durable.
    fn flush(&self) -> Result<(), BackendError>;
    /// Throws an uncommitted layer away. The directory may be deleted later.
    fn discard(&self, id: LayerId) -> Result<(), BackendError>;
    /// The layer's directory. It may lie outside of the store (a base image unpacked by another snapshotter).
    fn path(&self, id: LayerId) -> Result<PathBuf, BackendError>;
    /// Disk use, known since the commit.
    fn usage(&self, id: LayerId) -> Result<Usage, BackendError>;
    /// Adds a durable owner, any string, to committed layers.
    fn own(&self, ids: &[LayerId], owner: &str) -> Result<(), BackendError>;
    /// Removes an owner from every layer that it owns. An unknown owner owns nothing.
    fn disown(&self, owner: &str) -> Result<(), BackendError>;
    /// Keeps committed layers alive in this process.
    fn pin(&self, ids: &[LayerId]) -> Result<Pin, BackendError>;
}

/// Upkeep of a [`LayerStore`], and its relation to containerd's snapshots.
///
/// Law: after `offer(ns, chain, …)` containerd's own labelled Prepare of the top chain ID's links, lowest first, in that
/// namespace adopts the offered layers, until the returned pin is dropped; what it adopted by then stays.
pub trait LayerUpkeep: Send + Sync {
    /// Makes the contents of every committed layer durable.
    fn sync(&self) -> Result<(), BackendError>;
    /// Deletes layers that nobody needs; gives back how much that frees.
    fn collect(&self) -> Result<Usage, BackendError>;
    /// Makes a directory outside of the store usable as a layer. The caller keeps it alive and unchanged.
    fn adopt(&self, dir: &Path, owner: &str) -> Result<LayerId, BackendError>;
    /// Layers, lowest first, of a chain that any namespace has unpacked here or landed.
    fn find_chain(&self, chain_id: &Digest) -> Result<Option<Vec<LayerId>>, BackendError>;
    /// Offers layers for adoption: `(chain ID, layer)` lowest first.
    fn offer(&self, namespace: &str, chain: &[(Digest, LayerId)]) -> Result<Pin, BackendError>;
    /// Every owner with each layer that it owns.
    fn owners(&self) -> Result<Vec<(String, LayerId)>, BackendError>;
    /// A directory on the layers' filesystem for the caller's own files (context mirrors, cache mounts), made if missing.
    fn scratch_dir(&self, name: &str) -> Result<PathBuf, BackendError>;
}
