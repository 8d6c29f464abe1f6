//! The lease that holds what a build makes. Decides how long it lasts: another build may go on with an operation when the
//! build that made it has ended, and containerd refuses what is written under a lease that is no more.

use std::time::Duration;

use parking_lot::Mutex;
use shipway_backend::{BackendError, Lease, Namespace};

/// How long a lease outlives a daemon that forgot it.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// A build's lease.
pub struct LeaseSlot {
    namespace: Namespace,
    /// The lease until the build has ended.
    build: Mutex<Option<Lease>>,
}

impl LeaseSlot {
    /// A lease for a build that begins.
    pub async fn open(namespace: Namespace) -> Result<Self, BackendError> {
        let lease = namespace.leases.create(LIFE).await?;
        Ok(Self {
            namespace,
            build: Mutex::new(Some(lease)),
        })
    }

    /// A lease for something to be done: the build's, or once that has ended one of its own. It lasts until it is dropped.
    pub async fn hold(&self) -> Result<Lease, BackendError> {
        let lease = self.build.lock().clone();
        match lease {
            Some(lease) => Ok(lease),
            None => self.namespace.leases.create(LIFE).await,
        }
    }

    /// The build has ended: its lease ends now, or with the last work that holds it.
    pub async fn build_ended(&self) -> Result<(), BackendError> {
        let lease = self.build.lock().take();
        match lease {
            Some(lease) if !lease.is_shared() => lease.end().await,
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use shipway_backend::fake::FakeHost;
    use shipway_backend::{Host as _, images::Resource};

    use super::*;

    #[tokio::test]
    async fn work_that_outlives_its_build_keeps_the_lease_and_later_work_gets_its_own() {
        let host = FakeHost::default();
        let namespace = host.namespace("n");
        let slot = LeaseSlot::open(namespace.clone()).await.unwrap();
        let outliving = slot.hold().await.unwrap();
        slot.build_ended().await.unwrap();
        let nothing: [Resource; 0] = [];
        namespace.leases.hold(&outliving, &nothing).await.unwrap();
        let later = slot.hold().await.unwrap();
        assert_ne!(later.id(), outliving.id());
        namespace.leases.hold(&later, &nothing).await.unwrap();

        let slot = LeaseSlot::open(namespace).await.unwrap();
        let id = slot.hold().await.unwrap().id().to_owned();
        slot.build_ended().await.unwrap();
        let ended = Lease::borrowed(id);
        let held = [Resource::Snapshot("s".into(), "k".into())];
        assert!(slot.namespace.leases.hold(&ended, &held).await.is_err());
    }
}
