//! One client's build: it asks the driver for results and says when it no longer wants them. It decides nothing itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shipway_cache::export::Exported;
use shipway_model::Failure;
use shipway_model::progress::Sink;
use tokio::sync::oneshot;

use crate::engine::{Command, Commands};
use crate::machine::{Owner, WaiterId};
use crate::progress::JobView;
use crate::{CacheSource, Edge, EngineError, Graph, Operation};

/// Name of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(Arc<str>);

impl JobId {
    /// A job of this name.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a job brings along.
#[derive(Clone)]
pub struct JobSpec {
    /// Name, for logs.
    pub id: JobId,
    /// Client sessions that answer for secrets, credentials and files.
    pub sessions: Vec<Arc<str>>,
    /// Takes the progress of all vertices.
    pub progress: Arc<dyn Sink>,
}

/// Number of a job, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct JobKey(pub(crate) u64);

pub(crate) struct JobShared {
    pub(crate) key: JobKey,
    pub(crate) id: JobId,
    pub(crate) sessions: Vec<Arc<str>>,
    pub(crate) view: JobView,
    cancelled: AtomicBool,
}

impl JobShared {
    pub(crate) fn new(key: JobKey, spec: JobSpec) -> Self {
        Self {
            key,
            id: spec.id,
            sessions: spec.sessions,
            view: JobView::new(spec.progress),
            cancelled: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    pub(crate) fn set_cancelled(&self) {
        self.cancelled.store(true, Ordering::Release);
    }
}

/// A handle on one job. Dropping it discards the job without waiting for its records; prefer [`Job::discard`].
pub struct Job<V: Clone + Send + Sync + 'static> {
    pub(crate) shared: Arc<JobShared>,
    pub(crate) commands: Commands<V>,
}

impl<V: Clone + Send + Sync + 'static> Job<V> {
    /// The job's name.
    #[must_use]
    pub fn id(&self) -> &JobId {
        &self.shared.id
    }

    /// The value of an output: from the cache, from another job that runs it, or by running what is needed. Returns as
    /// soon as it is known; [`Job::recorded`] tells when it is durable. May be called often and at once. Dropping the
    /// future withdraws the wish.
    pub async fn build(&self, graph: Graph<V>, target: Edge) -> Result<V, EngineError> {
        let owner = Owner::Job(self.shared.key);
        self.commands.build(owner, graph, target).await
    }

    /// Brings a cache along, for vertices of this job from now on.
    pub fn import(&self, source: Arc<dyn CacheSource<V>>) {
        self.commands.send(Command::Import {
            job: self.shared.key,
            source,
        });
    }

    /// Ends all wishes of this job, now and later. Work that no other job wants is stopped.
    pub fn cancel(&self, cause: Failure) {
        self.commands.send(Command::Cancel {
            job: self.shared.key,
            cause,
        });
    }

    /// Says that the job has all it came for. Its vertices stay for its own questions, but builds that begin from now on have
    /// their own: they ask the cache and the sources anew, and show what they find.
    pub fn retire(&self) {
        self.commands.send(Command::Retire {
            job: self.shared.key,
        });
    }

    /// Waits until everything that this job's vertices have made so far is recorded, or could not be.
    pub async fn recorded(&self) {
        let (reply, done) = oneshot::channel();
        self.commands.send(Command::Recorded {
            job: self.shared.key,
            reply,
        });
        // An engine that has ended has nothing left to record.
        done.await.unwrap_or_default();
    }

    /// Keys, links and records behind an output that this job has built, for a cache export. With `all`, also other
    /// ways by which the store knows those keys. Empty where the output is not of this job or cannot be keyed.
    pub async fn export(&self, graph: &Graph<V>, target: Edge, all: bool) -> Vec<Exported> {
        let Some(operation) = graph.vertices.get(target.vertex) else {
            return Vec::new();
        };
        let (reply, exported) = oneshot::channel();
        self.commands.send(Command::Export {
            job: self.shared.key,
            digest: operation.vertex().digest,
            output: target.output,
            all,
            reply,
        });
        exported.await.unwrap_or_default()
    }

    /// The operations that stand for this job's vertices: its own, or those of the job that had an equal one first.
    pub async fn operations(&self) -> Vec<Arc<dyn Operation<V>>> {
        let (reply, operations) = oneshot::channel();
        self.commands.send(Command::Operations {
            job: self.shared.key,
            reply,
        });
        operations.await.unwrap_or_default()
    }

    /// Ends the job: cancels what it still wants, lets go of its vertices, waits until its records are durable and its
    /// own work has stopped. Values live on in their clones.
    pub async fn discard(self) {
        let (reply, done) = oneshot::channel();
        self.commands.send(Command::Discard {
            job: self.shared.key,
            reply: Some(reply),
        });
        done.await.unwrap_or_default();
    }
}

impl<V: Clone + Send + Sync + 'static> Drop for Job<V> {
    fn drop(&mut self) {
        // Discarding twice is harmless.
        self.commands.send(Command::Discard {
            job: self.shared.key,
            reply: None,
        });
    }
}

/// Withdraws a wish when it is dropped.
pub(crate) struct Wish<'a, V: Clone + Send + Sync + 'static> {
    pub(crate) commands: &'a Commands<V>,
    pub(crate) waiter: WaiterId,
}

impl<V: Clone + Send + Sync + 'static> Drop for Wish<'_, V> {
    fn drop(&mut self) {
        self.commands.send(Command::Withdraw {
            waiter: self.waiter,
        });
    }
}
