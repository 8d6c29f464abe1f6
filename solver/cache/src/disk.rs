//! The ordered byte map in a redb file. Reads see writes at once, from memory; one writer thread commits whatever has
//! gathered, so that many small records share one disk flush. It knows no keys or links.
//!
//! ```text
//! write ─► pending (row → value, generation) ─► writer: one transaction per round ─► file
//! read  ─► pending, else the snapshot taken after the last commit
//! ```

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use futures::channel::oneshot;
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase as _, TableDefinition};

use crate::kv::{Batch, Kv, Urgency, Visit};
use crate::store::{Durable, StoreError};

const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");

/// Rows that may gather in memory while none of them is urgent.
const LAZY_ROWS: usize = 1024;

/// Bytes of the file that are kept in memory.
const PAGE_CACHE: usize = 3 << 20;

pub(crate) struct DiskKv {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    pending: BTreeMap<Vec<u8>, Pending>,
    generation: u64,
    waiting: Vec<oneshot::Sender<Result<(), StoreError>>>,
    snapshot: Snapshot,
    closed: bool,
}

struct Pending {
    generation: u64,
    value: Option<Vec<u8>>,
}

impl DiskKv {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let opening = |source: redb::Error| StoreError::Open {
            path: path.to_owned(),
            source: Arc::new(source),
        };
        let database = Database::builder()
            .set_cache_size(PAGE_CACHE)
            .create(path)
            .map_err(|e| opening(e.into()))?;
        commit(&database, &[]).map_err(opening)?;
        let snapshot = snapshot(&database).map_err(opening)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                pending: BTreeMap::new(),
                generation: 0,
                waiting: Vec::new(),
                snapshot,
                closed: false,
            }),
            work: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("cache-writer".to_owned())
            .spawn(move || theirs.write_until_closed(&database))
            .map_err(|e| opening(redb::Error::Io(e)))?;
        Ok(Self {
            shared,
            writer: Some(writer),
        })
    }
}

impl Drop for DiskKv {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the cache's writer panicked");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_until_closed(&self, database: &Database) {
        let mut state = self.lock();
        loop {
            if state.closed && state.pending.is_empty() && state.waiting.is_empty() {
                return;
            }
            if !state.closed && state.waiting.is_empty() && state.pending.len() < LAZY_ROWS {
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waiting = std::mem::take(&mut state.waiting);
            let until = state.generation;
            let rows: Vec<_> = state
                .pending
                .iter()
                .map(|(row, pending)| (row.clone(), pending.value.clone()))
                .collect();
            drop(state);
            let written = commit(database, &rows).and_then(|()| snapshot(database));
            state = self.lock();
            // Rows of a failed round are given up: retrying a full disk for ever would hang their waiters.
            state
                .pending
                .retain(|_, pending| pending.generation > until);
            let outcome = written.map(|snapshot| state.snapshot = snapshot);
            let outcome = outcome.map_err(|e| StoreError::Access(Arc::new(e)));
            if let Err(error) = &outcome {
                tracing::error!(%error, "the cache could not be written");
            }
            for waiter in waiting {
                // A waiter may have lost interest.
                drop(waiter.send(outcome.clone()));
            }
        }
    }
}

fn commit(database: &Database, rows: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut table = transaction.open_table(ROWS)?;
        for (row, value) in rows {
            match value {
                Some(value) => drop(table.insert(row.as_slice(), value.as_slice())?),
                None => drop(table.remove(row.as_slice())?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

/// The rows as of one commit; keeps their pages.
type Snapshot = ReadOnlyTable<&'static [u8], &'static [u8]>;

fn snapshot(database: &Database) -> Result<Snapshot, redb::Error> {
    Ok(database.begin_read()?.open_table(ROWS)?)
}

fn access(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Access(Arc::new(error.into()))
}

impl Kv for DiskKv {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let state = self.shared.lock();
        if let Some(pending) = state.pending.get(row) {
            return Ok(pending.value.clone());
        }
        let value = state.snapshot.get(row).map_err(access)?;
        Ok(value.map(|v| v.value().to_vec()))
    }

    fn scan(&self, prefix: &[u8], visit: Visit<'_>) -> Result<(), StoreError> {
        let state = self.shared.lock();
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let mut fresh = state
            .pending
            .range::<[u8], _>(from)
            .take_while(|(row, _)| row.starts_with(prefix))
            .peekable();
        for entry in state.snapshot.range::<&[u8]>(from).map_err(access)? {
            let (row, value) = entry.map_err(access)?;
            if !row.value().starts_with(prefix) {
                break;
            }
            let mut shown = ControlFlow::Continue(());
            while shown.is_continue()
                && let Some((new, pending)) = fresh.next_if(|(new, _)| new.as_slice() < row.value())
            {
                shown = show(new, pending, visit);
            }
            if shown.is_break() {
                return Ok(());
            }
            let shown = match fresh.next_if(|(new, _)| new.as_slice() == row.value()) {
                Some((new, pending)) => show(new, pending, visit),
                None => visit(row.value(), value.value()),
            };
            if shown.is_break() {
                return Ok(());
            }
        }
        for (new, pending) in fresh {
            if show(new, pending, visit).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, batch: Batch, urgency: Urgency) -> Durable {
        let mut state = self.shared.lock();
        state.generation += 1;
        let generation = state.generation;
        for (row, value) in batch {
            state.pending.insert(row, Pending { generation, value });
        }
        let durable = match urgency {
            Urgency::Now => {
                let (sender, durable) = Durable::later();
                state.waiting.push(sender);
                durable
            }
            Urgency::Later => Durable::now(),
        };
        drop(state);
        self.shared.work.notify_one();
        durable
    }
}

fn show(row: &[u8], pending: &Pending, visit: Visit<'_>) -> ControlFlow<()> {
    match &pending.value {
        Some(value) => visit(row, value),
        None => ControlFlow::Continue(()),
    }
}
