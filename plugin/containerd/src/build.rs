//! A build's container and task: made, found to be left behind, removed. Steps are in `step`.

use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use containerd_client::services::v1 as wire;
use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use prost_types::Any;
use shipway_backend::{BackendError, BuildTask, ErrorKind, Executor, Process, Sandbox, StepIo};
use shipway_step::{BuildContainer, StepSpec, VisitSpec};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::connection::{insist, once, repeat};
use crate::error::failed;
use crate::exec::Recipe;
use crate::fifo;
use crate::line::{self, Line, Target};
use crate::scope::Scope;
use crate::step::{Name, Step};

/// What containerd calls an OCI specification.
pub(crate) const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// How long killed processes may take to be gone.
const DEATH: Duration = Duration::from_secs(20);
const SIGKILL: u32 = 9;

impl Scope {
    pub(crate) fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.connection.channel.clone())
    }

    pub(crate) fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.connection.channel.clone())
    }

    async fn open_build(&self, task: BuildTask) -> Result<Arc<Build>, BackendError> {
        self.ensure().await?;
        let attempt = format!("creating build container {}", task.id);
        let state = self.connection.state.join(&task.id);
        let socket = line::prepare(&state);
        let socket = socket
            .map_err(|error| BackendError::caused(ErrorKind::Other, attempt.clone(), error))?;
        let container = self.container(&task, socket, &attempt)?;
        let created = once(|| {
            let message = wire::CreateContainerRequest {
                container: Some(container.clone()),
            };
            let (mut client, request) = (self.containers(), self.request(message));
            async move { client.create(request).await }
        });
        if let Err(status) = created.await {
            fifo::remove_build(&state);
            return Err(failed(attempt, &status));
        }
        // From here on a failure leaves nothing behind: the build's drop closes it.
        let build = Arc::new(Build {
            scope: self.clone(),
            state,
            id: task.id,
            line: OnceLock::new(),
            closed: AtomicBool::new(false),
        });
        if let Err(error) = build.start_task().await {
            build.close().await?;
            return Err(error);
        }
        Ok(build)
    }

    fn container(
        &self,
        task: &BuildTask,
        socket: PathBuf,
        attempt: &str,
    ) -> Result<wire::Container, BackendError> {
        let refused =
            |why: String| BackendError::caused(ErrorKind::FailedPrecondition, attempt, why);
        let cgroup = self.cgroup_of(task, attempt)?;
        let build = BuildContainer {
            cgroup,
            resources: None,
            socket: Some(socket),
        };
        let spec = build
            .into_spec()
            .map_err(|error| refused(error.to_string()))?;
        let value = serde_json::to_vec(&spec).map_err(|error| refused(error.to_string()))?;
        let mut labels = self.own_labels();
        // nerdctl lists containers by this name.
        labels.insert("nerdctl/name".to_owned(), task.id.clone());
        labels.extend(task.labels.clone());
        Ok(wire::Container {
            id: task.id.clone(),
            labels,
            runtime: Some(Runtime {
                name: self.connection.settings.runtime.clone(),
                options: None,
            }),
            spec: Some(Any {
                type_url: SPEC.to_owned(),
                value,
            }),
            ..Default::default()
        })
    }

    /// Where a build's processes are counted.
    pub(crate) fn cgroup_of(
        &self,
        task: &BuildTask,
        attempt: &str,
    ) -> Result<PathBuf, BackendError> {
        let parent = if task.cgroup_parent.is_empty() {
            &self.connection.settings.cgroup_parent
        } else {
            &task.cgroup_parent
        };
        cgroup(parent, &task.id).ok_or_else(|| {
            let why = format!("cgroup parent {parent:?} is not a clean path");
            BackendError::caused(ErrorKind::FailedPrecondition, attempt, why)
        })
    }

    /// Kills a task with all its processes, and removes it and its container. Fine where there is none.
    pub(crate) async fn remove_container(&self, id: &str) -> Result<(), BackendError> {
        let attempt = || format!("removing container {id}");
        // By the container the next start finds a task that stays.
        self.remove_task(id).await?;
        let deleted = repeat(|| {
            let message = wire::DeleteContainerRequest { id: id.to_owned() };
            let (mut client, request) = (self.containers(), self.request(message));
            async move { client.delete(request).await }
        });
        ignore_absent(deleted.await.map(drop), attempt)
    }

    async fn remove_task(&self, id: &str) -> Result<(), BackendError> {
        let attempt = || format!("removing task {id}");
        // The wait is asked for first, so that the end cannot be missed.
        let ended = repeat(|| {
            let message = wire::WaitRequest {
                container_id: id.to_owned(),
                exec_id: String::new(),
            };
            let (mut client, request) = (self.tasks(), self.request(message));
            async move { client.wait(request).await }
        });
        let task = Target {
            container: id,
            exec: "",
        };
        let killed = self.kill(task, SIGKILL, true);
        let timed = tokio::time::timeout(DEATH, async { tokio::join!(killed, ended) });
        if let Ok((killed, ended)) = timed.await {
            if let Err(status) = killed {
                tracing::debug!(%status, "killing a task that has ended");
            }
            if let Err(status) = ended {
                tracing::debug!(%status, "waiting for a task whose shim has ended");
            }
        } else {
            tracing::warn!(container = id, "a killed task does not end");
        }
        // A task that neither took the signal nor was waited for may be gone: its removal says whether it is.
        let deleted = insist(|| {
            let message = wire::DeleteTaskRequest {
                container_id: id.to_owned(),
            };
            let (mut client, request) = (self.tasks(), self.request(message));
            async move { client.delete(request).await }
        });
        ignore_absent(deleted.await.map(drop), attempt)
    }

    /// Signals a process, or a container with all of them.
    pub(crate) async fn kill(&self, of: Target<'_>, signal: u32, all: bool) -> Result<(), Status> {
        insist(|| {
            let message = wire::KillRequest {
                container_id: of.container.to_owned(),
                exec_id: of.exec.to_owned(),
                signal,
                all,
            };
            let (mut client, request) = (self.tasks(), self.request(message));
            async move { client.kill(request).await }
        })
        .await
    }
}

fn ignore_absent(
    result: Result<(), Status>,
    attempt: impl FnOnce() -> String,
) -> Result<(), BackendError> {
    match result {
        Err(status) if status.code() != Code::NotFound => Err(failed(attempt(), &status)),
        _ => Ok(()),
    }
}

/// A build's cgroup: `id` under `parent`, which may not climb.
fn cgroup(parent: &str, id: &str) -> Option<PathBuf> {
    let mut path = PathBuf::from("/");
    for part in Path::new(parent).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(path.join(id))
}

/// One build's container and task.
pub(crate) struct Build {
    scope: Scope,
    id: String,
    /// Where its steps' pipes and results are.
    state: PathBuf,
    /// To its shim, once its task has been started.
    line: OnceLock<Line>,
    closed: AtomicBool,
}

impl Build {
    async fn start_task(&self) -> Result<(), BackendError> {
        let attempt = || format!("starting the task of build {}", self.id);
        let created = once(|| {
            let message = wire::CreateTaskRequest {
                container_id: self.id.clone(),
                ..Default::default()
            };
            let (mut client, request) = (self.scope.tasks(), self.scope.request(message));
            async move { client.create(request).await }
        });
        created.await.map_err(|status| failed(attempt(), &status))?;
        let started = once(|| {
            let message = wire::StartRequest {
                container_id: self.id.clone(),
                exec_id: String::new(),
            };
            let (mut client, request) = (self.scope.tasks(), self.scope.request(message));
            async move { client.start(request).await }
        });
        started.await.map_err(|status| failed(attempt(), &status))?;
        let line = Line::to_shim(&self.state, &self.scope).await;
        let line = line.map_err(|status| failed(attempt(), &status))?;
        // A build is started once.
        self.line.get_or_init(|| line);
        Ok(())
    }

    fn name(&self, step: &str) -> Name {
        let line = self.line.get().cloned();
        let line = line.unwrap_or_else(|| Line::Containerd(self.scope.clone()));
        Name::of_exec(self.scope.clone(), line, &self.id, step)
    }
}

#[async_trait]
impl Sandbox for Build {
    async fn start(
        &self,
        id: &str,
        step: StepSpec,
        io: StepIo,
    ) -> Result<Box<dyn Process>, BackendError> {
        if self.closed.load(Ordering::Relaxed) {
            let attempt = format!("starting step {id} of build {}", self.id);
            let ended = BackendError::caused(ErrorKind::Cancelled, attempt, "the build has ended");
            return Err(ended);
        }
        let dir = self.state.join(id);
        let name = self.name(id);
        let step = Step::start(name, dir, step, io).await?;
        Ok(Box::new(step))
    }

    async fn enter(
        &self,
        id: &str,
        visit: VisitSpec,
        io: StepIo,
    ) -> Result<Box<dyn Process>, BackendError> {
        let name = self.name(id);
        if self.closed.load(Ordering::Relaxed) {
            return Err(name.ended());
        }
        let recipe = Recipe::visit(&name, &visit)?;
        let visitor = Step::enter(name, self.state.join(id), recipe, io).await?;
        Ok(Box::new(visitor))
    }

    async fn close(&self) -> Result<(), BackendError> {
        if self.closed.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        close(&self.scope, &self.id, &self.state).await
    }
}

async fn close(scope: &Scope, id: &str, state: &Path) -> Result<(), BackendError> {
    let removed = scope.remove_container(id).await;
    fifo::remove_build(state);
    removed
}

impl Drop for Build {
    fn drop(&mut self) {
        if self.closed.swap(true, Ordering::Relaxed) {
            return;
        }
        let (scope, id, state) = (self.scope.clone(), self.id.clone(), self.state.clone());
        self.scope.in_background(async move {
            if let Err(error) = close(&scope, &id, &state).await {
                tracing::warn!(?error, "a build's container stays until the next start");
            }
        });
    }
}

#[async_trait]
impl Executor for Scope {
    async fn open(&self, task: BuildTask) -> Result<Arc<dyn Sandbox>, BackendError> {
        Ok(self.open_build(task).await?)
    }

    async fn clean_up(&self) -> Result<(), BackendError> {
        let listed = repeat(|| {
            let message = wire::ListContainersRequest {
                filters: vec![self.own_filter()],
            };
            let (mut client, request) = (self.containers(), self.request(message));
            async move { client.list(request).await }
        });
        let listed = listed.await;
        let listed = listed.map_err(|status| failed("listing containers", &status))?;
        for container in listed.containers {
            if self.is_left_behind(&container.labels) {
                self.remove_container(&container.id).await?;
            }
        }
        for state in self.connection.left_behind() {
            fifo::remove_process(&state);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_stays_below_its_parent() {
        for (parent, expected) in [
            ("/shipway", Some("/shipway/b")),
            ("shipway/x", Some("/shipway/x/b")),
            ("", Some("/b")),
            ("/a/../../b", None),
        ] {
            assert_eq!(cgroup(parent, "b"), expected.map(PathBuf::from), "{parent}");
        }
    }
}
