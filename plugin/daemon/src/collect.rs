//! The collector: looks at what the cache takes from time to time, and prunes what the configured policies do not keep, while
//! no build runs; forgets old records; returns memory after builds. What a policy means in bytes is a pure function.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shipway_build::Builder;
use shipway_build::upkeep::PrunePolicy;
use shipway_config::{DiskSpace, GcPolicy, GcSettings};
use shipway_history::History;
use shipway_model::Failure;
use tokio_util::sync::CancellationToken;

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(60);

/// Sizes that a policy is measured against, in bytes.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    disk: u64,
    free: u64,
    used: u64,
}

/// Collects until it is told to stop.
pub(crate) async fn run(
    settings: GcSettings,
    root: PathBuf,
    builder: Arc<Builder>,
    stopping: CancellationToken,
) {
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopping.cancelled() => return,
        }
        if builder.is_idle()
            && let Err(error) = collect(&settings, &root, &builder).await
        {
            tracing::warn!(%error, "collecting the cache");
        }
    }
}

/// How long the daemon must have been without a build before memory is returned: the next one may be on its way.
const MEMORY_PERIOD: Duration = Duration::from_millis(100);

/// Returns the memory of builds when the last one has ended, until it is told to stop.
pub(crate) async fn return_memory(builder: Arc<Builder>, stopping: CancellationToken) {
    let mut leaving = builder.leaving();
    loop {
        tokio::select! {
            Ok(()) = leaving.changed() => {}
            () = stopping.cancelled() => return,
        }
        tokio::time::sleep(MEMORY_PERIOD).await;
        if *leaving.borrow_and_update() == 0 && builder.is_idle() {
            let returned = tokio::task::spawn_blocking(crate::sys::return_memory);
            if let Err(panic) = returned.await {
                tracing::warn!(%panic, "returning memory");
            }
        }
    }
}

/// Time between two looks at the history.
const HISTORY_PERIOD: Duration = Duration::from_secs(120);

/// Forgets builds that are beyond the history's bounds, until it is told to stop.
pub(crate) async fn forget(
    history: Arc<History>,
    namespaces: Vec<String>,
    stopping: CancellationToken,
) {
    let mut ticks = tokio::time::interval(HISTORY_PERIOD);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopping.cancelled() => return,
        }
        if let Err(error) = history.collect(&namespaces).await {
            tracing::warn!(%error, "collecting the build history");
        }
    }
}

async fn collect(settings: &GcSettings, root: &PathBuf, builder: &Builder) -> Result<(), Failure> {
    let disk = || {
        let stat = rustix::fs::statvfs(root)
            .map_err(|e| Failure::from_error(&e).context("measuring the disk"))?;
        Ok::<_, Failure>((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
    };
    for policy in settings.policies(disk()?.0) {
        let kinds = kinds(&policy)?;
        let records = builder.disk_usage()?;
        let counted = |kind: &str| kinds.is_empty() || kinds.iter().any(|k| k == kind);
        let used = records
            .iter()
            .filter(|r| counted(r.kind))
            .map(|r| r.size)
            .sum();
        let (disk, free) = disk()?;
        let Some(keep) = keep(&policy, Sizes { disk, free, used }) else {
            continue;
        };
        let keep_duration = policy.keep_duration.unwrap_or_default().as_nanos();
        let policy = PrunePolicy {
            keep_duration: i64::try_from(keep_duration).unwrap_or(i64::MAX),
            keep_bytes: Some(keep),
            kinds,
            filters: None,
        };
        let gone = builder.prune(&policy).await?;
        let bytes: u64 = gone.iter().map(|record| record.size).sum();
        tracing::info!(records = gone.len(), bytes, "collected");
    }
    Ok(())
}

/// Kinds that a policy looks at; empty for all.
fn kinds(policy: &GcPolicy) -> Result<Vec<String>, Failure> {
    let kind = |filter: &String| {
        let kind = filter
            .strip_prefix("type==")
            .map(|kind| kind.trim_matches('"').to_owned());
        kind.ok_or_else(|| Failure::new(format!("gc policy filter {filter:?} is not supported")))
    };
    policy.filters.iter().map(kind).collect()
}

/// Bytes that a policy lets the cache keep; `None` where it is satisfied.
fn keep(policy: &GcPolicy, sizes: Sizes) -> Option<u64> {
    let bytes = |space: DiskSpace| match space {
        DiskSpace::Bytes(bytes) => bytes,
        DiskSpace::Percent(percent) => sizes.disk / 100 * u64::from(percent),
    };
    let most = policy.max_used_space.map_or(u64::MAX, bytes);
    let lacking = policy
        .min_free_space
        .map_or(0, bytes)
        .saturating_sub(sizes.free);
    let keep = most.min(sizes.used.saturating_sub(lacking));
    let keep = keep.max(policy.reserved_space.map_or(0, bytes));
    (keep < sizes.used).then_some(keep)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    fn policy(reserved: Option<u64>, most: Option<u64>, free: Option<u64>) -> GcPolicy {
        GcPolicy {
            reserved_space: reserved.map(DiskSpace::Bytes),
            max_used_space: most.map(DiskSpace::Bytes),
            min_free_space: free.map(DiskSpace::Bytes),
            ..GcPolicy::default()
        }
    }

    #[test]
    fn a_policy_keeps_its_most_but_never_less_than_what_is_reserved() {
        let sizes = Sizes {
            disk: 100 * GB,
            free: 10 * GB,
            used: 50 * GB,
        };
        for (policy, kept) in [
            (policy(None, None, None), None),
            (policy(None, Some(60 * GB), None), None),
            (policy(None, Some(20 * GB), None), Some(20 * GB)),
            (policy(None, None, Some(15 * GB)), Some(45 * GB)),
            (policy(Some(48 * GB), None, Some(15 * GB)), Some(48 * GB)),
            (policy(Some(50 * GB), Some(GB), None), None),
        ] {
            assert_eq!(keep(&policy, sizes), kept, "{policy:?}");
        }
    }

    #[test]
    fn only_filters_by_type_are_known() {
        let by_type = GcPolicy {
            filters: vec!["type==regular".into()],
            ..GcPolicy::default()
        };
        assert_eq!(kinds(&by_type).unwrap(), ["regular"]);
        let other = GcPolicy {
            filters: vec!["id==x".into()],
            ..GcPolicy::default()
        };
        assert!(kinds(&other).is_err());
    }
}
