//! The history itself: which builds run, which have ended, who listens, and in which order a build's record, its blobs and
//! its trace become visible. A query waits for records that are being written; a build's answer does not.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use shipway_backend::{BackendError, Host, Lease, Namespace};
use shipway_model::Descriptor;
use shipway_model::progress::Event as Progress;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::filter::{InvalidQuery, RecordFilter};
use crate::record::blobs_namespace;
use crate::store::Store;
use crate::{HistoryError, Record, Retention, TraceParent, blobs, spans};

/// How long a trace waits for its client's spans, unless somebody asks for it.
const TRACE_PATIENCE: Duration = Duration::from_secs(3);
/// Media type of a trace.
const TRACE: &str = "application/vnd.buildkit.otlp.json.v0";
/// Name of the lease of a record's blobs, less its id. Upstream's, so that tools that look find it.
const LEASE: &str = "ref_";

/// Namespace and id of a build.
type Key = (String, String);

/// What happened to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Its build began.
    Started,
    /// Its build ended, or a record of an ended build changed.
    Complete,
    /// It is gone.
    Deleted,
}

/// A change of the history.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The record; of a deleted one only its id and namespace.
    pub record: Record,
}

/// What somebody wants to know.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Namespace of the builds.
    pub namespace: String,
    /// One build only, where it is not empty.
    pub id: String,
    /// No ended builds to begin with.
    pub active_only: bool,
    /// Filters of ended builds; any may match.
    pub filters: Vec<String>,
    /// Most ended builds, the newest; 0 for all.
    pub limit: i32,
}

/// What can be done to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Sets whether it is spared by retention.
    Pin(bool),
    /// Removes it and its blobs.
    Delete,
    /// Writes its trace now; returns when it is written.
    Finalize,
}

/// The history of all builds.
pub struct History {
    store: Arc<Store>,
    host: Arc<dyn Host>,
    retention: Retention,
    live: Mutex<Live>,
    settled: Notify,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

#[derive(Default)]
struct Live {
    namespaces: HashMap<String, Namespace>,
    active: BTreeMap<Key, Record>,
    /// Builds that have ended and whose records are being written.
    writing: HashSet<Key>,
    traces: HashMap<Key, Pending>,
    listeners: Vec<mpsc::UnboundedSender<Event>>,
    /// Spans that clients have sent, by trace; of traces of builds that still want them.
    spans: HashMap<String, ClientSpans>,
}

#[derive(Default)]
struct ClientSpans {
    builds: usize,
    spans: Vec<Value>,
}

/// A trace that is not written yet.
struct Pending {
    wanted: CancellationToken,
    written: CancellationToken,
}

/// The events of a query, as they come.
pub struct Listener {
    query: Query,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Listener {
    /// The next change; `None` when the history closes.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let event = self.events.recv().await?;
            let query = &self.query;
            let wanted = query.id.is_empty() || query.id == event.record.id;
            if wanted && query.namespace == event.record.namespace {
                return Some(event);
            }
        }
    }
}

impl History {
    /// The history in this file.
    pub fn open(
        path: &Path,
        host: Arc<dyn Host>,
        retention: Retention,
    ) -> Result<Arc<Self>, HistoryError> {
        Ok(Arc::new(Self {
            store: Arc::new(Store::open(path)?),
            host,
            retention,
            live: Mutex::default(),
            settled: Notify::new(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }))
    }

    /// True where builds are recorded.
    #[must_use]
    pub fn records(&self) -> bool {
        self.retention.records()
    }

    /// The namespace that the blobs of a namespace's history lie in.
    #[must_use]
    pub fn blobs_of(&self, namespace: &str) -> Namespace {
        let name = blobs_namespace(namespace);
        let mut live = self.live.lock();
        let known = live.namespaces.entry(name.clone());
        known.or_insert_with(|| self.host.namespace(&name)).clone()
    }

    /// A build begins; spans that its client sends are kept for it.
    pub fn begin(&self, record: Record, parent: Option<TraceParent>) {
        let mut live = self.live.lock();
        let trace = spans::trace_id(&record, parent);
        live.spans.entry(trace).or_default().builds += 1;
        live.active.insert(key(&record), record.clone());
        live.tell(&Event {
            kind: EventKind::Started,
            record,
        });
    }

    /// A build has ended and will be recorded: queries about it wait from now on.
    pub fn ending(&self, namespace: &str, id: &str) {
        let key = (namespace.to_owned(), id.to_owned());
        self.live.lock().writing.insert(key);
    }

    /// A lease to write a record's blobs under. They stay if the record is completed, and go if it is abandoned.
    pub async fn lease(&self, record: &Record) -> Result<Lease, HistoryError> {
        let kept = self.blobs_of(&record.namespace).leases;
        let lease = kept.keep(&format!("{LEASE}{}", record.id)).await;
        lease.map_err(|e| of_blobs(record, e))
    }

    /// Writes a blob of a record.
    pub async fn write(
        &self,
        record: &Record,
        lease: &Lease,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Descriptor, HistoryError> {
        let to = self.blobs_of(&record.namespace);
        let written = blobs::write(&to, lease, media_type, bytes, BTreeMap::new()).await;
        written.map_err(|e| of_blobs(record, e))
    }

    /// Copies an image that a record names, less its layers.
    pub async fn copy(
        &self,
        record: &Record,
        lease: &Lease,
        from: &Namespace,
        target: &Descriptor,
    ) -> Result<(), HistoryError> {
        let to = self.blobs_of(&record.namespace);
        let copied = blobs::copy(from, &to, lease, target).await;
        copied.map_err(|e| of_blobs(record, e))
    }

    /// Takes spans of a client's trace, in the form of SpanStub; those of no build that is known are dropped.
    pub fn client_spans(&self, trace: &str, mut spans: Vec<Value>) {
        if let Some(known) = self.live.lock().spans.get_mut(trace) {
            spans.truncate(spans::MOST.saturating_sub(known.spans.len()));
            known.spans.append(&mut spans);
        }
    }

    /// The spans of a client, for one of its builds that ends.
    fn take_spans(&self, trace: &str) -> Vec<Value> {
        let mut live = self.live.lock();
        let Some(known) = live.spans.get_mut(trace) else {
            return Vec::new();
        };
        known.builds -= 1;
        if known.builds > 0 {
            return known.spans.clone();
        }
        live.spans.remove(trace).unwrap_or_default().spans
    }

    /// Makes the record of a build that has ended durable and visible. Its trace, of `events`, follows when it is asked
    /// for, or after a while: the client's own spans come last.
    pub async fn complete(
        self: &Arc<Self>,
        record: Record,
        parent: Option<TraceParent>,
        events: Vec<Progress>,
    ) -> Result<(), HistoryError> {
        let key = key(&record);
        let stored = self.put(record.clone()).await;
        let mut live = self.live.lock();
        live.active.remove(&key);
        if stored.is_ok() {
            let pending = Pending {
                wanted: self.stopping.child_token(),
                written: CancellationToken::new(),
            };
            let (wanted, written) = (pending.wanted.clone(), pending.written.clone());
            live.traces.insert(key.clone(), pending);
            let history = Arc::clone(self);
            let traced = record.clone();
            self.tasks.spawn(async move {
                let _written = written.drop_guard();
                // A trace that nobody asks for is written after a while all the same.
                drop(tokio::time::timeout(TRACE_PATIENCE, wanted.cancelled()).await);
                let client = history.take_spans(&spans::trace_id(&traced, parent));
                let bytes = spans::encode(&traced, parent, &events, client);
                if let Err(error) = history.add_trace(&traced, bytes).await {
                    tracing::warn!(build = traced.id, %error, "recording a build's trace");
                }
                history
                    .live
                    .lock()
                    .traces
                    .remove(&super::history::key(&traced));
            });
            live.tell(&Event {
                kind: EventKind::Complete,
                record,
            });
        }
        live.writing.remove(&key);
        drop(live);
        self.settled.notify_waiters();
        stored
    }

    /// Gives a build that began no record after all.
    pub async fn abandon(&self, record: &Record, parent: Option<TraceParent>) {
        let key = key(record);
        {
            let mut live = self.live.lock();
            live.active.remove(&key);
            live.writing.remove(&key);
        }
        self.take_spans(&spans::trace_id(record, parent));
        self.settled.notify_waiters();
        self.forget_blobs(&record.namespace, &record.id).await;
    }

    /// The record of a build that has ended.
    pub async fn find(&self, namespace: &str, id: &str) -> Result<Option<Record>, HistoryError> {
        self.settle(namespace, id).await;
        let (namespace, id) = (namespace.to_owned(), id.to_owned());
        self.blocking(move |store| store.get(&namespace, &id)).await
    }

    /// What a query finds now, and what changes from then on. An event between the two may be told twice, never not at all.
    pub async fn listen(&self, query: Query) -> Result<(Vec<Event>, Listener), HistoryError> {
        let now = Timestamp::now();
        let read = |text: &String| RecordFilter::parse(text, now);
        let filters: Vec<RecordFilter> =
            query.filters.iter().map(read).collect::<Result<_, _>>()?;
        if !query.active_only {
            self.settle(&query.namespace, &query.id).await;
        }
        let (sender, events) = mpsc::unbounded_channel();
        let wanted = |record: &Record| {
            record.namespace == query.namespace && (query.id.is_empty() || record.id == query.id)
        };
        let mut found: Vec<Event> = {
            let mut live = self.live.lock();
            live.listeners.push(sender);
            let active = live.active.values().filter(|record| wanted(record));
            let event = |record: &Record| Event {
                kind: EventKind::Started,
                record: record.clone(),
            };
            active.map(event).collect()
        };
        if !query.active_only {
            let mut ended = self.blocking(Store::all).await?;
            ended.retain(|record| {
                wanted(record) && (filters.is_empty() || filters.iter().any(|f| f.matches(record)))
            });
            found.extend(newest(ended, query.limit)?.into_iter().map(|record| Event {
                kind: EventKind::Complete,
                record,
            }));
        }
        Ok((found, Listener { query, events }))
    }

    /// Changes the record of a build that has ended. Deleting and finalizing what is not there does nothing.
    pub async fn change(
        &self,
        namespace: &str,
        id: &str,
        change: Change,
    ) -> Result<(), HistoryError> {
        self.settle(namespace, id).await;
        match change {
            Change::Finalize => self.finalize(namespace, id).await,
            Change::Delete => {
                // The trace's writer must not bring the record back.
                self.finalize(namespace, id).await;
                self.delete(namespace, id).await?;
            }
            Change::Pin(pinned) => {
                let found = self.find(namespace, id).await?;
                let mut record = found.ok_or_else(|| HistoryError::NotFound(id.to_owned()))?;
                if record.pinned != pinned {
                    record.pinned = pinned;
                    self.changed(record).await?;
                }
            }
        }
        Ok(())
    }

    /// Forgets what retention does not spare, records whose blobs are gone, and blobs whose record is gone.
    pub async fn collect(&self, namespaces: &[String]) -> Result<(), HistoryError> {
        let records = self.blocking(Store::all).await?;
        for (namespace, id) in self.retention.surplus(&records, Timestamp::now()) {
            self.change(&namespace, &id, Change::Delete).await?;
        }
        for record in &records {
            let blobs = self.blobs_of(&record.namespace).blobs;
            for digest in record.blobs() {
                let info = blobs.info(&digest).await;
                if info.map_err(|e| of_blobs(record, e))?.is_none() {
                    tracing::warn!(build = record.id, "forgetting a build whose blobs are gone");
                    self.delete(&record.namespace, &record.id).await?;
                    break;
                }
            }
        }
        for namespace in namespaces {
            self.forget_orphans(namespace, &records).await;
        }
        Ok(())
    }

    /// Writes the traces that are still to come, and ends all listeners.
    pub async fn close(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.live.lock().listeners.clear();
    }

    async fn forget_orphans(&self, namespace: &str, records: &[Record]) {
        let leases = self.blobs_of(namespace).leases;
        let kept = match leases.kept().await {
            Ok(kept) => kept,
            // Before the first build of all the namespace is not there.
            Err(error) if error.is_not_found() => return,
            Err(error) => {
                tracing::warn!(%error, namespace, "looking for blobs of forgotten builds");
                return;
            }
        };
        for name in kept {
            let Some(id) = name.strip_prefix(LEASE) else {
                continue;
            };
            let known = records
                .iter()
                .any(|record| record.id == id && record.namespace == namespace);
            let active = {
                let live = self.live.lock();
                let key = (namespace.to_owned(), id.to_owned());
                live.active.contains_key(&key) || live.writing.contains(&key)
            };
            if !known && !active {
                self.forget_blobs(namespace, id).await;
            }
        }
    }

    async fn finalize(&self, namespace: &str, id: &str) {
        let key = (namespace.to_owned(), id.to_owned());
        let written = {
            let live = self.live.lock();
            let Some(pending) = live.traces.get(&key) else {
                return;
            };
            pending.wanted.cancel();
            pending.written.clone()
        };
        written.cancelled().await;
    }

    async fn add_trace(&self, record: &Record, bytes: Bytes) -> Result<(), HistoryError> {
        let Some(mut current) = self.find(&record.namespace, &record.id).await? else {
            return Ok(());
        };
        let lease = self.lease(record).await?;
        current.trace = Some(self.write(record, &lease, TRACE, bytes).await?);
        self.changed(current).await
    }

    async fn changed(&self, mut record: Record) -> Result<(), HistoryError> {
        record.generation += 1;
        self.put(record.clone()).await?;
        self.live.lock().tell(&Event {
            kind: EventKind::Complete,
            record,
        });
        Ok(())
    }

    async fn delete(&self, namespace: &str, id: &str) -> Result<(), HistoryError> {
        let (of, named) = (namespace.to_owned(), id.to_owned());
        let removed = self
            .blocking(move |store| store.remove(&of, &named))
            .await?;
        if removed {
            let record = Record::begun(id, namespace, Timestamp::UNIX_EPOCH);
            self.live.lock().tell(&Event {
                kind: EventKind::Deleted,
                record,
            });
            self.forget_blobs(namespace, id).await;
        }
        Ok(())
    }

    async fn forget_blobs(&self, namespace: &str, id: &str) {
        let leases = self.blobs_of(namespace).leases;
        if let Err(error) = leases.forget(&format!("{LEASE}{id}")).await {
            // The next collection tries again.
            tracing::warn!(build = id, %error, "forgetting a build's blobs");
        }
    }

    async fn put(&self, record: Record) -> Result<(), HistoryError> {
        self.blocking(move |store| store.put(&record)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, HistoryError> + Send + 'static,
    ) -> Result<T, HistoryError> {
        let (store, (reply, done)) = (Arc::clone(&self.store), oneshot::channel());
        tokio::task::spawn_blocking(move || {
            // Whoever asked may be gone; the work is done all the same.
            drop(reply.send(work(&store)));
        });
        done.await.unwrap_or(Err(HistoryError::Ended))
    }

    /// Waits until no record that a query may concern is being written.
    async fn settle(&self, namespace: &str, id: &str) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let concerns = |(of, named): &Key| of == namespace && (id.is_empty() || named == id);
            if !self.live.lock().writing.iter().any(concerns) {
                return;
            }
            settled.await;
        }
    }
}

impl Live {
    fn tell(&mut self, event: &Event) {
        self.listeners
            .retain(|listener| listener.send(event.clone()).is_ok());
    }
}

fn key(record: &Record) -> Key {
    (record.namespace.clone(), record.id.clone())
}

fn of_blobs(record: &Record, error: BackendError) -> HistoryError {
    HistoryError::Blobs {
        id: record.id.clone(),
        source: Arc::new(error),
    }
}

/// The newest records where there is a limit; all, in the file's order, where there is none.
fn newest(mut records: Vec<Record>, limit: i32) -> Result<Vec<Record>, InvalidQuery> {
    let most = usize::try_from(limit).map_err(|_| InvalidQuery::Limit(limit))?;
    if most > 0 {
        records.sort_by_key(|record| std::cmp::Reverse(record.created));
        records.truncate(most);
    }
    Ok(records)
}

#[cfg(test)]
mod tests;
