//! Disk usage and pruning: what the cache holds, and what of it may go.

use std::collections::HashSet;

use jiff::Timestamp;
use shipway_backend::LayerId;
use shipway_model::Failure;

use crate::Builder;
use crate::results::layers_of;

/// One thing that takes space.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of the wire record"
)]
#[derive(Debug, Clone, PartialEq)]
pub struct UsageRecord {
    /// Name.
    pub id: String,
    /// Written in place: cache mounts.
    pub mutable: bool,
    /// Something uses it now.
    pub in_use: bool,
    /// Bytes.
    pub size: u64,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last used.
    pub last_used: Option<Timestamp>,
    /// How often it was used.
    pub uses: u64,
    /// Text to show.
    pub description: String,
    /// `regular`, `exec.cachemount`, `source.local`.
    pub kind: &'static str,
}

/// What a prune removes.
#[derive(Debug, Clone, Default)]
pub struct PrunePolicy {
    /// Keep what was used within this many nanoseconds.
    pub keep_duration: i64,
    /// Stop once no more than this many bytes are held; `None` removes all.
    pub keep_bytes: Option<u64>,
    /// Only records of these kinds; empty for all.
    pub kinds: Vec<String>,
}

impl Builder {
    /// Everything that takes space.
    pub fn disk_usage(&self) -> Result<Vec<UsageRecord>, Failure> {
        let mut records = Vec::new();
        let mut seen = HashSet::new();
        for usage in self.parts.keys.usages() {
            // A result is shown by the layer that it added; those below it have records of their own.
            let Some(&top) = layers_of(&usage.result).last() else {
                continue;
            };
            if !seen.insert(top) {
                continue;
            }
            let size = self.parts.layers.usage(top).map_or(0, |usage| usage.bytes);
            records.push(UsageRecord {
                id: top.to_string(),
                mutable: false,
                in_use: !self.is_idle(),
                size,
                created: usage.info.created_at,
                last_used: usage.last_used_at,
                uses: usage.usage_count,
                description: usage.info.description.clone(),
                kind: "regular",
            });
        }
        for (path, info, in_use) in self.parts.cache_mounts.list() {
            let size = shipway_layers::measure(&path).map_or(0, |usage| usage.bytes);
            records.push(UsageRecord {
                id: path
                    .file_name()
                    .map(|n| n.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                mutable: true,
                in_use,
                size,
                created: info.created,
                last_used: Some(info.last_used),
                uses: info.uses,
                description: info.description,
                kind: "exec.cachemount",
            });
        }
        Ok(records)
    }

    /// Removes what a policy does not keep; gives what went.
    pub async fn prune(&self, policy: &PrunePolicy) -> Result<Vec<UsageRecord>, Failure> {
        let now = Timestamp::now();
        let mut candidates = self.disk_usage()?;
        candidates.retain(|record| {
            policy.kinds.is_empty() || policy.kinds.iter().any(|kind| kind == record.kind)
        });
        candidates.sort_by_key(|record| record.last_used.unwrap_or(record.created));
        let mut held: u64 = candidates.iter().map(|record| record.size).sum();
        let mut gone = Vec::new();
        for record in candidates {
            let used = record.last_used.unwrap_or(record.created);
            let young =
                now.as_nanosecond() - used.as_nanosecond() < i128::from(policy.keep_duration);
            let small_enough = policy.keep_bytes.is_some_and(|keep| held <= keep);
            if small_enough
                || (policy.keep_duration > 0 && young)
                || (record.mutable && record.in_use)
            {
                continue;
            }
            held -= record.size;
            gone.push(record);
        }
        let going: HashSet<&str> = gone.iter().map(|record| record.id.as_str()).collect();
        for (path, _, _) in self.parts.cache_mounts.list() {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
            if name.is_some_and(|name| going.contains(name.as_str())) {
                self.parts.cache_mounts.remove(&path)?;
            }
        }
        self.release_results(&going).await?;
        Ok(gone)
    }

    async fn release_results(&self, going: &HashSet<&str>) -> Result<(), Failure> {
        let mut needed: HashSet<LayerId> = HashSet::new();
        let mut released: HashSet<LayerId> = HashSet::new();
        for usage in self.parts.keys.usages() {
            let layers = layers_of(&usage.result);
            let goes = match layers.last() {
                Some(top) => going.contains(top.to_string().as_str()),
                None => true,
            };
            if goes {
                released.extend(layers);
                let durable = self.parts.keys.release(&usage.result);
                durable
                    .await
                    .map_err(|e| Failure::from_error(&e).context("pruning the cache"))?;
            } else {
                needed.extend(layers);
            }
        }
        released.extend(self.parts.mirrors.layers());
        self.parts.mirrors.forget();
        if needed.is_empty() {
            // Nothing is kept: then neither is what only an archive's unpacking or an ended build has made.
            released.extend(self.unrecorded(&needed)?);
        }
        let free = released.difference(&needed).copied().collect();
        self.free(free).await
    }

    /// Frees layers that the cache owns and no result names: their builds ended, or the daemon was killed, between the commit
    /// of a layer and the record of its result. To be called before the first build.
    pub async fn sweep(&self) -> Result<(), Failure> {
        let usages = self.parts.keys.usages();
        let results = usages.iter().flat_map(|usage| layers_of(&usage.result));
        let elsewhere = self.parts.mirrors.layers();
        // A result that was recorded before its image was unpacked does not name the layers.
        let unpacked = shipway_source::image::all_unpacked(&self.parts.layers)?;
        let needed = results.chain(elsewhere).chain(unpacked).collect();
        let free = self.unrecorded(&needed)?;
        if !free.is_empty() {
            tracing::info!(layers = free.len(), "freeing layers without a result");
        }
        self.free(free).await
    }

    /// Layers of the cache that are not needed; none while a build may be about to record one.
    fn unrecorded(&self, needed: &HashSet<LayerId>) -> Result<Vec<LayerId>, Failure> {
        if !self.is_idle() {
            return Ok(Vec::new());
        }
        let owned = self.parts.layers.owned()?;
        let free = owned.into_iter().filter(|id| !needed.contains(id));
        Ok(free.collect())
    }

    async fn free(&self, free: Vec<LayerId>) -> Result<(), Failure> {
        let layers = self.parts.layers.clone();
        let collected = tokio::task::spawn_blocking(move || {
            layers.release(free)?;
            layers.upkeep().collect()?;
            layers.sweep();
            Ok::<_, Failure>(())
        });
        collected.await.map_err(|e| Failure::from_error(&e))?
    }
}
