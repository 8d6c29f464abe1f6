//! The store's one background thread: counts what was committed without a usage, syncs what containerd committed,
//! deletes trash and forgets aliases that nobody fetched. Nobody waits for it, so nothing that an answer depends on
//! is done here.

use std::{
    fs::File,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    alias,
    core::Core,
    error::{Error, Result},
    model::{LayerId, Usage},
    state::Change,
    usage::disk_usage,
};

/// How often pending aliases are looked at while there are any.
const AGE_CHECK: Duration = Duration::from_mins(1);

/// How long a sync waits for others when containerd committed: a pull of many layers shall not flush the filesystem for
/// each, but an image that was pulled shall soon survive the power.
pub(crate) const SYNC_SOON: Duration = Duration::from_secs(2);

/// The same for build steps, whose layers the daemon syncs itself when a build ends. By then the kernel has begun to
/// write them back of its own accord.
pub(crate) const SYNC_EVENTUALLY: Duration = Duration::from_secs(30);

/// Something to do later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    /// Count a committed layer and drop its work directory.
    Settle(LayerId),
    /// Drop a committed layer's work directory.
    DropWork(LayerId),
    /// Make committed contents durable after this time at the latest.
    Sync(Duration),
    /// Delete what is in the trash.
    EmptyTrash,
    /// Start looking at pending aliases.
    AgeOut,
}

/// The thread's handle. Dropping it stops the thread at its next step and waits for that.
#[derive(Debug)]
pub(crate) struct Worker {
    sender: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    syncer: Arc<Syncer>,
}

impl Worker {
    pub(crate) fn start(core: Arc<Core>) -> Result<Self> {
        let syncer = Arc::new(Syncer::new(&core)?);
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = channel();
        let run = Run {
            sync_due: None,
            core,
            syncer: Arc::clone(&syncer),
            stop: Arc::clone(&stop),
        };
        let thread = Builder::new()
            .name("layer-store".into())
            .spawn(move || run.until_closed(&receiver))
            .map_err(Error::io("starting a thread for", "the layer store"))?;
        Ok(Self {
            sender: Some(sender),
            thread: Some(thread),
            stop,
            syncer,
        })
    }

    pub(crate) fn send(&self, job: Job) {
        // The thread ends only after the sender is dropped, so sending fails only if it panicked.
        if let Some(sender) = &self.sender
            && sender.send(job).is_err()
        {
            tracing::error!(?job, "the layer store's background thread is gone");
        }
    }

    pub(crate) fn sync(&self, core: &Core) -> Result<()> {
        self.syncer.sync(core)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.sender = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the layer store's background thread panicked");
        }
    }
}

/// Makes contents durable. Its descriptor is open from the start because the kernel reports a failed write-back only
/// to descriptors that were open by then.
#[derive(Debug)]
struct Syncer {
    root: Mutex<File>,
}

impl Syncer {
    fn new(core: &Core) -> Result<Self> {
        let root = core.layout.root();
        Ok(Self {
            root: Mutex::new(File::open(root).map_err(Error::io("opening", root))?),
        })
    }

    fn sync(&self, core: &Core) -> Result<()> {
        let root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        let ids = core.unsynced();
        if ids.is_empty() {
            return Ok(());
        }
        rustix::fs::syncfs(&*root)
            .map_err(|e| Error::io("syncing the filesystem of", core.layout.root())(e.into()))?;
        drop(root);
        core.transact(|inner| {
            let layers = ids
                .iter()
                .filter_map(|id| Some((*id, inner.state.layers.get(id)?.clone())));
            let synced = layers.map(|(id, mut record)| {
                record.boot = None;
                Change::PutLayer(id, record)
            });
            Ok(((), synced.collect()))
        })
    }
}

struct Run {
    /// When to sync, if asked for.
    sync_due: Option<Instant>,
    core: Arc<Core>,
    syncer: Arc<Syncer>,
    stop: Arc<AtomicBool>,
}

impl Run {
    fn until_closed(mut self, jobs: &Receiver<Job>) {
        loop {
            let pending = !self.core.lock().soft.minted.is_empty();
            let wait = self
                .sync_due
                .map(|due| due.saturating_duration_since(Instant::now()));
            let first = match wait.or(pending.then_some(AGE_CHECK)) {
                Some(wait) => jobs.recv_timeout(wait),
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match first {
                Ok(job) => self.batch(std::iter::once(job).chain(jobs.try_iter()).collect()),
                Err(RecvTimeoutError::Timeout) => self.on_time(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// The wait is over: the sync is due, or it was only for the aliases' age.
    fn on_time(&mut self) {
        if self.sync_due.is_some_and(|due| due <= Instant::now()) {
            self.sync_due = None;
            report("syncing layers", self.syncer.sync(&self.core));
        } else {
            report(
                "forgetting unused aliases",
                alias::age_out(&self.core, alias::UNCLAIMED),
            );
        }
    }

    /// Everything that is waiting, in an order that shares the disk writes.
    fn batch(&mut self, jobs: Vec<Job>) {
        let mut empty = false;
        let mut counted = Vec::new();
        for job in jobs {
            match job {
                _ if self.stop.load(Ordering::Relaxed) => return,
                Job::Settle(id) => {
                    self.drop_work(id);
                    empty = true;
                    counted.extend(self.count(id));
                }
                Job::DropWork(id) => {
                    self.drop_work(id);
                    empty = true;
                }
                Job::Sync(delay) => {
                    let due = Instant::now() + delay;
                    self.sync_due = Some(self.sync_due.map_or(due, |earlier| earlier.min(due)));
                }
                Job::EmptyTrash => empty = true,
                Job::AgeOut => {}
            }
        }
        report("recording disk usage", self.record(&counted));
        if empty {
            let go_on = || !self.stop.load(Ordering::Relaxed);
            report(
                "deleting discarded layers",
                self.core.layout.empty_trash(go_on),
            );
        }
    }

    fn count(&self, id: LayerId) -> Option<(LayerId, Usage)> {
        if self.core.lock().state.layers.get(&id)?.usage.is_some() {
            return None;
        }
        match disk_usage(&self.core.layout.fs(id)) {
            Ok(usage) => Some((id, usage)),
            Err(e) => {
                tracing::warn!(layer = %id, error = %e, "counting a layer");
                None
            }
        }
    }

    fn record(&self, counted: &[(LayerId, Usage)]) -> Result<()> {
        self.core.transact(|inner| {
            let patch = |(id, usage): &(LayerId, Usage)| {
                let mut record = inner.state.layers.get(id)?.clone();
                record.usage = Some(*usage);
                Some(Change::PutLayer(*id, record))
            };
            Ok(((), counted.iter().filter_map(patch).collect()))
        })
    }

    fn drop_work(&self, id: LayerId) {
        report("dropping a work directory", self.core.layout.trash_work(id));
    }
}

fn report(attempt: &str, outcome: Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(error = &error as &dyn std::error::Error, "{attempt}");
    }
}
