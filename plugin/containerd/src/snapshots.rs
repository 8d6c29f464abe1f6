//! Snapshots of one namespace, of any snapshotter.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use containerd_client::services::v1::snapshots as wire;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::types::Mount;
use shipway_backend::{Adoption, BackendError, Lease, MountSpec, SnapshotNames, Snapshots};
use shipway_model::Digest;
use tonic::transport::Channel;
use tonic::{Code, Response};

use crate::connection::{once, repeat};
use crate::error::failed;
use crate::scope::Scope;

/// Asks a snapshotter for a committed snapshot of its own.
const REF: &str = "containerd.io/snapshot.ref";

impl Scope {
    fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.connection.channel.clone())
    }
}

#[async_trait]
impl Snapshots for Scope {
    async fn exists(&self, snapshotter: &str, key: &str) -> Result<bool, BackendError> {
        let found = repeat(|| {
            let message = wire::StatSnapshotRequest {
                snapshotter: snapshotter.to_owned(),
                key: key.to_owned(),
            };
            let (mut client, request) = (self.snapshots(), self.request(message));
            async move { client.stat(request).await }
        });
        match found.await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(failed(about("looking for", snapshotter, key), &status)),
        }
    }

    async fn adopt(
        &self,
        lease: &Lease,
        snapshotter: &str,
        chain_id: &Digest,
        parent: Option<&Digest>,
    ) -> Result<Adoption, BackendError> {
        let chain_id = chain_id.to_string();
        let message = |key: &str| wire::PrepareSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
            parent: parent.map(Digest::to_string).unwrap_or_default(),
            labels: [(REF.to_owned(), chain_id.clone())].into(),
        };
        // Asked again under a key of its own: for a while after a restart of the daemon containerd answers that the
        // snapshotter is away. What a lost answer leaves behind ends with the lease.
        let mut key = String::new();
        let prepared = repeat(|| {
            key = format!("shipway-adopt-{}", uuid::Uuid::new_v4().simple());
            let (mut client, request) = (self.snapshots(), self.leased(lease, message(&key)));
            async move { client.prepare(request).await }
        });
        match prepared.await {
            Err(status) if status.code() == Code::AlreadyExists => Ok(Adoption::Adopted),
            Err(status) => Err(failed(about("adopting", snapshotter, &chain_id), &status)),
            Ok(_) => {
                self.remove(snapshotter, &key).await?;
                Ok(Adoption::NotOffered)
            }
        }
    }

    async fn prepare(
        &self,
        lease: &Lease,
        snapshotter: &str,
        key: &str,
        parent: Option<&str>,
    ) -> Result<Vec<MountSpec>, BackendError> {
        let message = wire::PrepareSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
            parent: parent.unwrap_or_default().to_owned(),
            labels: HashMap::new(),
        };
        let prepared = once(|| {
            let (mut client, request) = (self.snapshots(), self.leased(lease, message.clone()));
            async move { client.prepare(request).await }
        });
        let prepared = prepared.await;
        let prepared =
            prepared.map_err(|status| failed(about("preparing", snapshotter, key), &status))?;
        Ok(specs(prepared.mounts))
    }

    async fn view(
        &self,
        lease: &Lease,
        snapshotter: &str,
        key: &str,
        parent: &str,
    ) -> Result<Vec<MountSpec>, BackendError> {
        let viewed = once(|| {
            let message = wire::ViewSnapshotRequest {
                snapshotter: snapshotter.to_owned(),
                key: key.to_owned(),
                parent: parent.to_owned(),
                labels: HashMap::new(),
            };
            let (mut client, request) = (self.snapshots(), self.leased(lease, message));
            async move { client.view(request).await }
        });
        let viewed = viewed.await;
        let viewed =
            viewed.map_err(|status| failed(about("viewing", snapshotter, parent), &status))?;
        Ok(specs(viewed.mounts))
    }

    async fn commit(
        &self,
        lease: &Lease,
        snapshotter: &str,
        name: &str,
        key: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<(), BackendError> {
        let committed = once(|| {
            let message = wire::CommitSnapshotRequest {
                snapshotter: snapshotter.to_owned(),
                name: name.to_owned(),
                key: key.to_owned(),
                labels: labels.clone().into_iter().collect(),
            };
            let (mut client, request) = (self.snapshots(), self.leased(lease, message));
            async move { client.commit(request).await }
        });
        let committed = committed.await;
        committed.map_err(|status| failed(about("committing", snapshotter, name), &status))
    }

    async fn list(&self, snapshotter: &str) -> Result<Vec<SnapshotNames>, BackendError> {
        let listed = repeat(|| {
            let message = wire::ListSnapshotsRequest {
                snapshotter: snapshotter.to_owned(),
                ..Default::default()
            };
            let (mut client, request) = (self.snapshots(), self.request(message));
            async move {
                let mut stream = client.list(request).await?.into_inner();
                let mut names = Vec::new();
                while let Some(some) = stream.message().await? {
                    names.extend(some.info.into_iter().map(|info| SnapshotNames {
                        name: info.name,
                        parent: info.parent,
                    }));
                }
                Ok(Response::new(names))
            }
        });
        let attempt = || format!("listing snapshots of {snapshotter}");
        listed.await.map_err(|status| failed(attempt(), &status))
    }

    async fn remove(&self, snapshotter: &str, key: &str) -> Result<(), BackendError> {
        let removed = repeat(|| {
            let message = wire::RemoveSnapshotRequest {
                snapshotter: snapshotter.to_owned(),
                key: key.to_owned(),
            };
            let (mut client, request) = (self.snapshots(), self.request(message));
            async move { client.remove(request).await }
        });
        match removed.await {
            Err(status) if status.code() != Code::NotFound => {
                Err(failed(about("removing", snapshotter, key), &status))
            }
            _ => Ok(()),
        }
    }
}

fn about(attempt: &str, snapshotter: &str, key: &str) -> String {
    format!("{attempt} snapshot {key} of {snapshotter}")
}

fn specs(mounts: Vec<Mount>) -> Vec<MountSpec> {
    let spec = |mount: Mount| MountSpec {
        kind: mount.r#type,
        source: mount.source,
        options: mount.options,
    };
    mounts.into_iter().map(spec).collect()
}
