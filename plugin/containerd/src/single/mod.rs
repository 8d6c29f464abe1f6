//! Steps as tasks of runc's shim, for a containerd that cannot start ours. A step is a container of its own; this daemon
//! mounts its root and looks its user up.

mod container;
mod mounts;
mod rootfs;
mod strays;
mod stubs;
mod usage;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use shipway_backend::{BackendError, BuildTask, ErrorKind, Executor, Process, Sandbox, StepIo};
use shipway_step::{StepSpec, VisitSpec};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::mounts::unmount_below;
pub(crate) use self::rootfs::Rootfs;
pub(crate) use self::usage::Figures;
use crate::cgroups::remove_cgroup;
use crate::exec::Recipe;
use crate::fifo::Pipes;
use crate::scope::Scope;
use crate::step::{Name, Step, Traces};

/// What containerd calls a process of the OCI runtime specification.
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// Runs each step as a task.
#[derive(Clone)]
pub(crate) struct StepTasks(pub(crate) Scope);

#[async_trait]
impl Executor for StepTasks {
    async fn open(&self, task: BuildTask) -> Result<Arc<dyn Sandbox>, BackendError> {
        self.0.ensure().await?;
        let attempt = format!("preparing build {}", task.id);
        let cgroup = self.0.cgroup_of(&task, &attempt)?;
        let connection = Arc::clone(&self.0.connection);
        connection.open_builds.lock().insert(task.id.clone());
        self.0.in_background(async move {
            let swept = tokio::task::spawn_blocking(move || {
                let open = connection.open_builds.lock().clone();
                let settings = &connection.settings;
                strays::sweep(&settings.instance, &settings.cgroup_parent, &open);
            });
            if let Err(error) = swept.await {
                tracing::warn!(%error, "looking for shims that were left behind");
            }
        });
        Ok(Arc::new(Build {
            state: self.0.connection.state.join(&task.id),
            scope: self.0.clone(),
            task,
            cgroup,
            closed: CancellationToken::new(),
            steps: TaskTracker::new(),
        }))
    }

    async fn clean_up(&self) -> Result<(), BackendError> {
        // Mounts first: what they show must be out of reach when directories are removed.
        let left = self.0.connection.left_behind();
        let unmount = move || left.iter().try_for_each(|dir| mounts::unmount_below(dir));
        let unmounted = tokio::task::spawn_blocking(unmount).await;
        let failed = |error| {
            let attempt = "removing mounts that an earlier daemon left";
            BackendError::caused(ErrorKind::Other, attempt, error)
        };
        unmounted
            .map_err(|panic| failed(std::io::Error::other(panic)))?
            .map_err(failed)?;
        Executor::clean_up(&self.0).await
    }
}

/// A started step, or why there is none.
type Started = Result<Box<dyn Process>, BackendError>;

/// One build: what its steps have in common.
struct Build {
    scope: Scope,
    task: BuildTask,
    cgroup: PathBuf,
    state: PathBuf,
    closed: CancellationToken,
    /// The lives of its steps.
    steps: TaskTracker,
}

#[async_trait]
impl Sandbox for Build {
    async fn start(
        &self,
        id: &str,
        step: StepSpec,
        io: StepIo,
    ) -> Result<Box<dyn Process>, BackendError> {
        let name = Name::of_task(self.scope.clone(), &self.task.id, id);
        if self.closed.is_cancelled() {
            return Err(name.ended());
        }
        let start = Start {
            name: name.clone(),
            dir: self.state.join(id),
            cgroup: self.cgroup.join(id),
            task: self.task.clone(),
            closed: self.closed.clone(),
        };
        let (tell, told) = oneshot::channel();
        // Counted from its very beginning: what is half made is undone before the build is closed, whoever waits.
        self.steps.spawn(start.run(step, io, tell));
        told.await.unwrap_or_else(|_| Err(name.ended()))
    }

    async fn enter(
        &self,
        id: &str,
        visit: VisitSpec,
        io: StepIo,
    ) -> Result<Box<dyn Process>, BackendError> {
        let name = Name::of_task(self.scope.clone(), &self.task.id, &visit.step).in_task(id);
        if self.closed.is_cancelled() {
            return Err(name.ended());
        }
        let root = self.state.join(&visit.step).join("root");
        let described = tokio::task::spawn_blocking(move || rootfs::visitor(&root, visit));
        let described = described.await;
        let described = described.map_err(|panic| name.error("preparing", panic))?;
        let process = described.map_err(|error| name.error("preparing", error))?;
        let value = serde_json::to_vec(&process);
        let recipe = Recipe {
            type_url: PROCESS,
            value: value.map_err(|error| name.error("describing", error))?,
            terminal: process.terminal().unwrap_or(false),
        };
        let visitor = Step::enter(name, self.state.join(id), recipe, io).await?;
        Ok(Box::new(visitor))
    }

    async fn close(&self) -> Result<(), BackendError> {
        self.closed.cancel();
        self.steps.close();
        self.steps.wait().await;
        let (state, cgroup) = (self.state.clone(), self.cgroup.clone());
        let removed = tokio::task::spawn_blocking(move || {
            crate::fifo::remove_build(&state);
            // runc makes the group that the steps have in common, and removes theirs alone.
            remove_cgroup(&cgroup);
        });
        let attempt = || format!("removing what is left of build {}", self.task.id);
        let failed = |panic| BackendError::caused(ErrorKind::Other, attempt(), panic);
        removed.await.map_err(failed)?;
        Ok(())
    }
}

/// A step from the first of what is made for it.
struct Start {
    name: Name,
    dir: PathBuf,
    cgroup: PathBuf,
    task: BuildTask,
    closed: CancellationToken,
}

/// A start that failed, and what it made.
type Failed = (BackendError, Traces);

impl Start {
    async fn run(self, step: StepSpec, io: StepIo, tell: oneshot::Sender<Started>) {
        let (traces, pipes) = match self.begin(step, io).await {
            Ok(begun) => begun,
            Err(failed) => {
                let (error, traces) = *failed;
                // Whoever asked may be gone.
                drop(tell.send(Err(error)));
                return self.name.remove(traces).await;
            }
        };
        let (step, life) = Step::run(self.name.clone(), traces, pipes.started());
        // Where nobody waits any more the step's drop kills it.
        drop(tell.send(Ok(Box::new(step))));
        let killed = async {
            self.closed.cancelled().await;
            self.name.kill_quietly().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = life => {}
            () = killed => {}
        }
    }

    async fn begin(&self, step: StepSpec, io: StepIo) -> Result<(Traces, Pipes), Box<Failed>> {
        let made = |rootfs| Traces::of_task(self.dir.clone(), rootfs);
        let pipes = Pipes::create(&self.dir, io);
        let pipes = pipes.map_err(|error| (self.name.error("preparing", error), made(None)))?;
        let (dir, cgroup) = (self.dir.clone(), self.cgroup.clone());
        let prepared = tokio::task::spawn_blocking(move || Rootfs::prepare(&step, &dir, &cgroup));
        let prepared = prepared.await.map_err(std::io::Error::other);
        let prepared = prepared.and_then(|prepared| prepared);
        let (rootfs, spec) =
            prepared.map_err(|error| (self.name.error("preparing", error), made(None)))?;
        match container::start(&self.name, &spec, &pipes, &self.task).await {
            Ok(()) => Ok((made(Some(rootfs)), pipes)),
            Err(error) => Err(Box::new((error, made(Some(rootfs))))),
        }
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.closed.cancel();
        self.scope
            .connection
            .open_builds
            .lock()
            .remove(&self.task.id);
    }
}
