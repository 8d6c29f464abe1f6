//! The ordered byte map under a key store: its contract, and the one that lives in memory. It knows no keys or links.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{PoisonError, RwLock};

use crate::store::{Durable, StoreError};

/// Changes: a value to set, or `None` to remove.
pub(crate) type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// How soon a change must be durable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Somebody waits for it.
    Now,
    /// Together with a later change; it may be lost with the process.
    Later,
}

/// What a scan does with each row.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// An ordered byte map. A write is seen by every read that begins after `write` returned; it is applied as a whole;
/// it survives the process once the future has resolved. Writes become durable in the order they were made.
pub(crate) trait Kv: Send + Sync {
    /// The value of a row.
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Visits the rows that start with `prefix`, in order, until told to stop.
    fn scan(&self, prefix: &[u8], visit: Visit<'_>) -> Result<(), StoreError>;
    /// Applies the changes.
    fn write(&self, batch: Batch, urgency: Urgency) -> Durable;
}

/// Rows in memory: durable as far as the process is.
#[derive(Default)]
pub(crate) struct MemoryKv(RwLock<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Kv for MemoryKv {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Ok(rows.get(row).cloned())
    }

    fn scan(&self, prefix: &[u8], visit: Visit<'_>) -> Result<(), StoreError> {
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let rows = rows.range::<[u8], _>((
            std::ops::Bound::Included(prefix),
            std::ops::Bound::Unbounded,
        ));
        for (row, value) in rows.take_while(|(row, _)| row.starts_with(prefix)) {
            if visit(row, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, batch: Batch, _: Urgency) -> Durable {
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (row, value) in batch {
            match value {
                Some(value) => rows.insert(row, value),
                None => rows.remove(&row),
            };
        }
        Durable::now()
    }
}
