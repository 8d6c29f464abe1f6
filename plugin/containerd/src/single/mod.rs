//! Steps as tasks of runc's shim, for a containerd that cannot start ours. A step is a container of its own; this daemon
//! mounts its root and looks its user up.

mod container;
mod mounts;
mod rootfs;
mod stubs;
mod usage;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use shipway_backend::{BackendError, BuildTask, ErrorKind, Executor, Process, Sandbox, StepIo};
use shipway_step::{StepSpec, VisitSpec};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::mounts::unmount_below;
pub(crate) use self::rootfs::Rootfs;
pub(crate) use self::usage::Figures;
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
        let dir = self.state.join(id);
        let cgroup = self.cgroup.join(id);
        let pipes = Pipes::create(&dir, io).map_err(|error| name.error("preparing", error))?;
        let at = dir.clone();
        let prepared = tokio::task::spawn_blocking(move || Rootfs::prepare(&step, &at, &cgroup));
        let prepared = prepared
            .await
            .map_err(|panic| name.error("preparing", panic))?;
        let (rootfs, spec) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                name.forget(Traces::of_task(dir, None));
                return Err(name.error("preparing", error));
            }
        };
        let traces = Traces::of_task(dir, Some(rootfs));
        if let Err(error) = container::start(&name, &spec, &pipes, &self.task).await {
            name.forget(traces);
            return Err(error);
        }
        let (step, life) = Step::run(name.clone(), traces, pipes.started());
        let closed = self.closed.clone();
        self.steps.spawn(async move {
            let killed = async {
                closed.cancelled().await;
                name.kill_quietly().await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = life => {}
                () = killed => {}
            }
        });
        Ok(Box::new(step))
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
        crate::fifo::remove_build(&self.state);
        Ok(())
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}
