//! What operations need of the daemon and of the build that made them. It decides only when a build's task ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shipway_backend::session::Auth;
use shipway_backend::{
    BuildTask, ErrorKind, Namespace, Registry, RegistryAccess, Sandbox, Session, Sessions, Web,
};
use shipway_engine::{OpContext, VertexProgress};
use shipway_layers::{Layers, Need, Report};
use shipway_model::progress::Status;
use shipway_model::{Failure, Platform};

use crate::lease_slot::LeaseSlot;
use crate::resolve::ImageResolver;

/// How long an operation waits for a client that has not connected yet.
pub const SESSION_PATIENCE: Duration = Duration::from_secs(5);

/// What operations need of the daemon and of the build that made them. Operations keep it alive, since another build may
/// go on with a vertex when the one that made it has ended.
pub struct Env {
    /// Layers of this machine.
    pub layers: Layers,
    /// Where this build's blobs and images go.
    pub namespace: Namespace,
    /// Holds what the build makes.
    pub lease: LeaseSlot,
    /// Registries.
    pub registry: Arc<dyn Registry>,
    /// Files on the web.
    pub web: Arc<dyn Web>,
    /// Connected clients.
    pub sessions: Arc<dyn Sessions>,
    /// Finds images.
    pub resolver: Arc<ImageResolver>,
    /// The build's task.
    pub sandbox: Arc<SandboxSlot>,
    /// Platform of vertices that name none.
    pub platform: Platform,
}

impl Env {
    /// How registries may be spoken to for these sessions; sessions that are gone are passed over.
    pub async fn access(&self, sessions: &[Arc<str>]) -> RegistryAccess {
        let mut auth: Vec<Arc<dyn Auth>> = Vec::new();
        for id in sessions {
            if let Ok(session) = self.sessions.get(id, SESSION_PATIENCE).await {
                auth.push(session.auth());
            }
        }
        RegistryAccess {
            auth,
            insecure: false,
        }
    }

    /// The needs of a vertex that works.
    pub async fn need(&self, ctx: &OpContext) -> Result<Need, Failure> {
        Ok(Need {
            namespace: self.namespace.clone(),
            lease: self.lease.hold().await?,
            access: self.access(&ctx.sessions()).await,
            report: Arc::new(VertexReport(ctx.progress_handle())),
        })
    }

    /// The clients of these sessions, those that are connected; an error where none is.
    pub async fn clients(&self, sessions: &[Arc<str>]) -> Result<Vec<Arc<dyn Session>>, Failure> {
        let mut clients = Vec::new();
        let mut last = Failure::new("no active sessions");
        for id in sessions {
            match self.sessions.get(id, SESSION_PATIENCE).await {
                Ok(session) => clients.push(session),
                Err(error) => last = error.into(),
            }
        }
        if clients.is_empty() {
            Err(last)
        } else {
            Ok(clients)
        }
    }
}

impl Env {
    /// A secret of the first client that has it; `None` where no client does.
    pub async fn secret(
        &self,
        sessions: &[Arc<str>],
        id: &str,
    ) -> Result<Option<Vec<u8>>, Failure> {
        for session in sessions {
            let Ok(session) = self.sessions.get(session, SESSION_PATIENCE).await else {
                continue;
            };
            match session.secrets().secret(id).await {
                Ok(secret) => return Ok(Some(secret)),
                Err(error)
                    if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Unsupported) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

/// What `work` gives, or the failure of having been cancelled.
pub(crate) async fn unless_cancelled<T>(
    ctx: &OpContext,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        done = work => done,
        () = ctx.cancelled().cancelled() => Err(Failure::cancelled()),
    }
}

/// Reports parts as statuses of a vertex.
pub struct VertexReport(pub Arc<VertexProgress>);

impl Report for VertexReport {
    fn part(&self, id: &str, name: &str, current: u64, total: u64, done: bool) {
        let now = self.0.now();
        self.0.status(Status {
            id: id.to_owned(),
            vertex: self.0.vertex(),
            name: name.to_owned(),
            current: current.cast_signed(),
            total: total.cast_signed(),
            timestamp: now,
            started: Some(now),
            completed: done.then_some(now),
        });
    }
}

/// The task that a build's steps run in: opened when the first step needs it, ended when the build and every step in it
/// have ended. Where another build goes on with a later step, that step gets a task anew.
pub struct SandboxSlot {
    namespace: Namespace,
    task: BuildTask,
    users: Mutex<Users>,
}

/// A task, once somebody has needed it.
type Opened = Arc<tokio::sync::OnceCell<Arc<dyn Sandbox>>>;

#[derive(Default)]
struct Users {
    steps: usize,
    build_ended: bool,
    numbered: u64,
    opened: Opened,
    /// How many tasks have been ended.
    ended: u64,
}

impl Users {
    /// The task, where nobody uses it nor will.
    fn leftover(&mut self) -> Option<Opened> {
        let unused = self.steps == 0 && self.build_ended;
        unused.then(|| {
            self.ended += 1;
            std::mem::take(&mut self.opened)
        })
    }
}

/// A step's hold on its build's task. Call [`SandboxUse::release`] when the step has ended.
pub struct SandboxUse {
    slot: Arc<SandboxSlot>,
    /// The task.
    pub sandbox: Arc<dyn Sandbox>,
    /// Name for the step, unique in the task.
    pub step_id: String,
}

impl SandboxSlot {
    /// A task that is not open yet.
    #[must_use]
    pub fn new(namespace: Namespace, id: String, labels: BTreeMap<String, String>) -> Arc<Self> {
        let task = BuildTask {
            id,
            labels,
            cgroup_parent: String::new(),
        };
        Arc::new(Self {
            namespace,
            task,
            users: Mutex::default(),
        })
    }

    /// Opens the task unless it is open, and holds it.
    pub async fn enter(self: &Arc<Self>) -> Result<SandboxUse, Failure> {
        let (number, opened, task) = {
            let mut users = self.users.lock();
            users.steps += 1;
            users.numbered += 1;
            let opened = Arc::clone(&users.opened);
            (users.numbered, opened, self.task(users.ended))
        };
        let opening = opened.get_or_try_init(|| self.namespace.executor.open(task));
        match opening.await {
            Ok(sandbox) => Ok(SandboxUse {
                slot: Arc::clone(self),
                sandbox: Arc::clone(sandbox),
                step_id: format!("step-{number}"),
            }),
            Err(error) => {
                self.users.lock().steps -= 1;
                Err(error.into())
            }
        }
    }

    /// The build has ended: ends the task now, or with its last step.
    pub async fn build_ended(&self) {
        let leftover = {
            let mut users = self.users.lock();
            users.build_ended = true;
            users.leftover()
        };
        self.close(leftover).await;
    }

    /// The build's first task, or the one after so many that have ended.
    fn task(&self, ended: u64) -> BuildTask {
        let mut task = self.task.clone();
        if ended > 0 {
            task.id = format!("{}-{ended}", task.id);
        }
        task
    }

    async fn close(&self, opened: Option<Opened>) {
        if let Some(sandbox) = opened.as_ref().and_then(|opened| opened.get())
            && let Err(error) = sandbox.close().await
        {
            tracing::warn!(task = self.task.id, %error, "ending a build's task");
        }
    }
}

impl SandboxUse {
    /// The step has ended.
    pub async fn release(self) {
        let leftover = {
            let mut users = self.slot.users.lock();
            users.steps -= 1;
            users.leftover()
        };
        self.slot.close(leftover).await;
    }
}
