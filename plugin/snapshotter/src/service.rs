//! containerd's Snapshots service over the store, on a unix socket. Converts and maps errors to the codes that
//! containerd acts on; every call runs on the blocking pool, to its end even if the caller goes away.
//!
//! Built on `containerd-snapshots`: it carries all that is needed (exact codes, field masks, filters), and its older
//! tonic stays behind this file. What it lacks is the parent that 2.2 and newer may give to Commit; containerd sends that
//! only to snapshotters that declare `rebase`, which ours must not: with it, it asks for aliases without their parent.

use std::{collections::HashMap, future::Future, sync::Arc};

use containerd_snapshots::{
    Info as WireInfo, Kind as WireKind, Snapshotter, Usage as WireUsage,
    api::types::Mount as WireMount,
    tonic::{Code, Status, transport::Server},
};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::{net::UnixListener, task::spawn_blocking};
use tokio_stream::wrappers::UnixListenerStream;

use crate::{
    error::{Error, Result},
    model::{Info, Kind, Labels, Mount, Usage},
    store::LayerStore,
};

/// The service could not go on.
#[derive(Debug, thiserror::Error)]
#[error("serving containerd's Snapshots")]
pub struct ServeError(#[from] containerd_snapshots::tonic::transport::Error);

/// Serves until `shutdown` completes and the calls in hand have ended. The listener may come from systemd.
pub async fn serve(
    store: LayerStore,
    listener: UnixListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let service = containerd_snapshots::server(Arc::new(Service { store }));
    Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown)
        .await?;
    Ok(())
}

struct Service {
    store: LayerStore,
}

impl Service {
    async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce(&LayerStore) -> Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        let store = self.store.clone();
        match spawn_blocking(move || call(&store)).await {
            Ok(outcome) => outcome.map_err(|e| status(&e)),
            Err(panic) => Err(Status::internal(format!(
                "the layer store panicked: {panic}"
            ))),
        }
    }
}

#[containerd_snapshots::tonic::async_trait]
impl Snapshotter for Service {
    type Error = Status;
    type InfoStream = BoxStream<'static, Result<WireInfo, Status>>;

    async fn stat(&self, key: String) -> Result<WireInfo, Status> {
        self.run(move |store| store.stat(&key)).await.map(wire_info)
    }

    async fn update(
        &self,
        info: WireInfo,
        fields: Option<Vec<String>>,
    ) -> Result<WireInfo, Status> {
        let (labels, fields) = (from_wire(info.labels), fields.unwrap_or_default());
        self.run(move |store| store.update(&info.name, &labels, &fields))
            .await
            .map(wire_info)
    }

    async fn usage(&self, key: String) -> Result<WireUsage, Status> {
        self.run(move |store| store.entry_usage(&key))
            .await
            .map(wire_usage)
    }

    async fn mounts(&self, key: String) -> Result<Vec<WireMount>, Status> {
        self.run(move |store| store.mounts(&key))
            .await
            .map(wire_mounts)
    }

    async fn prepare(
        &self,
        key: String,
        parent: String,
        labels: HashMap<String, String>,
    ) -> Result<Vec<WireMount>, Status> {
        let labels = from_wire(labels);
        self.run(move |store| store.prepare(&key, &parent, labels))
            .await
            .map(wire_mounts)
    }

    async fn view(
        &self,
        key: String,
        parent: String,
        labels: HashMap<String, String>,
    ) -> Result<Vec<WireMount>, Status> {
        let labels = from_wire(labels);
        self.run(move |store| store.view(&key, &parent, labels))
            .await
            .map(wire_mounts)
    }

    async fn commit(
        &self,
        name: String,
        key: String,
        labels: HashMap<String, String>,
    ) -> Result<(), Status> {
        let labels = from_wire(labels);
        self.run(move |store| store.commit_entry(&name, &key, labels))
            .await
    }

    async fn remove(&self, key: String) -> Result<(), Status> {
        self.run(move |store| store.remove(&key)).await
    }

    /// containerd calls this after a collection, outside of its locks: the space is free when it returns.
    async fn clear(&self) -> Result<(), Status> {
        self.run(|store| {
            store.collect()?;
            store.empty_trash()
        })
        .await
    }

    async fn list(&self, _: String, filters: Vec<String>) -> Result<Self::InfoStream, Status> {
        let infos = self.run(move |store| store.entries(&filters)).await?;
        Ok(stream::iter(infos.into_iter().map(wire_info).map(Ok)).boxed())
    }
}

/// containerd tells missing, taken and has-children apart from everything else; anything unexpected ends its
/// collection, so those three are exact.
fn status(error: &Error) -> Status {
    let code = match error {
        Error::NoEntry(_) | Error::NoParent(_) | Error::NoLayer(_) => Code::NotFound,
        Error::EntryExists(_) => Code::AlreadyExists,
        Error::HasChildren(_)
        | Error::WrongKind { .. }
        | Error::TooDeep { .. }
        | Error::NotOpen(_) => Code::FailedPrecondition,
        Error::ParentNotCommitted(_) | Error::Invalid(_) => Code::InvalidArgument,
        Error::Damaged { .. } => Code::DataLoss,
        Error::UnusableForeign { .. }
        | Error::UnfitFilesystem { .. }
        | Error::InUse(_)
        | Error::Io { .. }
        | Error::Metadata(_) => Code::Unknown,
    };
    if code == Code::Unknown || code == Code::DataLoss {
        tracing::error!(
            error = error as &dyn std::error::Error,
            "a snapshot call failed"
        );
    }
    Status::new(code, chain(error))
}

/// An error and its causes in one line.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn from_wire(labels: HashMap<String, String>) -> Labels {
    labels.into_iter().collect()
}

fn wire_info(info: Info) -> WireInfo {
    WireInfo {
        kind: match info.kind {
            Kind::View => WireKind::View,
            Kind::Active => WireKind::Active,
            Kind::Committed => WireKind::Committed,
        },
        name: info.name,
        parent: info.parent,
        labels: info.labels.into_iter().collect(),
        created_at: info.created,
        updated_at: info.updated,
    }
}

fn wire_usage(usage: Usage) -> WireUsage {
    WireUsage {
        inodes: i64::try_from(usage.inodes).unwrap_or(i64::MAX),
        size: i64::try_from(usage.bytes).unwrap_or(i64::MAX),
    }
}

fn wire_mounts(mounts: Vec<Mount>) -> Vec<WireMount> {
    let mounts = mounts.into_iter().map(|mount| WireMount {
        r#type: mount.fs_type.into(),
        source: mount.source,
        target: String::new(),
        options: mount.options,
    });
    mounts.collect()
}
