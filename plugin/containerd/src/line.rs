//! Calls about one process of a task. Those about a step go straight to its build's shim, over a socket that the shim serves
//! for its daemon: containerd would pass them on unchanged, at more cost than the step itself, and keeps no record of
//! execs. Everything else goes by way of containerd, and is asked again after a restart of it.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_client::services::v1 as wire;
use containerd_client::types::v1::Status as TaskStatus;
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use shipway_step::DAEMON_SOCKET;
use tonic::{Code, Status};
use ttrpc::context::Context;

use crate::connection::{once, repeat};
use crate::error::is_down;
use crate::scope::Scope;

/// What is said of a shim that has ended, by containerd too.
const CLOSED: &str = "ttrpc: closed";

/// How often, and in what distance, it is looked whether a build's container is being removed.
const LOOKS: u32 = 10;
const LOOK: Duration = Duration::from_millis(100);

/// Who is asked.
#[derive(Clone)]
pub(crate) enum Line {
    Containerd(Scope),
    /// The shim of a build in this scope.
    Shim(TaskClient, Scope),
}

/// A process: its container, and its exec id, which is empty for the container's first process.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) container: &'a str,
    pub(crate) exec: &'a str,
}

/// An exec to be added.
pub(crate) struct NewExec {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
    pub(crate) type_url: &'static str,
    pub(crate) value: Vec<u8>,
}

/// Makes the directory of a build, for nobody but its owner, and gives the path of the socket for the daemon in it.
pub(crate) fn prepare(dir: &Path) -> io::Result<PathBuf> {
    DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
    Ok(dir.join(DAEMON_SOCKET))
}

impl Line {
    /// Connects to the shim of the build with this directory.
    pub(crate) async fn to_shim(dir: &Path, scope: &Scope) -> Result<Self, Status> {
        let unreachable =
            |error: String| Status::unavailable(format!("reaching the shim: {error}"));
        // A socket's path is short: the directory's descriptor stands for where it is.
        let opened = File::open(dir).map_err(|error| unreachable(error.to_string()))?;
        let address = format!(
            "unix:///proc/self/fd/{}/{DAEMON_SOCKET}",
            opened.as_raw_fd()
        );
        let client = Client::connect(&address).await;
        let client = client.map_err(|error| unreachable(error.to_string()))?;
        Ok(Self::Shim(TaskClient::new(client), scope.clone()))
    }

    /// Adds an exec to a task.
    pub(crate) async fn exec(&self, of: Target<'_>, new: NewExec) -> Result<(), Status> {
        match self {
            Self::Containerd(scope) => {
                let message = wire::ExecProcessRequest {
                    container_id: of.container.to_owned(),
                    stdin: new.stdin,
                    stdout: new.stdout,
                    stderr: new.stderr,
                    terminal: new.terminal,
                    spec: Some(prost_types::Any {
                        type_url: new.type_url.to_owned(),
                        value: new.value,
                    }),
                    exec_id: of.exec.to_owned(),
                };
                let added = once(|| {
                    let (mut client, request) = (scope.tasks(), scope.request(message.clone()));
                    async move { client.exec(request).await }
                });
                added.await.map(drop)
            }
            Self::Shim(shim, scope) => {
                let request = api::ExecProcessRequest {
                    id: of.container.to_owned(),
                    exec_id: of.exec.to_owned(),
                    terminal: new.terminal,
                    stdin: new.stdin,
                    stdout: new.stdout,
                    stderr: new.stderr,
                    spec: MessageField::some(Any {
                        type_url: new.type_url.to_owned(),
                        value: new.value,
                        ..Default::default()
                    }),
                    ..Default::default()
                };
                explained(
                    scope,
                    of,
                    answer(shim.exec(Context::default(), &request).await),
                )
                .await
                .map(drop)
            }
        }
    }

    /// Starts a process.
    pub(crate) async fn start(&self, of: Target<'_>) -> Result<(), Status> {
        match self {
            Self::Containerd(scope) => match start(scope, of).await {
                // containerd ended with the answer on its way: what became of the process is asked when it is back.
                Err(status) if is_down(&status) => match task_status(scope, of).await? {
                    TaskStatus::Created => start(scope, of).await,
                    _ => Ok(()),
                },
                answered => answered,
            },
            Self::Shim(shim, scope) => {
                let request = api::StartRequest {
                    id: of.container.to_owned(),
                    exec_id: of.exec.to_owned(),
                    ..Default::default()
                };
                explained(
                    scope,
                    of,
                    answer(shim.start(Context::default(), &request).await),
                )
                .await
                .map(drop)
            }
        }
    }

    /// Waits for a process's end and gives its exit code.
    pub(crate) async fn wait(&self, of: Target<'_>) -> Result<u32, Status> {
        match self {
            Self::Containerd(scope) => {
                let answer = repeat(|| {
                    let message = wire::WaitRequest {
                        container_id: of.container.to_owned(),
                        exec_id: of.exec.to_owned(),
                    };
                    let (mut client, request) = (scope.tasks(), scope.request(message));
                    async move { client.wait(request).await }
                });
                Ok(answer.await?.exit_status)
            }
            Self::Shim(shim, scope) => {
                let request = api::WaitRequest {
                    id: of.container.to_owned(),
                    exec_id: of.exec.to_owned(),
                    ..Default::default()
                };
                let waited = explained(
                    scope,
                    of,
                    answer(shim.wait(Context::default(), &request).await),
                )
                .await?;
                Ok(waited.exit_status)
            }
        }
    }

    /// Signals a process.
    pub(crate) async fn kill(&self, of: Target<'_>, signal: u32) -> Result<(), Status> {
        match self {
            Self::Containerd(scope) => scope.kill(of, signal, false).await,
            Self::Shim(shim, _) => {
                let request = api::KillRequest {
                    id: of.container.to_owned(),
                    exec_id: of.exec.to_owned(),
                    signal,
                    ..Default::default()
                };
                answer(shim.kill(Context::default(), &request).await).map(drop)
            }
        }
    }

    /// Tells a process's terminal its size.
    pub(crate) async fn resize(
        &self,
        of: Target<'_>,
        rows: u16,
        columns: u16,
    ) -> Result<(), Status> {
        match self {
            Self::Containerd(scope) => {
                repeat(|| {
                    let message = wire::ResizePtyRequest {
                        container_id: of.container.to_owned(),
                        exec_id: of.exec.to_owned(),
                        width: columns.into(),
                        height: rows.into(),
                    };
                    let (mut client, request) = (scope.tasks(), scope.request(message));
                    async move { client.resize_pty(request).await }
                })
                .await
            }
            Self::Shim(shim, _) => {
                let request = api::ResizePtyRequest {
                    id: of.container.to_owned(),
                    exec_id: of.exec.to_owned(),
                    width: columns.into(),
                    height: rows.into(),
                    ..Default::default()
                };
                answer(shim.resize_pty(Context::default(), &request).await).map(drop)
            }
        }
    }

    /// Ends a process's input after what has been sent.
    pub(crate) async fn close_input(&self, of: Target<'_>) -> Result<(), Status> {
        match self {
            Self::Containerd(scope) => {
                let message = wire::CloseIoRequest {
                    container_id: of.container.to_owned(),
                    exec_id: of.exec.to_owned(),
                    stdin: true,
                };
                let closed = scope.tasks().close_io(scope.request(message)).await;
                closed.map(drop)
            }
            Self::Shim(shim, _) => {
                let request = api::CloseIORequest {
                    id: of.container.to_owned(),
                    exec_id: of.exec.to_owned(),
                    stdin: true,
                    ..Default::default()
                };
                answer(shim.close_io(Context::default(), &request).await).map(drop)
            }
        }
    }

    /// Forgets an exec that has ended.
    pub(crate) async fn delete(&self, of: Target<'_>) -> Result<(), Status> {
        match self {
            Self::Containerd(scope) => {
                let deleted = repeat(|| {
                    let message = wire::DeleteProcessRequest {
                        container_id: of.container.to_owned(),
                        exec_id: of.exec.to_owned(),
                    };
                    let (mut client, request) = (scope.tasks(), scope.request(message));
                    async move { client.delete_process(request).await }
                });
                deleted.await.map(drop)
            }
            Self::Shim(shim, _) => {
                let request = api::DeleteRequest {
                    id: of.container.to_owned(),
                    exec_id: of.exec.to_owned(),
                    ..Default::default()
                };
                answer(shim.delete(Context::default(), &request).await).map(drop)
            }
        }
    }
}

async fn start(scope: &Scope, of: Target<'_>) -> Result<(), Status> {
    let started = once(|| {
        let message = wire::StartRequest {
            container_id: of.container.to_owned(),
            exec_id: of.exec.to_owned(),
        };
        let (mut client, request) = (scope.tasks(), scope.request(message));
        async move { client.start(request).await }
    });
    started.await.map(drop)
}

/// Where containerd says a process is in its life.
pub(crate) async fn task_status(scope: &Scope, of: Target<'_>) -> Result<TaskStatus, Status> {
    let known = repeat(|| {
        let message = wire::GetRequest {
            container_id: of.container.to_owned(),
            exec_id: of.exec.to_owned(),
        };
        let (mut client, request) = (scope.tasks(), scope.request(message));
        async move { client.get(request).await }
    });
    Ok(known.await?.process.unwrap_or_default().status())
}

/// A shim's answer as containerd would pass it on.
fn answer<T>(answered: ttrpc::Result<T>) -> Result<T, Status> {
    answered.map_err(|error| match error {
        ttrpc::Error::RpcStatus(status) => {
            Status::new(Code::from_i32(status.code.value()), status.message)
        }
        lost => Status::unavailable(format!("{CLOSED}: {lost}")),
    })
}

/// An answer, or why the shim has gone: whoever removes a container ends its shim first.
async fn explained<T>(
    scope: &Scope,
    of: Target<'_>,
    answered: Result<T, Status>,
) -> Result<T, Status> {
    match answered {
        Err(status) if says_closed(&status) => {
            for _ in 0..LOOKS {
                let message = wire::GetContainerRequest {
                    id: of.container.to_owned(),
                };
                let known = scope.containers().get(scope.request(message)).await;
                if let Err(gone) = known
                    && gone.code() == Code::NotFound
                {
                    return Err(gone);
                }
                tokio::time::sleep(LOOK).await;
            }
            Err(status)
        }
        answered => answered,
    }
}

/// Whether a status says that a task's shim has ended.
pub(crate) fn says_closed(status: &Status) -> bool {
    status.message().contains(CLOSED)
}
