//! The words of the layer store: ids, kinds, usage, what callers give and get. Holds no logic beyond conversion.

use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

use serde::{Deserialize, Serialize};
pub use shipway_backend::layers::{LayerId, NewLayer, Usage};

/// Labels by key.
pub type Labels = BTreeMap<String, String>;

/// A layer's directory name: base 36, so that 500 of them fit a page of mount options.
#[must_use]
pub fn short_name(id: LayerId) -> String {
    let mut digits = Vec::new();
    let mut rest = id.0;
    loop {
        let digit = u32::try_from(rest % 36).unwrap_or_default();
        digits.push(char::from_digit(digit, 36).unwrap_or('0'));
        rest /= 36;
        if rest == 0 {
            return digits.iter().rev().collect();
        }
    }
}

/// Reads a directory name back; `None` for a name that `short_name` never makes.
#[must_use]
pub fn parse_short_name(name: &str) -> Option<LayerId> {
    let id = LayerId(u64::from_str_radix(name, 36).ok()?);
    (short_name(id) == name).then_some(id)
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A read-only mount of its parent.
    View,
    /// A writable layer on its parent.
    Active,
    /// An immutable layer that others may have as parent.
    Committed,
}

impl Kind {
    /// As containerd's filters spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }
}

/// One entry as containerd sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Key (active, view) or name (committed).
    pub name: String,
    /// Parent's name, empty for none.
    pub parent: String,
    /// What it is.
    pub kind: Kind,
    /// Labels; the reference that an alias was minted for is among them.
    pub labels: Labels,
    /// When it was created (for committed ones: committed).
    pub created: SystemTime,
    /// When its labels last changed.
    pub updated: SystemTime,
}

/// One mount, as mount(8) would say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Filesystem type: `bind` or `overlay`.
    pub fs_type: &'static str,
    /// What is mounted.
    pub source: String,
    /// Options, flags included.
    pub options: Vec<String>,
}

/// What is recorded about a layer when it becomes immutable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitInfo {
    /// Disk usage if the caller knows it; otherwise it is computed in the background.
    pub usage: Option<Usage>,
    /// Chain id of the stack that ends in this layer.
    pub chain_id: Option<String>,
    /// Digest of the layer's uncompressed archive.
    pub diff_id: Option<String>,
    /// Anything else that the caller wants back from `layer`.
    pub labels: Labels,
    /// Durable owners from the first moment, in the same transaction.
    pub owners: Vec<String>,
}

/// What the store knows of one committed layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// Its id.
    pub id: LayerId,
    /// Its directory.
    pub path: PathBuf,
    /// Whether the directory belongs to somebody else (never deleted here).
    pub foreign: bool,
    /// Disk usage, unless it is still being computed.
    pub usage: Option<Usage>,
    /// Chain id, if recorded.
    pub chain_id: Option<String>,
    /// Digest of the uncompressed archive, if recorded.
    pub diff_id: Option<String>,
    /// The committer's labels.
    pub labels: Labels,
    /// Durable owners.
    pub owners: Vec<String>,
    /// Containerd's entries that use it.
    pub entries: Vec<String>,
    /// When it was created.
    pub created: SystemTime,
}

/// What the last start had to give up, because its data was gone or could have been lost with the power.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Layers dropped.
    pub layers: Vec<LayerId>,
    /// Owners that lost at least one layer (their remaining ones are still owned).
    pub owners: Vec<String>,
    /// Entries dropped with them, children first; containerd may still have records of these.
    pub entries: Vec<String>,
}

/// Result of a collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Layers that are gone. Their directories are deleted in the background.
    pub layers: Vec<LayerId>,
    /// Sum of what is known of their usage.
    pub usage: Usage,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_read_back_and_others_are_not() {
        for id in [0, 1, 35, 36, 46_655, 46_656, u64::MAX] {
            assert_eq!(
                parse_short_name(&short_name(LayerId(id))),
                Some(LayerId(id))
            );
        }
        for name in [
            "",
            "00",
            "01",
            "A",
            "z.work",
            "probe-",
            "zzzzzzzzzzzzzz",
            "+1",
        ] {
            assert_eq!(parse_short_name(name), None, "{name}");
        }
    }
}
