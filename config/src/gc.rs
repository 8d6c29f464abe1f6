//! What the cache's collector may keep: the operator's policies, or BuildKit's default ones from three limits.

use std::time::Duration;

use crate::{DiskSpace, schema};

/// One rule: which records it looks at, how long they stay, and how much they may take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcPolicy {
    /// Also internal and shared records.
    pub all: bool,
    /// containerd filter expressions; a record that matches one is looked at, all are if there is none.
    pub filters: Vec<String>,
    /// Records used within this time stay.
    pub keep_duration: Option<Duration>,
    /// Usage below this is never collected.
    pub reserved_space: Option<DiskSpace>,
    /// Usage above this is collected.
    pub max_used_space: Option<DiskSpace>,
    /// So much of the disk is to stay free.
    pub min_free_space: Option<DiskSpace>,
}

/// The collector's settings as they were written; `policies` completes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcSettings {
    /// Collect by itself, not only when a client asks for it.
    pub enabled: bool,
    /// Usage below this is never collected.
    pub reserved_space: Option<DiskSpace>,
    /// Usage above this is collected.
    pub max_used_space: Option<DiskSpace>,
    /// So much of the disk is to stay free.
    pub min_free_space: Option<DiskSpace>,
    /// The operator's own policies, in order. If there are any, the limits above count for nothing.
    pub written: Vec<GcPolicy>,
}

const GB: u64 = 1_000_000_000;
/// What is easily made again and not used for two days goes first, beyond 512 MB.
const EASILY_MADE: [&str; 3] = [
    "type==source.local",
    "type==exec.cachemount",
    "type==source.git.checkout",
];
const DAY: Duration = Duration::from_hours(24);

impl GcSettings {
    /// The policies in the order in which they are applied, for a disk of `total` bytes.
    #[must_use]
    pub fn policies(&self, total: u64) -> Vec<GcPolicy> {
        if !self.written.is_empty() {
            return self.written.clone();
        }
        let limits = self.limits(total);
        vec![
            GcPolicy {
                filters: EASILY_MADE.map(str::to_owned).to_vec(),
                keep_duration: Some(2 * DAY),
                max_used_space: Some(DiskSpace::Bytes(512_000_000)),
                ..GcPolicy::default()
            },
            GcPolicy {
                keep_duration: Some(60 * DAY),
                ..limits.clone()
            },
            limits.clone(),
            GcPolicy {
                all: true,
                ..limits
            },
        ]
    }

    /// The three limits; where none is written, those that BuildKit derives from the disk's size.
    fn limits(&self, total: u64) -> GcPolicy {
        let written = GcPolicy {
            reserved_space: self.reserved_space,
            max_used_space: self.max_used_space,
            min_free_space: self.min_free_space,
            ..GcPolicy::default()
        };
        if written != GcPolicy::default() {
            return written;
        }
        let at_most = |percent: u8, bytes: u64| {
            let part = DiskSpace::Percent(percent);
            if part.bytes(total) > bytes {
                DiskSpace::Bytes(bytes)
            } else {
                part
            }
        };
        GcPolicy {
            reserved_space: Some(at_most(10, 10 * GB)),
            max_used_space: Some(at_most(80, 100 * GB)),
            min_free_space: Some(DiskSpace::Percent(20)),
            ..GcPolicy::default()
        }
    }
}

impl From<schema::GcPolicy> for GcPolicy {
    fn from(raw: schema::GcPolicy) -> Self {
        Self {
            all: raw.all,
            filters: raw.filters,
            keep_duration: raw.keep_duration,
            reserved_space: raw.reserved_space.or(raw.keep_bytes),
            max_used_space: raw.max_used_space,
            min_free_space: raw.min_free_space,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_limits_they_follow_the_disk() {
        let policies = GcSettings::default().policies(1 << 40);
        assert_eq!(policies.len(), 4);
        assert_eq!(policies[0].keep_duration, Some(Duration::from_hours(48)));
        assert_eq!(policies[2].reserved_space, Some(DiskSpace::Bytes(10 * GB)));
        assert_eq!(policies[2].max_used_space, Some(DiskSpace::Bytes(100 * GB)));
        assert!(policies[3].all);
        let small = GcSettings::default().policies(20 << 30);
        assert_eq!(small[2].reserved_space, Some(DiskSpace::Percent(10)));
    }

    #[test]
    fn one_written_limit_replaces_all_default_limits() {
        let settings = GcSettings {
            reserved_space: Some(DiskSpace::Bytes(5)),
            ..GcSettings::default()
        };
        let policies = settings.policies(1 << 40);
        assert_eq!(policies[3].reserved_space, Some(DiskSpace::Bytes(5)));
        assert_eq!(policies[3].max_used_space, None);
    }

    #[test]
    fn written_policies_stand_alone() {
        let own = GcPolicy {
            all: true,
            ..GcPolicy::default()
        };
        let settings = GcSettings {
            written: vec![own.clone()],
            ..GcSettings::default()
        };
        assert_eq!(settings.policies(1), [own]);
    }
}
