//! The engine's handle: starts the driver, opens jobs, passes their commands on. It decides nothing itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use shipway_cache::KeyStore;
use shipway_cache::export::Exported;
use shipway_model::{Digest, Failure};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::driver::Driver;
use crate::job::{JobKey, JobShared, Wish};
use crate::machine::{Owner, WaiterId};
use crate::{CacheSource, Edge, EngineError, Graph, Job, JobSpec, OpContext, Operation, Results};

/// Limits and surroundings of an engine.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Steps that run at a time, at least 1.
    pub max_parallelism: usize,
    /// What time it is.
    pub clock: fn() -> Timestamp,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_parallelism: std::thread::available_parallelism().map_or(4, usize::from) * 2,
            clock: Timestamp::now,
        }
    }
}

/// Runs the vertices of all jobs. Clones are handles on the same engine, which ends with [`Engine::shutdown`].
pub struct Engine<V: Clone + Send + Sync + 'static> {
    commands: Commands<V>,
    next_job: Arc<AtomicU64>,
    driver: Arc<Mutex<JoinSet<()>>>,
}

impl<V: Clone + Send + Sync + 'static> Clone for Engine<V> {
    fn clone(&self) -> Self {
        Self {
            commands: self.commands.clone(),
            next_job: Arc::clone(&self.next_job),
            driver: Arc::clone(&self.driver),
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Engine<V> {
    /// An engine over these keys and results. Must be called inside a tokio runtime.
    #[must_use]
    pub fn new(store: KeyStore, results: Arc<dyn Results<V>>, config: Config) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut driver = JoinSet::new();
        driver.spawn(Driver::new(store, results, config).run(receiver));
        Self {
            commands: Commands {
                sender,
                next_waiter: Arc::default(),
            },
            next_job: Arc::default(),
            driver: Arc::new(Mutex::new(driver)),
        }
    }

    /// Opens a job.
    #[must_use]
    pub fn job(&self, spec: JobSpec) -> Job<V> {
        let key = JobKey(self.next_job.fetch_add(1, Ordering::Relaxed));
        let shared = Arc::new(JobShared::new(key, spec));
        self.commands.send(Command::Open {
            job: Arc::clone(&shared),
        });
        Job {
            shared,
            commands: self.commands.clone(),
        }
    }

    /// Builds on behalf of a running operation, for all jobs that want that operation: a nested build.
    pub async fn build_within(
        &self,
        ctx: &OpContext,
        graph: Graph<V>,
        target: Edge,
    ) -> Result<V, EngineError> {
        let owner = Owner::Task(ctx.task);
        self.commands.build(owner, graph, target).await
    }

    /// Cancels all jobs and waits until their work has stopped and their records are durable. Later builds fail.
    pub async fn shutdown(&self) {
        self.commands.send(Command::Shutdown);
        let mut driver = {
            let mut held = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *held)
        };
        while let Some(ended) = driver.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "the engine's driver failed");
            }
        }
    }
}

/// What handles ask of the driver.
pub(crate) enum Command<V> {
    Open {
        job: Arc<JobShared>,
    },
    Build {
        owner: Owner,
        waiter: WaiterId,
        graph: Graph<V>,
        target: Edge,
        reply: oneshot::Sender<Result<V, EngineError>>,
    },
    Withdraw {
        waiter: WaiterId,
    },
    Import {
        job: JobKey,
        source: Arc<dyn CacheSource<V>>,
    },
    Cancel {
        job: JobKey,
        cause: Failure,
    },
    Retire {
        job: JobKey,
    },
    Recorded {
        job: JobKey,
        reply: oneshot::Sender<()>,
    },
    Export {
        job: JobKey,
        digest: Digest,
        output: usize,
        all: bool,
        reply: oneshot::Sender<Vec<Exported>>,
    },
    Operations {
        job: JobKey,
        reply: oneshot::Sender<Vec<Arc<dyn Operation<V>>>>,
    },
    Discard {
        job: JobKey,
        reply: Option<oneshot::Sender<()>>,
    },
    Shutdown,
}

/// The way to the driver.
pub(crate) struct Commands<V> {
    sender: mpsc::UnboundedSender<Command<V>>,
    next_waiter: Arc<AtomicU64>,
}

impl<V> Clone for Commands<V> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            next_waiter: Arc::clone(&self.next_waiter),
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Commands<V> {
    pub(crate) fn send(&self, command: Command<V>) {
        // A driver that has ended drops the command, and with it the reply's sender, which its waiter sees.
        self.sender.send(command).unwrap_or_default();
    }

    pub(crate) async fn build(
        &self,
        owner: Owner,
        graph: Graph<V>,
        target: Edge,
    ) -> Result<V, EngineError> {
        graph.check(target)?;
        let waiter = WaiterId(self.next_waiter.fetch_add(1, Ordering::Relaxed));
        let (reply, built) = oneshot::channel();
        self.send(Command::Build {
            owner,
            waiter,
            graph,
            target,
            reply,
        });
        let _wish = Wish {
            commands: self,
            waiter,
        };
        built.await.unwrap_or(Err(EngineError::Ended))
    }
}
