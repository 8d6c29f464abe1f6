//! Leases with a name, an owner and an end of their own. Never ends one synchronously unless a collection is what is
//! asked for: that waits for all of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use containerd_client::services::v1 as wire;
use containerd_client::services::v1::leases_client::LeasesClient;
use jiff::{SignedDuration, Timestamp};
use shipway_backend::images::Resource;
use shipway_backend::{BackendError, Lease, LeaseKeeper, Leases};
use tonic::Code;
use tonic::transport::Channel;

use crate::connection::repeat;
use crate::error::failed;
use crate::scope::Scope;

/// Label of everything that this daemon makes and may delete: the daemon's instance.
pub(crate) const OWNER: &str = "shipway.dev/owner";
/// Label that tells which process of the instance made it.
pub(crate) const PROCESS: &str = "shipway.dev/process";
/// Label of a lease that outlives the daemon: the instance. Without [`OWNER`], so that no clean-up takes it for left behind.
const KEPT: &str = "shipway.dev/kept";
/// containerd's label for the end of a lease. An end that cannot be read means never.
const EXPIRE: &str = "containerd.io/gc.expire";
/// Life of a lease that is there to be ended.
const COLLECTING: Duration = Duration::from_secs(60);

impl Scope {
    fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.connection.channel.clone())
    }

    /// Labels that say whose it is.
    pub(crate) fn own_labels(&self) -> HashMap<String, String> {
        let connection = &self.connection;
        [
            (OWNER.to_owned(), connection.settings.instance.clone()),
            (PROCESS.to_owned(), connection.process.clone()),
        ]
        .into()
    }

    /// True for something that an earlier process of this instance made.
    pub(crate) fn is_left_behind(&self, labels: &HashMap<String, String>) -> bool {
        labels.get(OWNER) == Some(&self.connection.settings.instance)
            && labels.get(PROCESS) != Some(&self.connection.process)
    }

    /// The filter for everything of this instance.
    pub(crate) fn own_filter(&self) -> String {
        format!("labels.\"{OWNER}\"=={}", self.connection.settings.instance)
    }

    /// Ends a lease; `sync` has what only it held collected before this returns.
    async fn end_lease(&self, id: &str, sync: bool) -> Result<(), BackendError> {
        let ended = repeat(|| {
            let message = wire::DeleteRequest {
                id: id.to_owned(),
                sync,
            };
            let (mut client, request) = (self.leases(), self.request(message));
            async move { client.delete(request).await }
        });
        match ended.await {
            Err(status) if status.code() != Code::NotFound => {
                Err(failed(format!("ending lease {id}"), &status))
            }
            _ => Ok(()),
        }
    }
}

impl Scope {
    async fn list_leases(&self, filter: String) -> Result<Vec<wire::Lease>, BackendError> {
        let listed = repeat(|| {
            let message = wire::ListRequest {
                filters: vec![filter.clone()],
            };
            let (mut client, request) = (self.leases(), self.request(message));
            async move { client.list(request).await }
        });
        let listed = listed.await;
        Ok(listed
            .map_err(|status| failed("listing leases", &status))?
            .leases)
    }
}

#[async_trait]
impl Leases for Scope {
    async fn create(&self, ttl: Duration) -> Result<Lease, BackendError> {
        self.ensure().await?;
        let id = format!("shipway-{}", uuid::Uuid::new_v4().simple());
        let attempt = format!("creating lease {id}");
        let mut labels = self.own_labels();
        labels.insert(EXPIRE.to_owned(), end_after(ttl));
        let created = repeat(|| {
            let message = wire::CreateRequest {
                id: id.clone(),
                labels: labels.clone(),
            };
            let (mut client, request) = (self.leases(), self.request(message));
            async move { client.create(request).await }
        });
        match created.await {
            // The id is ours alone: an earlier try got through.
            Err(status) if status.code() != Code::AlreadyExists => Err(failed(attempt, &status)),
            _ => Ok(self.kept(id)),
        }
    }

    async fn hold(&self, lease: &Lease, resources: &[Resource]) -> Result<(), BackendError> {
        for resource in resources {
            let (id, kind) = match resource {
                Resource::Blob(digest) => (digest.to_string(), "content".to_owned()),
                Resource::Snapshot(snapshotter, key) => {
                    (key.clone(), format!("snapshots/{snapshotter}"))
                }
            };
            let attempt = format!("holding {kind} {id} by lease {}", lease.id());
            let resource = wire::Resource { id, r#type: kind };
            let held = repeat(|| {
                let message = wire::AddResourceRequest {
                    id: lease.id().to_owned(),
                    resource: Some(resource.clone()),
                };
                let (mut client, request) = (self.leases(), self.request(message));
                async move { client.add_resource(request).await }
            });
            held.await.map_err(|status| failed(attempt, &status))?;
        }
        Ok(())
    }

    async fn keep(&self, name: &str) -> Result<Lease, BackendError> {
        self.ensure().await?;
        let instance = &self.connection.settings.instance;
        let created = repeat(|| {
            let message = wire::CreateRequest {
                id: name.to_owned(),
                labels: [(KEPT.to_owned(), instance.clone())].into(),
            };
            let (mut client, request) = (self.leases(), self.request(message));
            async move { client.create(request).await }
        });
        match created.await {
            Err(status) if status.code() != Code::AlreadyExists => {
                Err(failed(format!("creating lease {name}"), &status))
            }
            _ => Ok(Lease::borrowed(name)),
        }
    }

    async fn forget(&self, name: &str) -> Result<(), BackendError> {
        self.end_lease(name, true).await
    }

    async fn collect(&self) -> Result<(), BackendError> {
        // containerd collects for whoever ends a lease and waits, and all namespaces at once.
        let lease = self.create(COLLECTING).await?;
        self.end_lease(lease.id(), true).await?;
        // It only notices that it is gone.
        lease.end().await
    }

    async fn kept(&self) -> Result<Vec<String>, BackendError> {
        let instance = &self.connection.settings.instance;
        let kept = self.list_leases(format!("labels.\"{KEPT}\"=={instance}"));
        Ok(kept.await?.into_iter().map(|lease| lease.id).collect())
    }

    async fn clean_up(&self) -> Result<(), BackendError> {
        for lease in self.list_leases(self.own_filter()).await? {
            if self.is_left_behind(&lease.labels) {
                self.end_lease(&lease.id, false).await?;
            }
        }
        Ok(())
    }
}

/// A moment from now, as RFC 3339 in whole seconds.
fn end_after(ttl: Duration) -> String {
    let ttl = SignedDuration::try_from(ttl).unwrap_or(SignedDuration::MAX);
    let end = Timestamp::now().checked_add(ttl).unwrap_or(Timestamp::MAX);
    end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

struct Keeper {
    scope: Scope,
    id: String,
    ended: AtomicBool,
}

impl Scope {
    fn kept(&self, id: String) -> Lease {
        let keeper = Keeper {
            scope: self.clone(),
            id: id.clone(),
            ended: AtomicBool::new(false),
        };
        Lease::new(id, Arc::new(keeper))
    }
}

#[async_trait]
impl LeaseKeeper for Keeper {
    async fn end(&self) -> Result<(), BackendError> {
        if self.ended.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.scope.end_lease(&self.id, false).await
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let (scope, id) = (self.scope.clone(), std::mem::take(&mut self.id));
        self.scope.in_background(async move {
            if let Err(error) = scope.end_lease(&id, false).await {
                tracing::warn!(?error, "a lease stays until it expires");
            }
        });
    }
}

impl Scope {
    /// Does something that nobody waits for but the daemon's end. Where there is no runtime any more it is not done: the
    /// next start cleans up.
    pub(crate) fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.connection.background.spawn_on(work, &runtime);
        }
    }
}
