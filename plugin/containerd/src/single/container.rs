//! Makes and removes the container and task of one step.

use std::path::PathBuf;

use containerd_client::services::v1 as wire;
use containerd_client::services::v1::container::Runtime;
use oci_spec::runtime::{Process, Spec};
use prost_types::Any;
use shipway_backend::{BackendError, BuildTask};

use crate::build::SPEC;
use crate::connection::once;
use crate::error::failed;
use crate::fifo::Pipes;
use crate::step::Name;

/// The runtime whose shim every containerd brings along.
const RUNC: &str = "io.containerd.runc.v2";
/// Label that tells which build a step belongs to.
const BUILD: &str = "shipway.dev/build";

/// Makes container and task, and starts the task.
pub(super) async fn start(
    name: &Name,
    spec: &Spec,
    pipes: &Pipes,
    task: &BuildTask,
) -> Result<(), BackendError> {
    let container = describe(name, spec, task)?;
    let scope = &name.scope;
    let attempt = || name.attempt("starting");
    let created = once(|| {
        let message = wire::CreateContainerRequest {
            container: Some(container.clone()),
        };
        let (mut client, request) = (scope.containers(), scope.request(message));
        async move { client.create(request).await }
    });
    created.await.map_err(|status| failed(attempt(), &status))?;
    let path = |path: &Option<PathBuf>| {
        let path = path.as_deref().unwrap_or_else(|| "".as_ref());
        path.to_string_lossy().into_owned()
    };
    let terminal = spec.process().as_ref().and_then(Process::terminal);
    let message = wire::CreateTaskRequest {
        container_id: name.container.clone(),
        stdin: path(&pipes.stdin),
        stdout: path(&pipes.stdout),
        stderr: path(&pipes.stderr),
        terminal: terminal.unwrap_or(false),
        ..Default::default()
    };
    let created = once(|| {
        let (mut client, request) = (scope.tasks(), scope.request(message.clone()));
        async move { client.create(request).await }
    });
    created.await.map_err(|status| failed(attempt(), &status))?;
    let started = once(|| {
        let message = wire::StartRequest {
            container_id: name.container.clone(),
            exec_id: String::new(),
        };
        let (mut client, request) = (scope.tasks(), scope.request(message));
        async move { client.start(request).await }
    });
    started.await.map_err(|status| failed(attempt(), &status))?;
    Ok(())
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
