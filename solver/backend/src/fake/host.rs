//! A containerd of namespaces in memory. Blobs are shared among namespaces as containerd shares them: each has its own
//! records.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use shipway_model::Digest;

use super::{FakeExecutor, lock};
use crate::images::Resource;
use crate::{BackendError, Host, Image, MountSpec, Namespace};

/// A containerd in memory. Clones are the same one.
#[derive(Clone, Default)]
pub struct FakeHost {
    pub(super) state: Arc<Mutex<State>>,
    executor: FakeExecutor,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) namespaces: BTreeMap<String, Records>,
    /// Bytes of every blob that any namespace records, and of those that none does any more.
    pub(super) bytes: BTreeMap<Digest, Bytes>,
    pub(super) snapshots_root: Option<PathBuf>,
    pub(super) offers: Vec<Offer>,
    pub(super) next: u64,
}

/// What one namespace records.
#[derive(Default)]
pub(super) struct Records {
    pub(super) blobs: BTreeMap<Digest, BTreeMap<String, String>>,
    pub(super) images: BTreeMap<String, Image>,
    pub(super) leases: BTreeMap<String, Vec<Resource>>,
    pub(super) kept: BTreeSet<String>,
    pub(super) snapshots: BTreeMap<(String, String), Snapshot>,
}

pub(super) struct Snapshot {
    pub(super) committed: bool,
    pub(super) parent: Option<String>,
    pub(super) mounts: Vec<MountSpec>,
    /// Its own directory.
    pub(super) dir: PathBuf,
}

/// A layer that a snapshotter would hand out.
pub(super) struct Offer {
    pub(super) snapshotter: String,
    pub(super) chain_id: Digest,
    pub(super) parent: Option<Digest>,
}

impl FakeHost {
    /// An empty host.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A host whose steps are run by this executor.
    #[must_use]
    pub fn with_executor(executor: FakeExecutor) -> Self {
        Self {
            executor,
            ..Self::default()
        }
    }

    /// Gives active snapshots real directories below `root`.
    #[must_use]
    pub fn with_snapshots_in(self, root: impl Into<PathBuf>) -> Self {
        lock(&self.state).snapshots_root = Some(root.into());
        self
    }

    /// The executor of every namespace.
    #[must_use]
    pub fn executor(&self) -> &FakeExecutor {
        &self.executor
    }

    /// Makes a snapshotter offer a layer of its own for adoption.
    pub fn offer(&self, snapshotter: &str, chain_id: Digest, parent: Option<Digest>) {
        lock(&self.state).offers.push(Offer {
            snapshotter: snapshotter.to_owned(),
            chain_id,
            parent,
        });
    }

    /// Digests of all blobs that a namespace records.
    #[must_use]
    pub fn blobs(&self, namespace: &str) -> Vec<Digest> {
        let state = lock(&self.state);
        let records = state.namespaces.get(namespace);
        records.map_or_else(Vec::new, |records| records.blobs.keys().copied().collect())
    }

    /// Keys of all of a snapshotter's snapshots in a namespace.
    #[must_use]
    pub fn snapshots(&self, namespace: &str, snapshotter: &str) -> Vec<String> {
        let state = lock(&self.state);
        let records = state.namespaces.get(namespace);
        let keys = records
            .into_iter()
            .flat_map(|records| records.snapshots.keys());
        keys.filter(|(of, _)| of == snapshotter)
            .map(|(_, key)| key.clone())
            .collect()
    }

    /// Ids of the leases that have not ended in a namespace.
    #[must_use]
    pub fn leases(&self, namespace: &str) -> Vec<String> {
        let state = lock(&self.state);
        let records = state.namespaces.get(namespace);
        records.map_or_else(Vec::new, |records| records.leases.keys().cloned().collect())
    }
}

/// One namespace of a host.
#[derive(Clone)]
pub(super) struct Scope {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) name: Arc<str>,
}

impl Scope {
    /// Does something with all of the host and this namespace's records.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State, &mut Records) -> T) -> T {
        let mut state = lock(&self.state);
        let mut records = state.namespaces.remove(&*self.name).unwrap_or_default();
        let result = act(&mut state, &mut records);
        state.namespaces.insert(self.name.to_string(), records);
        result
    }
}

#[async_trait]
impl Host for FakeHost {
    fn namespace(&self, name: &str) -> Namespace {
        let scope = Arc::new(Scope {
            state: self.state.clone(),
            name: name.into(),
        });
        Namespace {
            name: name.into(),
            blobs: scope.clone(),
            images: scope.clone(),
            leases: scope.clone(),
            snapshots: scope,
            executor: Arc::new(self.executor.clone()),
        }
    }

    async fn uuid(&self) -> Result<String, BackendError> {
        Ok("00000000-0000-4000-8000-000000000000".to_owned())
    }

    async fn namespaces(&self) -> Result<Vec<String>, BackendError> {
        Ok(lock(&self.state).namespaces.keys().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite;

    #[tokio::test]
    async fn the_fake_passes_the_suites() {
        let root = tempfile::tempdir().unwrap();
        let host = FakeHost::new().with_snapshots_in(root.path());
        let (one, other) = (host.namespace("one"), host.namespace("other"));
        suite::blobs::all(&one, &other).await;
        suite::images::all(&one).await;
        suite::snapshots::all(&one, "overlayfs").await;
        assert_eq!(host.leases("one"), [""; 0]);
    }
}
