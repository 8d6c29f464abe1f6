//! State, journal and what lives only in memory, behind one lock that is never held over a disk write. Every change
//! goes through [`Core::transact`]: decided and applied under the lock, then written; callers that change things at
//! the same time share one durable write.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
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

/// Everything shared between handles, guards and the worker.
#[derive(Debug)]
pub(crate) struct Core {
    pub layout: Layout,
    pub boot: String,
    pub mount_options: Vec<String>,
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
    next_id: u64,
}

/// Changes that are applied but not yet durable.
#[derive(Debug, Default)]
struct Queue {
    changes: Vec<Change>,
    last_ticket: u64,
    settled_ticket: u64,
    failed: HashMap<u64, Arc<redb::Error>>,
    writing: bool,
}

impl Core {
    pub(crate) fn new(
        layout: Layout,
        journal: Journal,
        state: State,
        boot: String,
        mount_options: Vec<String>,
    ) -> Self {
        // Ids below the reservation may have been handed out before the last stop.
        let soft = Soft {
            next_id: state.reserved_ids,
            ..Soft::default()
        };
        let inner = Inner {
            state,
            soft,
            queue: Queue::default(),
        };
        Self {
            layout,
            boot,
            mount_options,
            journal,
            inner: Mutex::new(inner),
            settled: Condvar::new(),
        }
    }

    /// The lock. A panic elsewhere cannot leave the state half changed (`apply` does not fail), so poison is ignored.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides on changes under the lock and returns when they are durable. After an error nothing has changed.
    pub(crate) fn transact<T>(
        &self,
        decide: impl FnOnce(&mut Inner) -> Result<(T, Vec<Change>)>,
    ) -> Result<T> {
        let mut inner = self.lock();
        let (value, changes) = decide(&mut inner)?;
        if changes.is_empty() {
            return Ok(value);
        }
        inner.state.apply(&changes);
        inner.queue.changes.extend(changes);
        inner.queue.last_ticket += 1;
        let ticket = inner.queue.last_ticket;
        while inner.queue.settled_ticket < ticket {
            inner = if inner.queue.writing {
                self.settled
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner)
            } else {
                self.write_queue(inner)
            };
        }
        match inner.queue.failed.remove(&ticket) {
            None => Ok(value),
            Some(error) => Err(Error::Metadata(error)),
        }
    }

    /// Writes what is queued, with the lock released meanwhile. On failure memory returns to what the disk says, and
    /// everything queued by then fails: it was decided on a state that never became durable.
    fn write_queue<'a>(&'a self, mut inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        let changes = mem::take(&mut inner.queue.changes);
        let upto = inner.queue.last_ticket;
        inner.queue.writing = true;
        drop(inner);
        let written = self.journal.write(&changes);
        let mut inner = self.lock();
        inner.queue.writing = false;
        match written {
            Ok(()) => inner.queue.settled_ticket = upto,
            Err(error) => self.roll_back(&mut inner, error),
        }
        self.settled.notify_all();
        inner
    }

    fn roll_back(&self, inner: &mut Inner, error: Error) {
        let error = match error {
            Error::Metadata(error) => error,
            other => Arc::new(redb::Error::Corrupted(other.to_string())),
        };
        inner.queue.changes.clear();
        for ticket in inner.queue.settled_ticket + 1..=inner.queue.last_ticket {
            inner.queue.failed.insert(ticket, Arc::clone(&error));
        }
        inner.queue.settled_ticket = inner.queue.last_ticket;
        match self.journal.load() {
            Ok(state) => inner.state = state,
            Err(e) => {
                tracing::error!(error = %e, "reading the layer store's metadata back after a failed write")
            }
        }
    }

    /// A fresh id.
    pub(crate) fn allocate(&self) -> Result<LayerId> {
        self.transact(|inner| {
            let id = inner.soft.next_id;
            inner.soft.next_id += 1;
            let reserve =
                (id >= inner.state.reserved_ids).then_some(Change::ReserveIds(id + ID_BLOCK));
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
