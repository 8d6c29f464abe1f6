//! For a store and a containerd that no longer agree: one of the two was restored, lost or edited. Decides, from what
//! containerd lists, which of our entries it no longer knows and which of its snapshots we no longer have. Removes the
//! former when told to; the latter only containerd can forget.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use crate::{
    alias::ALIAS,
    error::{Error, Result},
    model::Info,
    state::{REFERENCE_LABEL, backend_key},
    store::LayerStore,
};

/// One snapshot that containerd has on record for this snapshotter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KnownSnapshot {
    /// Its namespace.
    pub namespace: String,
    /// Its key or name in that namespace.
    pub name: String,
    /// Its parent's name in that namespace, empty for none.
    pub parent: String,
}

/// An entry that containerd asked for and that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingEntry {
    /// The namespace that it was made in; an alias belongs to none.
    pub namespace: Option<String>,
    /// What containerd calls it.
    pub name: String,
}

/// What would bring both sides into agreement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairPlan {
    /// Our entries that containerd does not know, children before parents: to be removed.
    pub remove: Vec<String>,
    /// containerd's snapshots that have nothing here, in its own names: it must remove them before an image that
    /// needs them can be pulled or landed again. Children before parents.
    pub lost: Vec<KnownSnapshot>,
}

impl LayerStore {
    /// Compares with what containerd lists in *all* its namespaces. Entries younger than `settle` are left alone:
    /// containerd may be about to record them.
    pub fn plan_repair(&self, known: &[KnownSnapshot], settle: Duration) -> Result<RepairPlan> {
        let now = SystemTime::now();
        let recent = now.checked_sub(settle).unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(plan(&self.entries(&[])?, known, recent))
    }

    /// Notes from now on which missing entries are asked for. To list a namespace, containerd asks for each snapshot
    /// that it has on record, and leaves out what it is told is missing: so this is how its lost ones are found.
    pub fn watch_misses(&self) {
        self.core.lock().soft.misses = Some(BTreeSet::new());
    }

    /// Ends the watch, and gives what it saw.
    #[must_use]
    pub fn take_misses(&self) -> Vec<MissingEntry> {
        let misses = self.core.lock().soft.misses.take().unwrap_or_default();
        misses.iter().filter_map(|key| missing(key)).collect()
    }

    /// Removes what a plan says, as far as it is still without children; gives back what is gone.
    pub fn apply_repair(&self, plan: &RepairPlan) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for key in &plan.remove {
            match self.remove(key) {
                Ok(()) | Err(Error::NoEntry(_)) => removed.push(key.clone()),
                Err(Error::HasChildren(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(removed)
    }
}

/// Decides. An entry is known if its namespace has its name, or any namespace has the chain id that it was asked for
/// by (containerd records aliases under that). What a kept entry stands on is kept.
fn plan(entries: &[Info], known: &[KnownSnapshot], recent: SystemTime) -> RepairPlan {
    let by_name: BTreeMap<&str, &Info> = entries.iter().map(|e| (e.name.as_str(), e)).collect();
    let names: BTreeSet<(&str, &str)> = known
        .iter()
        .map(|k| (k.namespace.as_str(), k.name.as_str()))
        .collect();
    let chains: BTreeSet<&str> = known.iter().map(|k| k.name.as_str()).collect();

    let mut keep: BTreeSet<&str> = BTreeSet::new();
    for entry in entries {
        let by_key =
            backend_key(&entry.name).is_some_and(|k| names.contains(&(k.namespace, k.name)));
        let adopted = reference(entry).is_some_and(|chain| chains.contains(chain));
        let mut next = (by_key || adopted || entry.created > recent).then_some(entry);
        while let Some(entry) = next.filter(|e| keep.insert(&e.name)) {
            next = by_name.get(entry.parent.as_str()).copied();
        }
    }
    let unknown = entries.iter().filter(|e| !keep.contains(e.name.as_str()));
    let remove = children_first(
        unknown
            .map(|e| (e.name.clone(), depth(&by_name, e)))
            .collect(),
    );
    RepairPlan {
        remove,
        lost: lost(entries, known),
    }
}

fn lost(entries: &[Info], known: &[KnownSnapshot]) -> Vec<KnownSnapshot> {
    let own: BTreeSet<(&str, &str)> = entries
        .iter()
        .filter_map(|e| backend_key(&e.name).map(|k| (k.namespace, k.name)))
        .collect();
    let chains: BTreeSet<&str> = entries.iter().filter_map(reference).collect();
    let have = |k: &KnownSnapshot| {
        own.contains(&(k.namespace.as_str(), k.name.as_str())) || chains.contains(k.name.as_str())
    };
    let parents: BTreeMap<(&str, &str), &str> = known
        .iter()
        .map(|k| ((k.namespace.as_str(), k.name.as_str()), k.parent.as_str()))
        .collect();
    let depth = |k: &KnownSnapshot| {
        let parent_of = |name: &str| {
            parents
                .get(&(k.namespace.as_str(), name))
                .copied()
                .filter(|p| !p.is_empty())
        };
        std::iter::successors(Some(k.name.as_str()), |name| parent_of(name))
            .take(parents.len())
            .count()
    };
    children_first(
        known
            .iter()
            .filter(|k| !have(k))
            .map(|k| (k.clone(), depth(k)))
            .collect(),
    )
}

/// What containerd knows the entry of this key by; none where the key says nothing about that.
fn missing(key: &str) -> Option<MissingEntry> {
    if let Some(alias) = key.strip_prefix(ALIAS) {
        let (_, reference) = alias.split_once('/')?;
        return Some(MissingEntry {
            namespace: None,
            name: reference.to_owned(),
        });
    }
    let key = backend_key(key)?;
    Some(MissingEntry {
        namespace: Some(key.namespace.to_owned()),
        name: key.name.to_owned(),
    })
}

fn reference(entry: &Info) -> Option<&str> {
    entry.labels.get(REFERENCE_LABEL).map(String::as_str)
}

fn depth(by_name: &BTreeMap<&str, &Info>, entry: &Info) -> usize {
    std::iter::successors(Some(entry), |e| by_name.get(e.parent.as_str()).copied()).count()
}

fn children_first<T: Ord>(mut found: Vec<(T, usize)>) -> Vec<T> {
    found.sort_by(|(a, da), (b, db)| db.cmp(da).then(a.cmp(b)));
    found.into_iter().map(|(item, _)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, Labels};

    fn entry(name: &str, parent: &str, reference: Option<&str>) -> Info {
        let labels: Labels = reference
            .map(|r| (REFERENCE_LABEL.to_owned(), r.to_owned()))
            .into_iter()
            .collect();
        let created = SystemTime::UNIX_EPOCH;
        let (name, parent) = (name.to_owned(), parent.to_owned());
        Info {
            name,
            parent,
            kind: Kind::Committed,
            labels,
            created,
            updated: created,
        }
    }

    fn known(namespace: &str, name: &str, parent: &str) -> KnownSnapshot {
        let [namespace, name, parent] = [namespace, name, parent].map(str::to_owned);
        KnownSnapshot {
            namespace,
            name,
            parent,
        }
    }

    const LATER: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn agreement_needs_nothing() {
        let entries = [
            entry("a/1/base", "", None),
            entry("alias:1", "a/1/base", Some("top")),
        ];
        let known = [
            known("a", "base", ""),
            known("b", "top", "base"),
            known("b", "base", ""),
        ];
        assert_eq!(plan(&entries, &known[..2], LATER), RepairPlan::default());
        assert_eq!(plan(&entries, &known, LATER).lost, [known[2].clone()]);
    }

    #[test]
    fn unknown_entries_go_children_first_and_ancestors_of_known_ones_stay() {
        let entries = [
            entry("a/1/base", "", None),
            entry("a/2/mid", "a/1/base", None),
            entry("a/3/top", "a/2/mid", None),
            entry("a/4/other", "a/1/base", None),
            entry("a/5/leaf", "a/4/other", None),
        ];
        let known = [known("a", "mid", "base")];
        assert_eq!(
            plan(&entries, &known, LATER).remove,
            ["a/3/top", "a/5/leaf", "a/4/other"]
        );
    }

    #[test]
    fn entries_that_containerd_may_be_about_to_record_stay() {
        let mut young = entry("a/1/key", "", None);
        young.created = LATER + Duration::from_secs(1);
        assert_eq!(plan(&[young], &[], LATER).remove, Vec::<String>::new());
    }

    #[test]
    fn a_missing_entry_is_named_as_containerd_names_it() {
        let named = |key| missing(key).map(|entry| (entry.namespace, entry.name));
        let made = (Some("default".to_owned()), "sha256:a".to_owned());
        assert_eq!(named("default/12/sha256:a"), Some(made));
        let alias = (None, "sha256:b".to_owned());
        assert_eq!(named("alias:7/sha256:b"), Some(alias));
        assert_eq!(named("alias:7"), None);
    }

    #[test]
    fn lost_snapshots_are_reported_children_first() {
        let known = [known("a", "base", ""), known("a", "top", "base")];
        assert_eq!(
            plan(&[], &known, LATER).lost,
            [known[1].clone(), known[0].clone()]
        );
    }
}
