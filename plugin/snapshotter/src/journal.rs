//! The durable side of the metadata: a redb file that holds the records of `state`. Decides nothing about their
//! meaning.
//!
//! Tables: `entries` key → JSON, `layers` id → JSON, `owners` (owner, layer) → (), `meta` name → number.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{Error, Result},
    model::LayerId,
    state::{Change, State},
};

const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
const LAYERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("layers");
const OWNERS: TableDefinition<'_, (&str, u64), ()> = TableDefinition::new("owners");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

const FORMAT: &str = "format";
const RESERVED_IDS: &str = "reserved-ids";
const IDENTITY: &str = "identity";
/// Layout of the tables and of `layers/`. A store with another number is refused.
const CURRENT_FORMAT: u64 = 1;
/// The records are mirrored in memory, so the database needs little cache of its own.
const CACHE_BYTES: usize = 1 << 20;

/// The database file; open, and so locked against other processes, unless reopening it after a failure failed.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    db: Mutex<Option<Database>>,
    /// Makes the next writes fail.
    #[cfg(test)]
    pub(crate) failing: std::sync::atomic::AtomicBool,
}

impl Journal {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let db = Mutex::new(Some(open(path)?));
        Ok(Self {
            path: path.into(),
            db,
            #[cfg(test)]
            failing: false.into(),
        })
    }

    /// Reads everything.
    pub(crate) fn load(&self) -> Result<State> {
        let mut db = self.lock();
        load(self.opened(&mut db)?)
    }

    /// A number that tells this store from one that was here before or comes after it.
    pub(crate) fn identity(&self) -> Result<u64> {
        let mut db = self.lock();
        let txn = self.opened(&mut db)?.begin_read()?;
        let identity = txn.open_table(META)?.get(IDENTITY)?;
        Ok(identity.map_or(0, |value| value.value()))
    }

    /// Makes all changes durable together, or none. After a failure the file is closed: redb refuses to go on until
    /// it has checked what reached the disk, which the next use makes it do.
    pub(crate) fn write(&self, changes: &[Change]) -> Result<()> {
        let mut db = self.lock();
        #[cfg(test)]
        if self.failing.load(std::sync::atomic::Ordering::Relaxed) {
            *db = None;
            return Err(redb::StorageError::PreviousIo.into());
        }
        let written = write(self.opened(&mut db)?, changes);
        if written.is_err() {
            *db = None;
        }
        written
    }

    fn lock(&self) -> MutexGuard<'_, Option<Database>> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened<'a>(&self, db: &'a mut Option<Database>) -> Result<&'a Database> {
        let open = match db.take() {
            Some(open) => open,
            None => open(&self.path)?,
        };
        Ok(db.insert(open))
    }
}

fn open(path: &Path) -> Result<Database> {
    let db = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create(path)
        .map_err(|e| match e {
            DatabaseError::DatabaseAlreadyOpen => Error::InUse(path.into()),
            other => other.into(),
        })?;
    initialise(&db)?;
    Ok(db)
}

fn initialise(db: &Database) -> Result<()> {
    let txn = db.begin_write()?;
    {
        txn.open_table(ENTRIES)?;
        txn.open_table(LAYERS)?;
        txn.open_table(OWNERS)?;
        let mut meta = txn.open_table(META)?;
        let format = meta.get(FORMAT)?.map(|v| v.value());
        match format {
            None => {
                meta.insert(FORMAT, CURRENT_FORMAT)?;
            }
            Some(CURRENT_FORMAT) if meta.get(IDENTITY)?.is_some() => return Ok(()),
            Some(CURRENT_FORMAT) => {}
            Some(other) => {
                return Err(Error::Invalid(format!(
                    "the layer store has format {other}, this version knows {CURRENT_FORMAT}"
                )));
            }
        }
        meta.insert(IDENTITY, identity())?;
    }
    Ok(txn.commit()?)
}

/// A number that no other store has.
fn identity() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    // The standard library's hasher is keyed by the system's random source.
    RandomState::new().hash_one(std::time::SystemTime::now())
}

fn load(db: &Database) -> Result<State> {
    let txn = db.begin_read()?;
    let mut state = State::default();
    for row in txn.open_table(ENTRIES)?.iter()? {
        let (key, value) = row?;
        state
            .entries
            .insert(key.value().into(), decode(key.value(), value.value())?);
    }
    for row in txn.open_table(LAYERS)?.iter()? {
        let (id, value) = row?;
        let id = LayerId(id.value());
        state
            .layers
            .insert(id, decode(&format!("layer {id}"), value.value())?);
    }
    for row in txn.open_table(OWNERS)?.iter()? {
        let (key, _) = row?;
        let (owner, id) = key.value();
        state
            .owners
            .entry(owner.into())
            .or_default()
            .insert(LayerId(id));
    }
    let meta = txn.open_table(META)?;
    state.reserved_ids = meta.get(RESERVED_IDS)?.map_or(0, |v| v.value());
    state.derive();
    Ok(state)
}

fn write(db: &Database, changes: &[Change]) -> Result<()> {
    let txn = db.begin_write()?;
    {
        let mut entries = txn.open_table(ENTRIES)?;
        let mut layers = txn.open_table(LAYERS)?;
        let mut owners = txn.open_table(OWNERS)?;
        let mut meta = txn.open_table(META)?;
        for change in changes {
            match change {
                Change::PutEntry(key, record) => {
                    entries.insert(key.as_str(), encode(key, record)?.as_slice())?;
                }
                Change::DropEntry(key) => drop(entries.remove(key.as_str())?),
                Change::PutLayer(id, record) => {
                    layers.insert(id.0, encode("a layer", record)?.as_slice())?;
                }
                Change::DropLayer(id) => drop(layers.remove(id.0)?),
                Change::Own(owner, id) => drop(owners.insert((owner.as_str(), id.0), ())?),
                Change::Disown(owner, id) => drop(owners.remove((owner.as_str(), id.0))?),
                Change::ReserveIds(limit) => drop(meta.insert(RESERVED_IDS, *limit)?),
            }
        }
    }
    Ok(txn.commit()?)
}

fn encode<T: Serialize>(what: &str, record: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|source| Error::Damaged {
        what: what.into(),
        source,
    })
}

fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| Error::Damaged {
        what: what.into(),
        source,
    })
}
