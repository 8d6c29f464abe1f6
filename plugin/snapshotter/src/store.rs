//! The layer store as build steps use it: layers are created, committed, owned, pinned and collected, without any
//! regard to containerd's entries. Every method is short; what it reports as done is durable, save for commits, which
//! `flush` makes durable, and for the *contents* of layers, which `sync` does; the next start drops the others whole.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use crate::{
    core::Core,
    error::{Error, Result},
    journal::Journal,
    layout::Layout,
    model::{Collected, CommitInfo, LayerId, NewLayer, Recovered, Usage},
    pins::{Offer, PinnedLayers},
    probe, recover,
    state::{Change, LayerRecord, State},
    usage::disk_usage,
    worker::{Job, SYNC_EVENTUALLY, SYNC_SOON, Worker},
};

/// A handle on the store; clones share it. Dropping the last one waits for the background work in hand.
#[derive(Debug, Clone)]
pub struct LayerStore {
    pub(crate) core: Arc<Core>,
    worker: Arc<Worker>,
    recovered: Arc<Recovered>,
}

impl LayerStore {
    /// Opens the store at `root`, making it if need be. Refuses a filesystem that cannot hold overlay layers, and a
    /// store that another process has open; repairs what the last stop left behind.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let boot = "/proc/sys/kernel/random/boot_id";
        let boot = std::fs::read_to_string(boot).map_err(Error::io("reading", boot))?;
        Self::open_in_boot(root, boot.trim())
    }

    /// Like `open`, for a test that plays a reboot by another boot id.
    pub fn open_in_boot(root: impl AsRef<Path>, boot: &str) -> Result<Self> {
        let layout = Layout::create(root.as_ref())?;
        let journal = Journal::open(&layout.database())?;
        let mount_options = probe::overlay_options(&layout)?;
        let state = journal.load()?;
        let core = Arc::new(Core::new(
            layout,
            journal,
            state,
            boot.into(),
            mount_options,
        )?);
        let recovered = recover::reconcile(&core)?;
        let worker = Worker::start(Arc::clone(&core))?;
        worker.send(Job::EmptyTrash);
        worker.send(Job::Sync(SYNC_SOON));
        for id in core.unsettled() {
            worker.send(Job::Settle(id));
        }
        Ok(Self {
            core,
            worker: Arc::new(worker),
            recovered: Arc::new(recovered),
        })
    }

    /// What this start had to give up.
    #[must_use]
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// A number that tells this store from one that was here before it: ids of layers mean something in one store only.
    #[must_use]
    pub fn identity(&self) -> u64 {
        self.core.identity
    }

    /// The store's root directory, resolved.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.core.layout.root()
    }

    /// A new empty layer, open until it is committed or discarded; gone after a restart. Writes nothing durable.
    pub fn create(&self) -> Result<NewLayer> {
        self.create_like(None)
    }

    /// A new empty layer whose root directory has the owner and mode of the layer that it will lie on.
    pub fn create_like(&self, below: Option<LayerId>) -> Result<NewLayer> {
        let like = below.map(|id| self.path(id)).transpose()?;
        let id = self.core.allocate()?;
        self.core.lock().soft.open.insert(id);
        if let Err(e) = self.core.layout.make_layer(id, like.as_deref()) {
            self.core.lock().soft.open.remove(&id);
            self.core.trash(id);
            return Err(e);
        }
        Ok(NewLayer {
            id,
            fs: self.core.layout.fs(id),
            work: self.core.layout.work(id),
        })
    }

    /// Makes an open layer immutable. Nothing may write to it any more: its mount must be gone. Durable after the next
    /// `flush`, or the next change that is: a step's successor need not wait for that.
    pub fn commit(&self, id: LayerId, info: CommitInfo) -> Result<()> {
        let created = SystemTime::now();
        let settle = info.usage.is_none();
        self.core.transact_later(|inner| {
            if !inner.soft.open.contains(&id) || inner.state.layers.contains_key(&id) {
                return Err(Error::NotOpen(id));
            }
            let record = LayerRecord {
                usage: info.usage,
                chain_id: info.chain_id,
                diff_id: info.diff_id,
                labels: info.labels,
                ..LayerRecord::new(Some(self.core.boot.clone()), created)
            };
            let mut changes = vec![Change::PutLayer(id, record)];
            changes.extend(info.owners.into_iter().map(|owner| Change::Own(owner, id)));
            inner.soft.open.remove(&id);
            Ok(((), changes))
        })?;
        self.worker.send(if settle {
            Job::Settle(id)
        } else {
            Job::DropWork(id)
        });
        self.worker.send(Job::Sync(SYNC_EVENTUALLY));
        Ok(())
    }

    /// Makes every commit so far durable. Those that cannot be are undone, and their layers thrown away.
    pub fn flush(&self) -> Result<()> {
        let flushed = self.core.flush();
        self.core.delete_lost();
        self.core.take_undone().map_or(flushed, Err)
    }

    /// Throws an open layer away.
    pub fn discard(&self, id: LayerId) -> Result<()> {
        if !self.core.lock().soft.open.remove(&id) {
            return Err(Error::NotOpen(id));
        }
        self.core.layout.trash_layer(id)?;
        self.worker.send(Job::EmptyTrash);
        Ok(())
    }

    /// A layer's directory; for a foreign one, where it really is.
    pub fn path(&self, id: LayerId) -> Result<PathBuf> {
        let inner = self.core.lock();
        if inner.soft.open.contains(&id) {
            return Ok(self.core.layout.fs(id));
        }
        let record = inner.state.layer(id).map_err(|e| inner.explain(e))?;
        Ok(record
            .foreign
            .clone()
            .unwrap_or_else(|| self.core.layout.fs(id)))
    }

    /// Disk usage of a layer: recorded, or counted now if it is still open or has not been counted yet.
    pub fn usage(&self, id: LayerId) -> Result<Usage> {
        let known = {
            let inner = self.core.lock();
            if inner.soft.open.contains(&id) {
                None
            } else {
                inner.state.layer(id)?.usage
            }
        };
        match known {
            Some(usage) => Ok(usage),
            None => disk_usage(&self.path(id)?),
        }
    }

    /// Records the digests that a committed layer turned out to have.
    pub fn set_chain(&self, id: LayerId, chain_id: &str, diff_id: &str) -> Result<()> {
        self.core.transact(|inner| {
            let mut record = inner.state.committed(id)?.clone();
            record.chain_id = Some(chain_id.into());
            record.diff_id = Some(diff_id.into());
            Ok(((), vec![Change::PutLayer(id, record)]))
        })
    }

    /// Adds a durable owner to committed layers: all or none.
    pub fn own(&self, ids: &[LayerId], owner: &str) -> Result<()> {
        self.core.transact(|inner| {
            let has = inner.state.owners.get(owner);
            let mut changes = Vec::new();
            for id in ids {
                inner.state.committed(*id)?;
                let missing = has.is_none_or(|has| !has.contains(id));
                changes.extend(missing.then(|| Change::Own(owner.into(), *id)));
            }
            Ok(((), changes))
        })
    }

    /// Removes owners from everything that they own, in one transaction. Unknown ones own nothing.
    pub fn disown(&self, owners: &[&str]) -> Result<()> {
        self.core
            .transact(|inner| Ok(((), disown(&inner.state, owners))))
    }

    /// Layers of an owner.
    #[must_use]
    pub fn owned_by(&self, owner: &str) -> Vec<LayerId> {
        let inner = self.core.lock();
        inner
            .state
            .owners
            .get(owner)
            .into_iter()
            .flatten()
            .copied()
            .collect()
    }

    /// Every owner with each layer that it owns.
    #[must_use]
    pub fn all_owned(&self) -> Vec<(String, LayerId)> {
        let inner = self.core.lock();
        let owners = inner.state.owners.iter();
        owners
            .flat_map(|(owner, ids)| ids.iter().map(|id| (owner.clone(), *id)))
            .collect()
    }

    /// Keeps layers alive in this process.
    pub fn pin(&self, ids: &[LayerId]) -> Result<PinnedLayers> {
        PinnedLayers::existing(&self.core, ids)
    }

    /// Layers, lowest first, of a chain that some namespace has unpacked here or landed.
    #[must_use]
    pub fn find_chain(&self, chain_id: &str) -> Option<Vec<LayerId>> {
        let inner = self.core.lock();
        let mut candidates = inner.state.standing_for(chain_id);
        candidates.find_map(|key| {
            let mut layers = inner.state.ancestry(key).ok()?;
            layers.reverse();
            Some(layers)
        })
    }

    /// Offers layers to containerd in one namespace, as (chain id, layer).
    pub fn offer(
        &self,
        namespace: &str,
        chain: impl IntoIterator<Item = (String, LayerId)>,
    ) -> Result<Offer> {
        Offer::new(&self.core, namespace, chain)
    }

    /// A directory on the same filesystem for the caller's own files.
    pub fn scratch_dir(&self, name: &str) -> Result<PathBuf> {
        self.core.layout.scratch(name)
    }

    /// Makes the contents of all layers committed so far durable. May take as long as the disk needs. To be called when
    /// a build has ended and before the daemon stops: what is not synced is dropped by the first start after a reboot,
    /// even an orderly one. (Whoever forgets it loses half a minute: the store syncs by itself after that.)
    pub fn sync(&self) -> Result<()> {
        self.worker.sync(&self.core)
    }

    /// Removes every layer that no entry, owner or pin needs. O(1) each; the directories are deleted in the
    /// background, or by the next `empty_trash`.
    pub fn collect(&self) -> Result<Collected> {
        let collected = self.core.transact(|inner| {
            let mut collected = Collected::default();
            let pins = &inner.soft.pins;
            let needless = inner.state.layers.iter().filter(|(id, record)| {
                record.entries == 0 && record.owners == 0 && !pins.contains_key(id)
            });
            for (id, record) in needless {
                let freed = record
                    .usage
                    .filter(|_| record.foreign.is_none())
                    .unwrap_or_default();
                collected.layers.push(*id);
                collected.usage.bytes += freed.bytes;
                collected.usage.inodes += freed.inodes;
            }
            let changes = collected
                .layers
                .iter()
                .copied()
                .map(Change::DropLayer)
                .collect();
            Ok((collected, changes))
        })?;
        for id in &collected.layers {
            self.core.trash(*id);
        }
        if !collected.layers.is_empty() {
            self.worker.send(Job::EmptyTrash);
        }
        Ok(collected)
    }

    /// Deletes what is in the trash, now.
    pub fn empty_trash(&self) -> Result<()> {
        self.core.layout.empty_trash(|| true)
    }

    pub(crate) fn settle_later(&self, id: LayerId) {
        self.worker.send(Job::Settle(id));
        self.worker.send(Job::Sync(SYNC_SOON));
    }

    pub(crate) fn age_out_later(&self) {
        self.worker.send(Job::AgeOut);
    }
}

/// Changes that remove owners everywhere.
pub(crate) fn disown(state: &State, owners: &[&str]) -> Vec<Change> {
    let owned = |owner: &str| {
        state
            .owners
            .get(owner)
            .into_iter()
            .flatten()
            .copied()
            .collect::<Vec<_>>()
    };
    owners
        .iter()
        .flat_map(|owner| {
            owned(owner)
                .into_iter()
                .map(|id| Change::Disown((*owner).into(), id))
        })
        .collect()
}
