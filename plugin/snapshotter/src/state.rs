//! The store's metadata in memory: entries, layers, owners and the few indexes that make every question O(1) or O(depth).
//! Pure: no clock, disk or lock. A change is first decided against it, then applied here and written by `journal`;
//! what is durable is exactly the list of [`Change`]s.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    model::{Info, Kind, Labels, LayerId, Usage},
};

/// The label by which containerd asks for a snapshot that the backend may already have.
pub const REFERENCE_LABEL: &str = "containerd.io/snapshot.ref";

/// Durable record of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Boot in which it was committed and whose page cache may hold what the disk does not; `None` once synced.
    pub boot: Option<String>,
    /// An active entry still writes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub active: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign: Option<PathBuf>,
    pub created: SystemTime,
    /// How many entries name it (derived).
    #[serde(skip)]
    pub entries: u32,
    /// How many owners hold it (derived).
    #[serde(skip)]
    pub owners: u32,
}

impl LayerRecord {
    /// A layer of which nothing is known but when it was made and in which boot (`None`: its data is safe).
    pub(crate) fn new(boot: Option<String>, created: SystemTime) -> Self {
        Self {
            boot,
            active: false,
            usage: None,
            chain_id: None,
            diff_id: None,
            labels: Labels::new(),
            foreign: None,
            created,
            entries: 0,
            owners: 0,
        }
    }
}

/// Durable record of one of containerd's entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryRecord {
    /// Parent's name, empty for none. Never changes.
    pub parent: String,
    pub kind: Kind,
    /// The layer it stands for; a view has none.
    pub layer: Option<LayerId>,
    /// The reference that containerd asked for. Never changes, whatever `Update` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    pub created: SystemTime,
    pub updated: SystemTime,
    /// How many entries have it as parent (derived).
    #[serde(skip)]
    pub children: u32,
}

impl EntryRecord {
    pub(crate) fn info(&self, name: &str) -> Info {
        let mut labels = self.labels.clone();
        if let Some(reference) = &self.reference {
            labels.insert(REFERENCE_LABEL.into(), reference.clone());
        }
        Info {
            name: name.into(),
            parent: self.parent.clone(),
            kind: self.kind,
            labels,
            created: self.created,
            updated: self.updated,
        }
    }
}

/// One durable change.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    PutEntry(String, EntryRecord),
    DropEntry(String),
    PutLayer(LayerId, LayerRecord),
    DropLayer(LayerId),
    Own(String, LayerId),
    Disown(String, LayerId),
    /// All ids below this may be in use.
    ReserveIds(u64),
}

/// All metadata.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub entries: BTreeMap<String, EntryRecord>,
    pub layers: BTreeMap<LayerId, LayerRecord>,
    pub owners: BTreeMap<String, BTreeSet<LayerId>>,
    pub reserved_ids: u64,
    /// Committed entries by the chain id that they stand for.
    chains: BTreeMap<String, BTreeSet<String>>,
}

impl State {
    /// Applies what has been decided. The order of a batch matters only for counts of records that it adds itself.
    pub(crate) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::PutEntry(key, record) => self.put_entry(key, record.clone()),
                Change::DropEntry(key) => self.drop_entry(key),
                Change::PutLayer(id, record) => self.put_layer(*id, record.clone()),
                Change::DropLayer(id) => self.drop_layer(*id),
                Change::Own(owner, id) => self.own(owner, *id),
                Change::Disown(owner, id) => self.disown(owner, *id),
                Change::ReserveIds(limit) => self.reserved_ids = *limit,
            }
        }
    }

    pub(crate) fn entry(&self, key: &str) -> Result<&EntryRecord> {
        self.entries
            .get(key)
            .ok_or_else(|| Error::NoEntry(key.into()))
    }

    pub(crate) fn layer(&self, id: LayerId) -> Result<&LayerRecord> {
        self.layers.get(&id).ok_or(Error::NoLayer(id))
    }

    /// A layer that nobody writes any more.
    pub(crate) fn committed(&self, id: LayerId) -> Result<&LayerRecord> {
        self.layers
            .get(&id)
            .filter(|record| !record.active)
            .ok_or(Error::NoLayer(id))
    }

    /// Layers below an entry whose parent is `parent`, nearest first: overlay's order of lower directories.
    pub(crate) fn ancestry(&self, parent: &str) -> Result<Vec<LayerId>> {
        let mut layers = Vec::new();
        let mut name = parent;
        while !name.is_empty() {
            let record = self
                .entries
                .get(name)
                .ok_or_else(|| Error::NoParent(name.into()))?;
            layers.extend(record.layer);
            name = &record.parent;
        }
        Ok(layers)
    }

    /// The committed entry that already stands for `reference` on `parent`, if any.
    pub(crate) fn alias(&self, reference: &str, parent: &str) -> Option<&str> {
        self.standing_for(reference).find(|key| {
            self.entries
                .get(*key)
                .is_some_and(|e| e.parent == parent && e.reference.as_deref() == Some(reference))
        })
    }

    /// Committed entries that stand for a chain id.
    pub(crate) fn standing_for(&self, chain_id: &str) -> impl Iterator<Item = &str> {
        self.chains
            .get(chain_id)
            .into_iter()
            .flatten()
            .map(String::as_str)
    }

    fn put_entry(&mut self, key: &str, mut record: EntryRecord) {
        record.children = self.entries.get(key).map_or(0, |old| old.children);
        self.drop_entry(key);
        if let Some(parent) = self.entries.get_mut(&record.parent) {
            parent.children += 1;
        }
        if let Some(layer) = record.layer.and_then(|id| self.layers.get_mut(&id)) {
            layer.entries += 1;
        }
        for chain in chains_of(key, &record) {
            self.chains
                .entry(chain.into())
                .or_default()
                .insert(key.into());
        }
        self.entries.insert(key.into(), record);
    }

    fn drop_entry(&mut self, key: &str) {
        let Some(old) = self.entries.remove(key) else {
            return;
        };
        if let Some(parent) = self.entries.get_mut(&old.parent) {
            parent.children = parent.children.saturating_sub(1);
        }
        if let Some(layer) = old.layer.and_then(|id| self.layers.get_mut(&id)) {
            layer.entries = layer.entries.saturating_sub(1);
        }
        for chain in chains_of(key, &old) {
            let mut keys = self.chains.remove(chain).unwrap_or_default();
            keys.remove(key);
            if !keys.is_empty() {
                self.chains.insert(chain.into(), keys);
            }
        }
    }

    fn put_layer(&mut self, id: LayerId, mut record: LayerRecord) {
        if let Some(old) = self.layers.get(&id) {
            (record.entries, record.owners) = (old.entries, old.owners);
        }
        self.layers.insert(id, record);
    }

    fn drop_layer(&mut self, id: LayerId) {
        self.layers.remove(&id);
    }

    fn own(&mut self, owner: &str, id: LayerId) {
        if self.owners.entry(owner.into()).or_default().insert(id)
            && let Some(layer) = self.layers.get_mut(&id)
        {
            layer.owners += 1;
        }
    }

    fn disown(&mut self, owner: &str, id: LayerId) {
        let Some(ids) = self.owners.get_mut(owner) else {
            return;
        };
        if ids.remove(&id)
            && let Some(layer) = self.layers.get_mut(&id)
        {
            layer.owners = layer.owners.saturating_sub(1);
        }
        if ids.is_empty() {
            self.owners.remove(owner);
        }
    }

    /// Recomputes everything derived, after a bulk load.
    pub(crate) fn derive(&mut self) {
        for layer in self.layers.values_mut() {
            (layer.entries, layer.owners) = (0, 0);
        }
        for id in self.owners.values().flatten() {
            if let Some(layer) = self.layers.get_mut(id) {
                layer.owners += 1;
            }
        }
        self.chains.clear();
        let mut children: BTreeMap<String, u32> = BTreeMap::new();
        for (key, entry) in &self.entries {
            *children.entry(entry.parent.clone()).or_default() += 1;
            if let Some(layer) = entry.layer.and_then(|id| self.layers.get_mut(&id)) {
                layer.entries += 1;
            }
            for chain in chains_of(key, entry) {
                self.chains
                    .entry(chain.into())
                    .or_default()
                    .insert(key.clone());
            }
        }
        for (key, entry) in &mut self.entries {
            entry.children = children.get(key).copied().unwrap_or_default();
        }
    }
}

/// Chain ids that a committed entry stands for: its reference, and the name that containerd gave it
/// (`<namespace>/<sequence>/<chain id>`).
fn chains_of<'a>(key: &'a str, record: &'a EntryRecord) -> impl Iterator<Item = &'a str> {
    let committed = record.kind == Kind::Committed;
    let reference = record.reference.as_deref().filter(|_| committed);
    let named = backend_key(key)
        .map(|parts| parts.name)
        .filter(|name| committed && name.contains(':') && reference != Some(name));
    reference.into_iter().chain(named)
}

/// The parts of a key as containerd's metadata makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackendKey<'a> {
    pub namespace: &'a str,
    pub sequence: u64,
    pub name: &'a str,
}

/// Splits `<namespace>/<sequence>/<name>`; `None` for any other form.
pub(crate) fn backend_key(key: &str) -> Option<BackendKey<'_>> {
    let (namespace, rest) = key.split_once('/')?;
    let (sequence, name) = rest.split_once('/')?;
    Some(BackendKey {
        namespace,
        sequence: sequence.parse().ok()?,
        name,
    })
}
