//! Records in a redb file, by namespace and id. Blocking: callers keep it off the runtime's threads. It decides nothing.

use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use crate::{HistoryError, Record};

/// `NAMESPACE NUL ID` → JSON of the record.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");

/// Bytes of the file that are kept in memory.
const PAGE_CACHE: usize = 1 << 20;

pub(crate) struct Store(Database);

fn access(error: impl Into<redb::Error>) -> HistoryError {
    HistoryError::Access(Arc::new(error.into()))
}

fn row(namespace: &str, id: &str) -> String {
    format!("{namespace}\0{id}")
}

fn read(id: &str, bytes: &[u8]) -> Result<Record, HistoryError> {
    serde_json::from_slice(bytes).map_err(|source| HistoryError::Malformed {
        id: id.replace('\0', "/"),
        source: Arc::new(source),
    })
}

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Self, HistoryError> {
        let opening = |source: redb::Error| HistoryError::Open {
            path: path.to_owned(),
            source: Arc::new(source),
        };
        let database = Database::builder()
            .set_cache_size(PAGE_CACHE)
            .create(path)
            .map_err(|e| opening(e.into()))?;
        let made = || -> Result<(), redb::Error> {
            let change = database.begin_write()?;
            change.open_table(RECORDS)?;
            change.commit()?;
            Ok(())
        };
        made().map_err(opening)?;
        Ok(Self(database))
    }

    /// Every record, of every namespace.
    pub(crate) fn all(&self) -> Result<Vec<Record>, HistoryError> {
        let reading = self.0.begin_read().map_err(access)?;
        let table = reading.open_table(RECORDS).map_err(access)?;
        let mut records = Vec::new();
        for entry in table.iter().map_err(access)? {
            let (row, bytes) = entry.map_err(access)?;
            records.push(read(row.value(), bytes.value())?);
        }
        Ok(records)
    }

    pub(crate) fn get(&self, namespace: &str, id: &str) -> Result<Option<Record>, HistoryError> {
        let reading = self.0.begin_read().map_err(access)?;
        let table = reading.open_table(RECORDS).map_err(access)?;
        let found = table.get(row(namespace, id).as_str()).map_err(access)?;
        found.map(|bytes| read(id, bytes.value())).transpose()
    }

    /// Durable when this returns.
    pub(crate) fn put(&self, record: &Record) -> Result<(), HistoryError> {
        let bytes = serde_json::to_vec(record).map_err(|source| HistoryError::Malformed {
            id: record.id.clone(),
            source: Arc::new(source),
        })?;
        let change = self.0.begin_write().map_err(access)?;
        change
            .open_table(RECORDS)
            .map_err(access)?
            .insert(row(&record.namespace, &record.id).as_str(), &*bytes)
            .map_err(access)?;
        change.commit().map_err(access)
    }

    /// True where there was one. Durable when this returns.
    pub(crate) fn remove(&self, namespace: &str, id: &str) -> Result<bool, HistoryError> {
        let change = self.0.begin_write().map_err(access)?;
        let removed = change
            .open_table(RECORDS)
            .map_err(access)?
            .remove(row(namespace, id).as_str())
            .map_err(access)?
            .is_some();
        change.commit().map_err(access)?;
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn records_outlive_the_store_and_stay_apart_by_namespace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.db");
        let record = |namespace: &str| Record::begun("a", namespace, Timestamp::UNIX_EPOCH);
        let store = Store::open(&path).unwrap();
        store.put(&record("one")).unwrap();
        store.put(&record("two")).unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.all().unwrap(), [record("one"), record("two")]);
        assert!(store.remove("one", "a").unwrap());
        assert!(!store.remove("one", "a").unwrap());
        assert_eq!(store.get("one", "a").unwrap(), None);
        assert_eq!(store.get("two", "a").unwrap(), Some(record("two")));
    }
}
