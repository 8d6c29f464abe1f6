//! What the store holds, for people and for collection plans. Reads only.

use std::collections::BTreeMap;

use crate::{
    model::{LayerId, LayerInfo},
    store::LayerStore,
};

impl LayerStore {
    /// Every committed layer, with who needs it.
    #[must_use]
    pub fn list(&self) -> Vec<LayerInfo> {
        let inner = self.core.lock();
        let mut owners: BTreeMap<LayerId, Vec<String>> = BTreeMap::new();
        for (owner, ids) in &inner.state.owners {
            for id in ids {
                owners.entry(*id).or_default().push(owner.clone());
            }
        }
        let mut entries: BTreeMap<LayerId, Vec<String>> = BTreeMap::new();
        for (key, entry) in &inner.state.entries {
            if let Some(id) = entry.layer {
                entries.entry(id).or_default().push(key.clone());
            }
        }
        let layers = inner
            .state
            .layers
            .iter()
            .filter(|(_, record)| !record.active);
        let infos = layers.map(|(id, record)| LayerInfo {
            id: *id,
            path: record
                .foreign
                .clone()
                .unwrap_or_else(|| self.core.layout.fs(*id)),
            foreign: record.foreign.is_some(),
            usage: record.usage,
            chain_id: record.chain_id.clone(),
            diff_id: record.diff_id.clone(),
            labels: record.labels.clone(),
            owners: owners.remove(id).unwrap_or_default(),
            entries: entries.remove(id).unwrap_or_default(),
            created: record.created,
        });
        infos.collect()
    }
}
