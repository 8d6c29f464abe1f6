//! The store as containerd uses it: entries with keys, parents and labels, each naming a layer. One durable write at
//! most per call, never a call back into containerd: these run under containerd's own locks.
//!
//! Commit neither counts nor syncs: containerd calls it inside its only write transaction, so a big layer would stall
//! every other client. Both follow in the background. If the power fails in between, the layer is dropped whole at
//! the next start (see `recover`), never served half-written.

use std::{path::PathBuf, time::SystemTime};

use crate::{
    alias,
    core::Inner,
    error::{Error, Result},
    filter::Filters,
    model::{Info, Kind, Labels, LayerId, Mount, Usage},
    mounts::{MAX_LOWER, Stack},
    state::{Change, EntryRecord, LayerRecord, REFERENCE_LABEL},
    store::LayerStore,
    usage::disk_usage,
};

impl LayerStore {
    /// One entry.
    pub fn stat(&self, key: &str) -> Result<Info> {
        let mut inner = self.core.lock();
        match inner.state.entry(key) {
            Ok(entry) => Ok(entry.info(key)),
            Err(missing) => {
                if let Some(misses) = &mut inner.soft.misses {
                    misses.insert(key.to_owned());
                }
                Err(missing)
            }
        }
    }

    /// Entries that match any of the filters (containerd's language); all of them without filters.
    pub fn entries(&self, filters: &[String]) -> Result<Vec<Info>> {
        let filters = Filters::parse(filters)?;
        let mut inner = self.core.lock();
        let Some(reference) = filters.reference() else {
            let all = inner
                .state
                .entries
                .iter()
                .map(|(key, entry)| entry.info(key));
            return Ok(all.filter(|info| filters.matches(info)).collect());
        };
        let keys = inner.state.standing_for(reference);
        let found = keys.filter_map(|key| Some(inner.state.entries.get(key)?.info(key)));
        let found: Vec<Info> = found.filter(|info| filters.matches(info)).collect();
        for info in &found {
            // containerd fetches an alias: it is claimed.
            inner.soft.minted.remove(&info.name);
        }
        Ok(found)
    }

    /// Disk usage of one entry without its parents: recorded for a committed one, counted now for an active one.
    pub fn entry_usage(&self, key: &str) -> Result<Usage> {
        let layer = {
            let inner = self.core.lock();
            let Some(id) = inner.state.entry(key)?.layer else {
                return Ok(Usage::default());
            };
            match inner.state.layer(id)? {
                LayerRecord {
                    usage: Some(usage), ..
                } => return Ok(*usage),
                LayerRecord {
                    foreign: Some(dir), ..
                } => dir.clone(),
                _ => self.core.layout.fs(id),
            }
        };
        disk_usage(&layer)
    }

    /// Mounts of an active or view entry.
    pub fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let inner = self.core.lock();
        let entry = inner.state.entry(key)?;
        if entry.kind == Kind::Committed {
            let attempt = "mounting";
            return Err(Error::WrongKind {
                key: key.into(),
                kind: entry.kind.name(),
                attempt,
            });
        }
        let lower = self.lower(&inner, &entry.parent)?;
        Ok(self.compose(entry.layer, &lower))
    }

    /// A writable entry on a committed parent (empty for none). `EntryExists` also says that an alias for the label
    /// `containerd.io/snapshot.ref` can be fetched.
    pub fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        if let Some(reference) = labels.get(REFERENCE_LABEL) {
            let offered = alias::offered(&self.core.lock(), key, reference);
            if let Some(layer) = offered {
                alias::ensure(&self.core, reference, parent, layer, &labels)?;
                self.age_out_later();
                return Err(Error::EntryExists(reference.clone()));
            }
        }
        let lower = self.check_new(&self.core.lock(), key, parent)?;
        let like = lower.first().map(PathBuf::from);
        let id = self.core.allocate()?;
        let created = self
            .core
            .layout
            .make_layer(id, like.as_deref())
            .and_then(|()| {
                self.core.transact(|inner| {
                    self.check_new(inner, key, parent)?;
                    let now = SystemTime::now();
                    let entry = new_entry(Kind::Active, parent, Some(id), labels, now);
                    let mut layer = LayerRecord::new(Some(self.core.boot.clone()), now);
                    layer.active = true;
                    let layer = Change::PutLayer(id, layer);
                    Ok(((), vec![layer, Change::PutEntry(key.into(), entry)]))
                })
            });
        if let Err(e) = created {
            self.core.trash(id);
            return Err(e);
        }
        Ok(self.compose(Some(id), &lower))
    }

    /// A read-only entry on a committed parent (empty for none).
    pub fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let lower = self.core.transact(|inner| {
            let lower = self.check_new(inner, key, parent)?;
            let entry = new_entry(Kind::View, parent, None, labels, SystemTime::now());
            Ok((lower, vec![Change::PutEntry(key.into(), entry)]))
        })?;
        Ok(self.compose(None, &lower))
    }

    /// Makes an active entry immutable under a new name. Its labels are replaced.
    pub fn commit_entry(&self, name: &str, key: &str, labels: Labels) -> Result<()> {
        let id = self.core.transact(|inner| {
            valid_name(name)?;
            if inner.state.entries.contains_key(name) {
                return Err(Error::EntryExists(name.into()));
            }
            let active = inner.state.entry(key)?;
            let Some(id) = active.layer.filter(|_| active.kind == Kind::Active) else {
                let (key, kind) = (key.into(), active.kind.name());
                return Err(Error::WrongKind {
                    key,
                    kind,
                    attempt: "committing",
                });
            };
            let now = SystemTime::now();
            let entry = new_entry(Kind::Committed, &active.parent, Some(id), labels, now);
            let mut layer = inner.state.layer(id)?.clone();
            layer.active = false;
            layer.boot = Some(self.core.boot.clone());
            let changes = vec![
                Change::PutLayer(id, layer),
                Change::DropEntry(key.into()),
                Change::PutEntry(name.into(), entry),
            ];
            Ok((id, changes))
        })?;
        self.settle_later(id);
        Ok(())
    }

    /// Removes an entry in O(1); its layer goes with the next `collect` if nothing else needs it.
    pub fn remove(&self, key: &str) -> Result<()> {
        self.core.transact(|inner| {
            if inner.state.entry(key)?.children > 0 {
                return Err(Error::HasChildren(key.into()));
            }
            Ok(((), vec![Change::DropEntry(key.into())]))
        })
    }

    /// Changes labels: all of them, or only those that the field paths name (an empty value removes a label).
    /// Reference and parent are not labels and never change. An entry that has a reference may be recorded in several
    /// namespaces, so it takes only labels that are meant to be passed on.
    pub fn update(&self, key: &str, labels: &Labels, fields: &[String]) -> Result<Info> {
        self.core.transact(|inner| {
            let mut entry = inner.state.entry(key)?.clone();
            update_labels(&mut entry.labels, labels, fields, key)?;
            entry.labels.remove(REFERENCE_LABEL);
            if entry.reference.is_some() {
                entry.labels = alias::shared_labels(&entry.labels);
            }
            entry.updated = SystemTime::now();
            Ok((entry.info(key), vec![Change::PutEntry(key.into(), entry)]))
        })
    }

    /// What `prepare` and `view` need: a free key and a committed parent. Returns the lower directories.
    fn check_new(&self, inner: &Inner, key: &str, parent: &str) -> Result<Vec<String>> {
        valid_name(key)?;
        if inner.state.entries.contains_key(key) {
            return Err(Error::EntryExists(key.into()));
        }
        if !parent.is_empty() {
            let found = inner
                .state
                .entries
                .get(parent)
                .ok_or_else(|| Error::NoParent(parent.into()))?;
            if found.kind != Kind::Committed {
                return Err(Error::ParentNotCommitted(parent.into()));
            }
        }
        let lower = self.lower(inner, parent)?;
        if lower.len() > MAX_LOWER {
            let depth = lower.len();
            return Err(Error::TooDeep {
                key: key.into(),
                depth,
                limit: MAX_LOWER,
            });
        }
        Ok(lower)
    }

    /// Lower directories, nearest first. All lie in `layers/`, foreign ones as links, so that a caller can shorten
    /// the list by changing to that directory.
    fn lower(&self, inner: &Inner, parent: &str) -> Result<Vec<String>> {
        let layers = inner.state.ancestry(parent)?;
        Ok(layers
            .into_iter()
            .map(|id| self.core.layout.fs(id).display().to_string())
            .collect())
    }

    fn compose(&self, layer: Option<LayerId>, lower: &[String]) -> Vec<Mount> {
        let upper = layer.map(|id| (self.core.layout.fs(id), self.core.layout.work(id)));
        let empty = self.core.layout.empty();
        Stack {
            upper: upper
                .as_ref()
                .map(|(fs, work)| (fs.as_path(), work.as_path())),
            lower,
            empty: &empty,
            options: &self.core.mount_options,
        }
        .mounts()
    }
}

fn valid_name(name: &str) -> Result<()> {
    if name.is_empty() {
        Err(Error::Invalid("a snapshot needs a name".into()))
    } else {
        Ok(())
    }
}

fn new_entry(
    kind: Kind,
    parent: &str,
    layer: Option<LayerId>,
    mut labels: Labels,
    now: SystemTime,
) -> EntryRecord {
    let reference = labels.remove(REFERENCE_LABEL);
    labels.retain(|_, value| !value.is_empty());
    EntryRecord {
        parent: parent.into(),
        kind,
        layer,
        reference,
        labels,
        created: now,
        updated: now,
        children: 0,
    }
}

fn update_labels(labels: &mut Labels, new: &Labels, fields: &[String], key: &str) -> Result<()> {
    if fields.is_empty() || fields.iter().any(|field| field == "labels") {
        new.clone_into(labels);
    }
    for field in fields.iter().filter(|field| *field != "labels") {
        let Some(name) = field.strip_prefix("labels.") else {
            return Err(Error::Invalid(format!(
                "cannot update {field:?} of snapshot {key:?}"
            )));
        };
        labels.insert(name.into(), new.get(name).cloned().unwrap_or_default());
    }
    labels.retain(|_, value| !value.is_empty());
    Ok(())
}
