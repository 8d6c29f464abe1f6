//! Disk usage and pruning: what the cache holds, and what of it may go.

use std::collections::HashSet;

use jiff::Timestamp;
use shipway_backend::LayerId;
use shipway_model::Failure;
use shipway_patterns::filter::Filters;

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
    /// Records that it stands on.
    pub parents: Vec<String>,
}

impl UsageRecord {
    /// True where filters let it through: BuildKit's fields of records.
    #[must_use]
    pub fn passes(&self, filters: &Filters) -> bool {
        let flag = |set: bool| set.then(String::new);
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        filters.matches(|path| match *path.first()? {
            "id" => text(&self.id),
            "parents" => text(&self.parents.join(";")),
            "description" => text(&self.description),
            "type" => text(self.kind),
            "inuse" => flag(self.in_use),
            "mutable" => flag(self.mutable),
            "immutable" => flag(!self.mutable),
            // Nothing is shared with anybody but this daemon's own namespaces.
            "private" => flag(true),
            _ => None,
        })
    }

    /// When it was last of use.
    #[must_use]
    pub fn touched(&self) -> Timestamp {
        self.last_used.unwrap_or(self.created)
    }
}

/// Bounds of the cache, in bytes; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// Never goes below.
    pub reserved: u64,
    /// Goes down to it.
    pub most: u64,
    /// Left free on the disk.
    pub free: u64,
}

impl Bounds {
    /// Bytes that the cache keeps of `total`, given what is free; `None` where there are no bounds: it keeps nothing.
    #[must_use]
    pub fn keep(self, total: u64, free: u64) -> Option<u64> {
        if self == Self::default() {
            return None;
        }
        let most = if self.most == 0 { u64::MAX } else { self.most };
        let lacking = self.free.saturating_sub(free);
        let roomy = if lacking == 0 {
            u64::MAX
        } else {
            total.saturating_sub(lacking)
        };
        let keep = most.min(roomy);
        // Only what is reserved was said: nothing else stays.
        let keep = if keep == u64::MAX && self.most == 0 && self.free == 0 {
            0
        } else {
            keep
        };
        Some(keep.max(self.reserved))
    }
}

/// What a prune removes.
#[derive(Debug, Default)]
pub struct PrunePolicy {
    /// Keep what was used within this many nanoseconds.
    pub keep_duration: i64,
    /// Stop once no more than this many bytes are held; `None` removes all.
    pub keep_bytes: Option<u64>,
    /// Only records of these kinds; empty for all.
    pub kinds: Vec<String>,
    /// Only records that pass; `None` for all.
    pub filters: Option<Filters>,
}

impl PrunePolicy {
    fn concerns(&self, record: &UsageRecord) -> bool {
        let kind = self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == record.kind);
        kind && self.filters.as_ref().is_none_or(|f| record.passes(f))
    }

    /// True where every record is concerned, those that no list shows included.
    fn is_general(&self) -> bool {
        self.kinds.is_empty() && self.filters.is_none()
    }
}

impl Builder {
    /// Everything that takes space.
    pub fn disk_usage(&self) -> Result<Vec<UsageRecord>, Failure> {
        let mut records = Vec::new();
        let mut seen = HashSet::new();
        for usage in self.parts.keys.usages() {
            // A result is shown by the layer that it added; those below it have records of their own.
            let layers = layers_of(&usage.result);
            let Some((&top, below)) = layers.split_last() else {
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
                parents: below.last().map(ToString::to_string).into_iter().collect(),
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
                parents: Vec::new(),
            });
        }
        Ok(records)
    }

    /// Removes what a policy does not keep; gives what went.
    pub async fn prune(&self, policy: &PrunePolicy) -> Result<Vec<UsageRecord>, Failure> {
        self.settled().await;
        let now = Timestamp::now();
        let mut candidates = self.disk_usage()?;
        candidates.retain(|record| policy.concerns(record));
        candidates.sort_by_key(UsageRecord::touched);
        let mut held: u64 = candidates.iter().map(|record| record.size).sum();
        let mut gone = Vec::new();
        for record in candidates {
            let used = record.touched();
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
        self.release_results(&going, policy.is_general()).await?;
        Ok(gone)
    }

    /// Bytes that are free where the cache is.
    pub fn free_space(&self) -> Result<u64, Failure> {
        let stat = rustix::fs::statvfs(&self.parts.settings.disk)
            .map_err(|e| Failure::from_error(&e).context("measuring the disk"))?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Forgets results; `general` also those without a layer of ours, and the mirrors of clients' directories.
    async fn release_results(&self, going: &HashSet<&str>, general: bool) -> Result<(), Failure> {
        let mut needed: HashSet<LayerId> = HashSet::new();
        let mut released: HashSet<LayerId> = HashSet::new();
        for usage in self.parts.keys.usages() {
            let layers = layers_of(&usage.result);
            let goes = match layers.last() {
                Some(top) => going.contains(top.to_string().as_str()),
                None => general,
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
        if general {
            released.extend(self.parts.mirrors.layers());
            self.parts.mirrors.forget();
        } else {
            needed.extend(self.parts.mirrors.layers());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> UsageRecord {
        UsageRecord {
            id: "12".into(),
            mutable: true,
            in_use: false,
            size: 1,
            created: Timestamp::UNIX_EPOCH,
            last_used: None,
            uses: 0,
            description: "mount /x".into(),
            kind: "exec.cachemount",
            parents: Vec::new(),
        }
    }

    #[test]
    fn records_are_filtered_by_their_fields() {
        for (filter, passes) in [
            ("", true),
            ("id==12", true),
            ("id~=^1", true),
            ("type==regular", false),
            ("type==exec.cachemount,mutable", true),
            ("immutable", false),
            ("inuse", false),
            ("shared", false),
            ("private", true),
            ("parents", false),
        ] {
            let filters = Filters::parse([filter]).unwrap();
            assert_eq!(record().passes(&filters), passes, "{filter}");
        }
    }

    #[test]
    fn bounds_keep_their_most_but_never_less_than_what_is_reserved() {
        let bounds = |reserved, most, free| Bounds {
            reserved,
            most,
            free,
        };
        for (bounds, kept) in [
            (bounds(0, 0, 0), None),
            (bounds(0, 40, 0), Some(40)),
            (bounds(60, 40, 0), Some(60)),
            (bounds(30, 0, 0), Some(30)),
            (bounds(0, 0, 15), Some(95)),
            (bounds(0, 40, 200), Some(0)),
            (bounds(20, 40, 200), Some(20)),
        ] {
            assert_eq!(bounds.keep(100, 10), kept, "{bounds:?}");
        }
    }
}
