//! Repair: asks containerd for every snapshot that it has on record for our snapshotter, lets the layer store say which
//! of them it lacks and which of its own entries containerd lacks, and removes both. One repair at a time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shipway_api::{Repair, Repaired};
use shipway_backend::{BackendError, ErrorKind, Host};
use shipway_model::Failure;
use shipway_snapshotter::{KnownSnapshot, LayerStore, RepairPlan};
use tokio::sync::Mutex;

/// Younger entries may be on their way into containerd's records.
const SETTLE: Duration = Duration::from_secs(60);

/// Repairs one store.
pub(crate) struct Repairer {
    pub(crate) store: LayerStore,
    pub(crate) host: Arc<dyn Host>,
    /// The name that containerd knows our snapshotter by.
    pub(crate) snapshotter: String,
    pub(crate) busy: Mutex<()>,
}

#[async_trait]
impl Repair for Repairer {
    async fn repair(&self, dry_run: bool) -> Result<Repaired, Failure> {
        let _alone = self.busy.lock().await;
        let (known, missing) = self.compare().await?;
        let store = self.store.clone();
        let plan = blocking(move || store.plan_repair(&known, SETTLE)).await?;
        let mut lost = plan.lost.clone();
        lost.extend(missing);
        let mut repaired = Repaired {
            unknown: plan.remove.clone(),
            lost: lost
                .iter()
                .map(|snapshot| (snapshot.namespace.clone(), snapshot.name.clone()))
                .collect(),
            problems: Vec::new(),
        };
        if dry_run {
            return Ok(repaired);
        }
        repaired.problems = self.forget(lost).await?;
        repaired.unknown = self.remove(plan).await?;
        tracing::info!(
            unknown = repaired.unknown.len(),
            lost = repaired.lost.len(),
            problems = repaired.problems.len(),
            "repaired"
        );
        Ok(repaired)
    }
}

impl Repairer {
    /// What containerd lists, and what it has on record and cannot list because the store lacks it. To list a snapshot
    /// containerd asks the store for it.
    async fn compare(&self) -> Result<(Vec<KnownSnapshot>, Vec<KnownSnapshot>), Failure> {
        let (mut known, mut missing) = (Vec::new(), Vec::new());
        for name in self.host.namespaces().await? {
            let namespace = self.host.namespace(&name);
            self.store.watch_misses();
            let listed = namespace.snapshots.list(&self.snapshotter).await;
            let missed = self.store.take_misses();
            let of_this = missed
                .into_iter()
                .filter(|miss| miss.namespace.as_ref().is_none_or(|of| *of == name));
            missing.extend(of_this.map(|miss| KnownSnapshot {
                namespace: name.clone(),
                name: miss.name,
                parent: String::new(),
            }));
            known.extend(listed?.into_iter().map(|snapshot| KnownSnapshot {
                namespace: name.clone(),
                name: snapshot.name,
                parent: snapshot.parent,
            }));
        }
        Ok((known, missing))
    }

    /// Lets containerd forget snapshots; their order is unknown, and one with children must wait for them.
    async fn forget(&self, mut left: Vec<KnownSnapshot>) -> Result<Vec<String>, Failure> {
        loop {
            let before = left.len();
            let (mut waiting, mut problems) = (Vec::new(), Vec::new());
            for snapshot in left {
                let snapshots = self.host.namespace(&snapshot.namespace).snapshots;
                match snapshots.remove(&self.snapshotter, &snapshot.name).await {
                    Ok(()) => {}
                    Err(error) if error.kind == ErrorKind::FailedPrecondition => {
                        problems.push(text(&error));
                        waiting.push(snapshot);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if waiting.is_empty() || waiting.len() == before {
                return Ok(problems);
            }
            left = waiting;
        }
    }

    async fn remove(&self, plan: RepairPlan) -> Result<Vec<String>, Failure> {
        let store = self.store.clone();
        blocking(move || store.apply_repair(&plan)).await
    }
}

fn text(error: &BackendError) -> String {
    Failure::from_error(error).to_string()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, shipway_snapshotter::Error> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|panic| Failure::from_error(&panic))?;
    done.map_err(|error| Failure::from_error(&error))
}
