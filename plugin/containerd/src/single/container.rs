//! Makes and removes the container and task of one step.

use std::path::PathBuf;

use containerd_client::services::v1 as wire;
use containerd_client::services::v1::container::Runtime;
use oci_spec::runtime::{Process, Spec};
use prost_types::Any;
use shipway_backend::{BackendError, BuildTask};
use tonic::{Code, Status};

use crate::build::SPEC;
use crate::connection::{once, repeat};
use crate::error::{failed, is_down};
use crate::fifo::Pipes;
use crate::line::task_status;
use crate::step::Name;

/// The runtime whose shim every containerd brings along.
const RUNC: &str = "io.containerd.runc.v2";
/// Label that tells which build a step belongs to.
const BUILD: &str = "shipway.dev/build";

/// Makes container and task, and starts the task. A restart of containerd in between is lived through: what became of a
/// call whose answer was lost is asked when it is back.
pub(super) async fn start(
    name: &Name,
    spec: &Spec,
    pipes: &Pipes,
    task: &BuildTask,
) -> Result<(), BackendError> {
    let container = describe(name, spec, task)?;
    let done = async {
        create_container(name, &container).await?;
        create_task(name, &task_request(name, spec, pipes)).await?;
        name.line.start(name.target()).await
    };
    let started: Result<(), Status> = done.await;
    started.map_err(|status| failed(name.attempt("starting"), &status))
}

async fn create_container(name: &Name, container: &wire::Container) -> Result<(), Status> {
    let created = repeat(|| {
        let message = wire::CreateContainerRequest {
            container: Some(container.clone()),
        };
        let scope = &name.scope;
        let (mut client, request) = (scope.containers(), scope.request(message));
        async move { client.create(request).await }
    });
    match created.await {
        // The id is ours alone: an earlier try got through.
        Err(status) if status.code() != Code::AlreadyExists => Err(status),
        _ => Ok(()),
    }
}

fn task_request(name: &Name, spec: &Spec, pipes: &Pipes) -> wire::CreateTaskRequest {
    let path = |path: &Option<PathBuf>| {
        let path = path.as_deref().unwrap_or_else(|| "".as_ref());
        path.to_string_lossy().into_owned()
    };
    let terminal = spec.process().as_ref().and_then(Process::terminal);
    wire::CreateTaskRequest {
        container_id: name.container.clone(),
        stdin: path(&pipes.stdin),
        stdout: path(&pipes.stdout),
        stderr: path(&pipes.stderr),
        terminal: terminal.unwrap_or(false),
        ..Default::default()
    }
}

async fn create_task(name: &Name, message: &wire::CreateTaskRequest) -> Result<(), Status> {
    let create = async || {
        let created = once(|| {
            let scope = &name.scope;
            let (mut client, request) = (scope.tasks(), scope.request(message.clone()));
            async move { client.create(request).await }
        });
        created.await.map(drop)
    };
    match create().await {
        Err(status) if is_down(&status) => match task_status(&name.scope, name.target()).await {
            Err(status) if status.code() == Code::NotFound => create().await,
            known => known.map(drop),
        },
        answered => answered,
    }
}

fn describe(name: &Name, spec: &Spec, task: &BuildTask) -> Result<wire::Container, BackendError> {
    let value = serde_json::to_vec(spec).map_err(|error| name.error("describing", error))?;
    let mut labels = name.scope.own_labels();
    labels.insert("nerdctl/name".to_owned(), name.container.clone());
    labels.insert(BUILD.to_owned(), task.id.clone());
    labels.extend(task.labels.clone());
    Ok(wire::Container {
        id: name.container.clone(),
        labels,
        runtime: Some(Runtime {
            name: RUNC.to_owned(),
            options: None,
        }),
        spec: Some(Any {
            type_url: SPEC.to_owned(),
            value,
        }),
        ..Default::default()
    })
}
