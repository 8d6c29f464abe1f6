//! The key store: records, links and their upkeep, over memory or a file. It decides when a key is forgotten; it never
//! loads or deletes a result.
//!
//! ```text
//! l from input step selector to   →                 link
//! b to from input step selector   →                 the same, backwards
//! r key result                    → created_at      record
//! k result key                    →                 the same, backwards
//! u result                        → JSON            description and use
//! p key                           → JSON            what the key was made of
//! ```

use std::future::Future;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::channel::oneshot;
use jiff::Timestamp;

use crate::disk::DiskKv;
use crate::kv::{Batch, Kv, MemoryKv, Urgency};
use crate::link::{KeyId, KeyParts, Link, LinkRow};
use crate::record::{Record, ResultId, ResultInfo, ResultUsage, Update};
use crate::rows;

/// Why a store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The file could not be opened.
    #[error("opening cache {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: Arc<redb::Error>,
    },
    /// The file could not be read or written.
    #[error("reading or writing the cache")]
    Access(#[source] Arc<redb::Error>),
    /// The store was closed before the change was durable.
    #[error("the cache was closed before a change to it was durable")]
    Closed,
}

/// Resolves once a change is durable. The change itself does not depend on this being awaited.
#[must_use = "a change is durable only once this has resolved"]
pub struct Durable(Option<oneshot::Receiver<Result<(), StoreError>>>);

impl Durable {
    pub(crate) fn now() -> Self {
        Self(None)
    }

    pub(crate) fn later() -> (oneshot::Sender<Result<(), StoreError>>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(Some(receiver)))
    }

    /// Lets the change become durable when it does.
    pub fn unawaited(self) {}
}

impl Future for Durable {
    type Output = Result<(), StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(receiver) = &mut self.0 else {
            return Poll::Ready(Ok(()));
        };
        Pin::new(receiver)
            .poll(cx)
            .map(|outcome| outcome.unwrap_or(Err(StoreError::Closed)))
    }
}

/// Answers questions about keys at once. Whatever cannot be read is answered as unknown: a miss costs time, an error a build.
pub trait KeyIndex: Send + Sync {
    /// True where the key has a record or leads to another key.
    fn contains(&self, key: &KeyId) -> bool;
    /// Keys that a link from this key leads to.
    fn targets(&self, from: &KeyId, link: &Link) -> Vec<KeyId>;
    /// Links that lead to this key.
    fn backlinks(&self, to: &KeyId) -> Vec<(KeyId, Link)>;
    /// Results of a key, newest first.
    fn records(&self, key: &KeyId) -> Vec<Record>;
    /// What the key was made of, where that was told.
    fn parts(&self, key: &KeyId) -> Option<KeyParts>;
}

/// Keys, links and records. Changes are seen at once and durable when their future resolves.
#[derive(Clone)]
pub struct KeyStore {
    kv: Arc<dyn Kv>,
    /// Held by changes that first look: two of them never interleave.
    changing: Arc<Mutex<()>>,
}

impl KeyStore {
    /// A store that lives as long as the process.
    #[must_use]
    pub fn memory() -> Self {
        Self::over(Arc::new(MemoryKv::default()))
    }

    /// The store in this file, which is made if missing. Fails where it is not one, or another process has it open.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::over(Arc::new(DiskKv::open(path)?)))
    }

    fn over(kv: Arc<dyn Kv>) -> Self {
        Self {
            kv,
            changing: Arc::default(),
        }
    }

    /// Applies a change as a whole.
    pub fn record(&self, update: &Update) -> Durable {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.kv.write(self.batch(update), Urgency::Now)
    }

    /// Applies a change that need not survive the process, such as a shortcut between keys.
    pub fn note(&self, update: &Update) {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.kv
            .write(self.batch(update), Urgency::Later)
            .unawaited();
    }

    fn batch(&self, update: &Update) -> Batch {
        let mut batch = Vec::with_capacity(3 * update.results.len() + 2 * update.links.len() + 1);
        for row in &update.links {
            batch.push((rows::link(row), Some(Vec::new())));
            batch.push((rows::backlink(row), Some(Vec::new())));
        }
        for (key, result, info) in &update.results {
            let created = info.created_at.as_nanosecond().to_be_bytes();
            batch.push((rows::record(key, result), Some(created.to_vec())));
            batch.push((rows::key_of(result, key), Some(Vec::new())));
            let usage = self.usage(result).unwrap_or(ResultUsage {
                result: result.clone(),
                info: info.clone(),
                last_used_at: None,
                usage_count: 0,
            });
            batch.push((rows::usage(result), Some(rows::encode_usage(&usage))));
        }
        for (key, parts) in &update.parts {
            batch.push((rows::parts(key), Some(rows::encode_parts(parts))));
        }
        batch
    }

    /// Notes that a build took a result now. Unknown results are passed over.
    pub fn touch(&self, result: &ResultId, now: Timestamp) {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut usage) = self.usage(result) else {
            return;
        };
        usage.last_used_at = Some(now);
        usage.usage_count += 1;
        let row = (rows::usage(result), Some(rows::encode_usage(&usage)));
        self.kv.write(vec![row], Urgency::Later).unawaited();
    }

    /// Forgets a result, and every key and link that then leads nowhere.
    pub fn release(&self, result: &ResultId) -> Durable {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = self.keys_of(result);
        let mut batch = vec![(rows::usage(result), None)];
        for key in &keys {
            batch.push((rows::record(key, result), None));
            batch.push((rows::key_of(result, key), None));
        }
        let mut durable = self.kv.write(batch, Urgency::Now);
        let mut bare = keys;
        while let Some(key) = bare.pop() {
            if self.contains(&key) {
                continue;
            }
            let mut batch = vec![(rows::parts(&key), None)];
            for (from, link) in self.backlinks(&key) {
                let row = LinkRow {
                    from,
                    link,
                    to: key,
                };
                batch.push((rows::link(&row), None));
                batch.push((rows::backlink(&row), None));
                bare.push(from);
            }
            // Durability is in order, so the last change's covers the earlier ones.
            durable = self.kv.write(batch, Urgency::Now);
        }
        durable
    }

    /// Description and use of a result.
    #[must_use]
    pub fn usage(&self, result: &ResultId) -> Option<ResultUsage> {
        let value = noted(self.kv.get(&rows::usage(result)))??;
        rows::decode_usage(result.clone(), &value)
    }

    /// All results with description and use, by name.
    #[must_use]
    pub fn usages(&self) -> Vec<ResultUsage> {
        self.collect(&[rows::USAGE], |row, value| {
            rows::decode_usage(rows::result_of_usage(row)?, value)
        })
    }

    /// Keys that have this result.
    #[must_use]
    pub fn keys_of(&self, result: &ResultId) -> Vec<KeyId> {
        self.collect(&rows::keys_of(result), |row, _| rows::last_key(row))
    }

    fn collect<T>(&self, prefix: &[u8], read: impl Fn(&[u8], &[u8]) -> Option<T>) -> Vec<T> {
        let mut found = Vec::new();
        let scanned = self.kv.scan(prefix, &mut |row, value| {
            found.extend(read(row, value));
            ControlFlow::Continue(())
        });
        noted(scanned);
        found
    }

    fn any(&self, prefix: &[u8], counts: impl Fn(&[u8]) -> bool) -> bool {
        let mut found = false;
        let scanned = self.kv.scan(prefix, &mut |row, _| {
            found = counts(row);
            if found {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        noted(scanned);
        found
    }
}

impl KeyIndex for KeyStore {
    fn contains(&self, key: &KeyId) -> bool {
        // A copy of a copy may have the key of what it copies: a link to itself leads nowhere.
        self.any(&rows::records(key), |_| true)
            || self.any(&rows::links_from(key), |row| {
                rows::last_key(row) != Some(*key)
            })
    }

    fn targets(&self, from: &KeyId, link: &Link) -> Vec<KeyId> {
        self.collect(&rows::targets(from, link), |row, _| rows::last_key(row))
    }

    fn backlinks(&self, to: &KeyId) -> Vec<(KeyId, Link)> {
        self.collect(&rows::backlinks(to), |row, _| rows::decode_backlink(row))
    }

    fn records(&self, key: &KeyId) -> Vec<Record> {
        let mut records = self.collect(&rows::records(key), |row, value| {
            Some(Record {
                key: *key,
                result: rows::result_of_record(row)?,
                created_at: rows::decode_time(value)?,
            })
        });
        records.sort_by_key(|record| std::cmp::Reverse(record.created_at));
        records
    }

    fn parts(&self, key: &KeyId) -> Option<KeyParts> {
        let value = noted(self.kv.get(&rows::parts(key)))??;
        rows::decode_parts(&value)
    }
}

fn noted<T>(read: Result<T, StoreError>) -> Option<T> {
    read.inspect_err(|error| tracing::error!(%error, "the cache could not be read"))
        .ok()
}

impl ResultInfo {
    /// What made it and when, of the common kind.
    #[must_use]
    pub fn new(created_at: Timestamp, description: impl Into<String>) -> Self {
        Self {
            created_at,
            description: description.into(),
            kind: "regular".to_owned(),
        }
    }
}
