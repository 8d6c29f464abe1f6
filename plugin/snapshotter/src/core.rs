//! State, journal and what lives only in memory, behind one lock that is never held over a disk write. Every change
//! goes through [`Core::transact`]: decided and applied under the lock, then written; callers that change things at
//! the same time share one durable write.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
    ops::RangeInclusive,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    error::{Error, Result},
    journal::Journal,
    layout::Layout,
    model::LayerId,
    state::{Change, State},
};

/// Ids are reserved durably in blocks, so that creating a layer writes nothing.
const ID_BLOCK: u64 = 1024;

/// How many failed writes are remembered for those who still wait for one.
const KEPT_FAILURES: usize = 64;

/// Everything shared between handles, guards and the worker.
#[derive(Debug)]
pub(crate) struct Core {
    pub layout: Layout,
    pub boot: String,
    pub mount_options: Vec<String>,
    pub identity: u64,
    journal: Journal,
    inner: Mutex<Inner>,
    settled: Condvar,
}

/// What the lock guards.
#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub state: State,
    pub soft: Soft,
    queue: Queue,
}

/// What a restart forgets.
#[derive(Debug, Default)]
pub(crate) struct Soft {
    /// Layers that this process created and has not committed.
    pub open: HashSet<LayerId>,
    /// How many guards hold each layer.
    pub pins: HashMap<LayerId, u32>,
    /// What our exporter is about to ask containerd for: (namespace, chain id) → layers, the newest last.
    pub offers: HashMap<(String, String), Vec<LayerId>>,
    /// Aliases that containerd has not fetched yet.
    pub minted: BTreeMap<String, Instant>,
    /// Keys that were asked for and are not there, while a repair wants to know them.
    pub misses: Option<BTreeSet<String>>,
    /// Layers whose commit was undone by a failed write: their directories are still there.
    lost: Vec<LayerId>,
    /// The first of those that nobody has been told of.
    undone: Option<LayerId>,
    next_id: u64,
    /// Ids below this one are reserved durably.
    reserved_ids: u64,
}

/// Changes that are applied but not yet durable. Each batch has a ticket; a write settles all tickets up to one.
#[derive(Debug, Default)]
struct Queue {
    changes: Vec<Change>,
    last_ticket: u64,
    settled_ticket: u64,
    failures: Vec<(RangeInclusive<u64>, Arc<redb::Error>)>,
    disk: Disk,
}

/// What the journal is at.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Disk {
    #[default]
    Idle,
    /// Some caller writes what was queued when it started.
    Writing,
    /// A write failed, and memory could not be brought back to what the disk says.
    Stale,
}

impl Inner {
    /// Why something is not there: maybe the write that was to keep it has failed since.
    pub(crate) fn explain(&self, missing: Error) -> Error {
        match self.queue.failures.first() {
            Some((_, error)) => Error::Metadata(Arc::clone(error)),
            None => missing,
        }
    }

    /// Applies changes and queues them for the next write.
    fn enqueue(&mut self, changes: Vec<Change>) {
        self.state.apply(&changes);
        self.queue.changes.extend(changes);
        self.queue.last_ticket += 1;
        if self.state.reserved_ids < self.soft.next_id + ID_BLOCK / 2 {
            let reserve = Change::ReserveIds(self.soft.next_id + ID_BLOCK);
            self.state.apply(std::slice::from_ref(&reserve));
            self.queue.changes.push(reserve);
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "writing the last of the layer store's metadata"
            );
        }
    }
}

impl Core {
    pub(crate) fn new(
        layout: Layout,
        journal: Journal,
        state: State,
        boot: String,
        mount_options: Vec<String>,
    ) -> Result<Self> {
        let identity = journal.identity()?;
        // Ids below the reservation may have been handed out before the last stop.
        let soft = Soft {
            next_id: state.reserved_ids,
            reserved_ids: state.reserved_ids,
            ..Soft::default()
        };
        let inner = Inner {
            state,
            soft,
            queue: Queue::default(),
        };
        Ok(Self {
            layout,
            boot,
            mount_options,
            identity,
            journal,
            inner: Mutex::new(inner),
            settled: Condvar::new(),
        })
    }

    /// The lock. A panic elsewhere cannot leave the state half changed (`apply` does not fail), so poison is ignored.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides on changes under the lock and returns when they, and all that they were decided on, are durable. After
    /// an error nothing has changed.
    pub(crate) fn transact<T>(
        &self,
        decide: impl FnOnce(&mut Inner) -> Result<(T, Vec<Change>)>,
    ) -> Result<T> {
        let (value, mut inner) = self.decide(decide)?;
        let ticket = inner.queue.last_ticket;
        if inner.queue.settled_ticket >= ticket {
            // Nothing changed, and nothing was pending that the decision could have rested on.
            return Ok(value);
        }
        while inner.queue.settled_ticket < ticket {
            inner = if inner.queue.disk == Disk::Writing {
                self.settled
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner)
            } else {
                self.write_queue(inner)
            };
        }
        let mut failures = inner.queue.failures.iter();
        match failures.find(|(tickets, _)| tickets.contains(&ticket)) {
            None => Ok(value),
            Some((_, error)) => Err(Error::Metadata(Arc::clone(error))),
        }
    }

    /// Decides on changes under the lock; they become durable with the next transaction that does, or are undone with it.
    pub(crate) fn transact_later<T>(
        &self,
        decide: impl FnOnce(&mut Inner) -> Result<(T, Vec<Change>)>,
    ) -> Result<T> {
        self.decide(decide).map(|(value, _lock)| value)
    }

    /// Returns when all that was decided so far is durable.
    pub(crate) fn flush(&self) -> Result<()> {
        self.transact(|_| Ok(((), Vec::new())))
    }

    /// Why commits were undone since this was last asked; `None` where none was.
    pub(crate) fn take_undone(&self) -> Option<Error> {
        let mut inner = self.lock();
        let undone = inner.soft.undone.take()?;
        Some(inner.explain(Error::NoLayer(undone)))
    }

    /// Deletes the directories of layers whose commit was undone. At once, whoever's write it was: the disk may be full.
    pub(crate) fn delete_lost(&self) {
        let lost = mem::take(&mut self.lock().soft.lost);
        if lost.is_empty() {
            return;
        }
        for id in lost {
            self.trash(id);
        }
        if let Err(error) = self.layout.empty_trash(|| true) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "deleting layers that could not be committed");
        }
    }

    /// Moves a layer that no record names to the trash. What fails here is found by the next start.
    pub(crate) fn trash(&self, id: LayerId) {
        if let Err(e) = self.layout.trash_layer(id) {
            tracing::warn!(layer = %id, error = %e, "leaving a layer's directory to the next start");
        }
    }

    fn decide<T>(
        &self,
        decide: impl FnOnce(&mut Inner) -> Result<(T, Vec<Change>)>,
    ) -> Result<(T, MutexGuard<'_, Inner>)> {
        let mut inner = self.lock();
        if inner.queue.disk == Disk::Stale {
            self.reload(&mut inner)?;
            inner.queue.disk = Disk::Idle;
        }
        let (value, changes) = decide(&mut inner)?;
        if !changes.is_empty() {
            inner.enqueue(changes);
        }
        Ok((value, inner))
    }

    /// Writes what is queued, with the lock released meanwhile. On failure memory returns to what the disk says, and
    /// everything queued by then fails: it was decided on a state that never became durable.
    fn write_queue<'a>(&'a self, mut inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        let changes = mem::take(&mut inner.queue.changes);
        let upto = inner.queue.last_ticket;
        let reserved_ids = inner.state.reserved_ids;
        inner.queue.disk = Disk::Writing;
        drop(inner);
        let written = self.journal.write(&changes);
        let mut inner = self.lock();
        inner.queue.disk = Disk::Idle;
        match written {
            Ok(()) => {
                inner.queue.settled_ticket = upto;
                inner.soft.reserved_ids = reserved_ids;
            }
            Err(error) => {
                self.roll_back(&mut inner, error);
                self.settled.notify_all();
                drop(inner);
                self.delete_lost();
                return self.lock();
            }
        }
        self.settled.notify_all();
        inner
    }

    fn roll_back(&self, inner: &mut Inner, error: Error) {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "writing the layer store's metadata"
        );
        let error = match error {
            Error::Metadata(error) => error,
            other => Arc::new(redb::Error::Corrupted(other.to_string())),
        };
        let queue = &mut inner.queue;
        queue.changes.clear();
        // Who waits for an older ticket has been woken long ago.
        queue.failures.truncate(KEPT_FAILURES);
        queue
            .failures
            .insert(0, (queue.settled_ticket + 1..=queue.last_ticket, error));
        queue.settled_ticket = queue.last_ticket;
        if self.reload(inner).is_err() {
            inner.queue.disk = Disk::Stale;
        }
    }

    /// Brings memory back to what the disk says, and notes which layers are no more.
    fn reload(&self, inner: &mut Inner) -> Result<()> {
        let before = mem::replace(&mut inner.state, self.journal.load()?);
        let now = &inner.state.layers;
        let soft = &mut inner.soft;
        let lost = before.layers.keys().filter(|id| !now.contains_key(id));
        soft.lost.extend(lost.filter(|id| !soft.open.contains(id)));
        soft.undone = soft.undone.or(soft.lost.first().copied());
        Ok(())
    }

    /// A fresh id. Writes nothing, and waits for nothing, as long as other changes renew the reservation in time.
    pub(crate) fn allocate(&self) -> Result<LayerId> {
        {
            let mut inner = self.lock();
            let id = inner.soft.next_id;
            if id < inner.soft.reserved_ids {
                inner.soft.next_id += 1;
                return Ok(LayerId(id));
            }
        }
        self.transact(|inner| {
            let id = inner.soft.next_id;
            inner.soft.next_id += 1;
            let exhausted = id >= inner.state.reserved_ids;
            let reserve = exhausted.then_some(Change::ReserveIds(id + ID_BLOCK));
            Ok((LayerId(id), reserve.into_iter().collect()))
        })
    }

    /// Layers whose data may not have reached the disk.
    pub(crate) fn unsynced(&self) -> BTreeSet<LayerId> {
        let inner = self.lock();
        let layers = inner.state.layers.iter();
        layers
            .filter(|(_, l)| l.boot.is_some() && !l.active)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Committed layers that have not been counted.
    pub(crate) fn unsettled(&self) -> Vec<LayerId> {
        let inner = self.lock();
        let layers = inner.state.layers.iter();
        layers
            .filter(|(_, l)| l.usage.is_none() && !l.active)
            .map(|(id, _)| *id)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering, thread, time::SystemTime};

    use super::*;
    use crate::state::LayerRecord;

    fn open(root: &std::path::Path) -> Core {
        let layout = Layout::create(root).unwrap();
        let journal = Journal::open(&layout.database()).unwrap();
        let state = journal.load().unwrap();
        Core::new(layout, journal, state, "boot".into(), vec![]).unwrap()
    }

    fn put(core: &Core) -> Result<LayerId> {
        let id = core.allocate()?;
        let record = LayerRecord::new(None, SystemTime::UNIX_EPOCH);
        core.transact(|_| Ok((id, vec![Change::PutLayer(id, record)])))
    }

    #[test]
    fn a_failed_write_changes_nothing_and_later_ones_work() {
        let dir = tempfile::tempdir().unwrap();
        let core = open(dir.path());
        let kept = put(&core).unwrap();
        core.journal.failing.store(true, Ordering::Relaxed);
        assert!(matches!(put(&core), Err(Error::Metadata(_))));
        assert_eq!(
            core.lock().state.layers.keys().copied().collect::<Vec<_>>(),
            [kept]
        );
        core.journal.failing.store(false, Ordering::Relaxed);
        let next = put(&core).unwrap();
        assert!(next > kept);
        assert_eq!(core.journal.load().unwrap(), core.lock().state);
    }

    #[test]
    fn a_change_that_is_written_later_is_seen_at_once_and_undone_if_its_write_fails() {
        let dir = tempfile::tempdir().unwrap();
        let core = open(dir.path());
        let put_later = || {
            let id = core.allocate().unwrap();
            let record = LayerRecord::new(None, SystemTime::UNIX_EPOCH);
            core.transact_later(|_| Ok((id, vec![Change::PutLayer(id, record)])))
                .unwrap()
        };
        let first = put_later();
        assert!(core.lock().state.layers.contains_key(&first));
        assert!(core.journal.load().unwrap().layers.is_empty());
        core.flush().unwrap();
        assert!(core.journal.load().unwrap().layers.contains_key(&first));
        let lost = put_later();
        core.journal.failing.store(true, Ordering::Relaxed);
        assert!(matches!(core.flush(), Err(Error::Metadata(_))));
        core.journal.failing.store(false, Ordering::Relaxed);
        assert!(!core.lock().state.layers.contains_key(&lost));
        let why = core.take_undone().unwrap();
        assert!(matches!(why, Error::Metadata(_)), "{why}");
        assert!(core.take_undone().is_none());
    }

    #[test]
    fn a_commit_that_anyone_s_write_undoes_gives_its_space_back_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let core = open(dir.path());
        let made = || {
            let id = core.allocate().unwrap();
            core.layout.make_layer(id, None).unwrap();
            id
        };
        let (unfinished, committed) = (made(), made());
        core.lock().soft.open.insert(unfinished);
        let record = LayerRecord::new(None, SystemTime::UNIX_EPOCH);
        let put = vec![Change::PutLayer(committed, record)];
        core.transact_later(|_| Ok(((), put))).unwrap();
        core.journal.failing.store(true, Ordering::Relaxed);
        let of_another = vec![Change::Own("another".into(), committed)];
        assert!(core.transact(|_| Ok(((), of_another))).is_err());
        let present: BTreeSet<LayerId> = core.layout.present().unwrap().into_iter().collect();
        assert_eq!(present, [unfinished].into());
        assert!(core.take_undone().is_some());
    }

    #[test]
    fn concurrent_changes_are_all_durable_and_fail_only_if_their_write_does() {
        let dir = tempfile::tempdir().unwrap();
        let core = open(dir.path());
        let put_many = || (0..50).filter_map(|_| put(&core).ok()).collect::<Vec<_>>();
        let mut done: Vec<LayerId> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(put_many)).collect();
            for _ in 0..20 {
                core.journal.failing.store(true, Ordering::Relaxed);
                thread::yield_now();
                core.journal.failing.store(false, Ordering::Relaxed);
                thread::yield_now();
            }
            threads
                .into_iter()
                .flat_map(|t| t.join().unwrap())
                .collect()
        });
        done.sort();
        let durable: Vec<LayerId> = core
            .journal
            .load()
            .unwrap()
            .layers
            .keys()
            .copied()
            .collect();
        assert_eq!(done, durable);
    }

    #[test]
    fn ids_are_reserved_before_they_are_used() {
        let dir = tempfile::tempdir().unwrap();
        let core = open(dir.path());
        for _ in 0..3 * ID_BLOCK {
            let id = core.allocate().unwrap();
            assert!(id.0 < core.lock().state.reserved_ids);
        }
        assert_eq!(
            core.journal.load().unwrap().reserved_ids,
            core.lock().state.reserved_ids
        );
    }
}
