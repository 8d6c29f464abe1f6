//! Content digests of snapshots: computed from one index per layer, which is kept in memory while it is small and on disk
//! beside what else is remembered of the layer.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use shipway_backend::LayerId;
use shipway_model::{Digest, Failure};
use shipway_tree::hash::{Content, Indexed, LayerIndex, Selector, Sum};

use crate::{Layer, Layers, Need, Snapshot};

/// Entries that indexes in memory may have in all: some 50 bytes each.
const IN_MEMORY: usize = 200_000;

/// Indexes in memory, the least recently used first.
#[derive(Default)]
pub(crate) struct Indexes {
    kept: VecDeque<(LayerId, Arc<LayerIndex>)>,
}

impl Indexes {
    fn get(&mut self, id: LayerId) -> Option<Arc<LayerIndex>> {
        let at = self.kept.iter().position(|(kept, _)| *kept == id)?;
        let found = self.kept.remove(at)?;
        let index = Arc::clone(&found.1);
        self.kept.push_back(found);
        Some(index)
    }

    fn put(&mut self, id: LayerId, index: Arc<LayerIndex>) {
        self.kept.push_back((id, index));
        let mut entries: usize = self.kept.iter().map(|(_, index)| index.len()).sum();
        while entries > IN_MEMORY && self.kept.len() > 1 {
            if let Some((_, dropped)) = self.kept.pop_front() {
                entries -= dropped.len();
            }
        }
    }
}

impl Layers {
    /// Digest of what `selectors` choose of a snapshot; no selector is everything. Fetches lazy layers.
    pub async fn content_digest(
        &self,
        snapshot: &Snapshot,
        selectors: Vec<Selector>,
        need: &Need,
    ) -> Result<Digest, Failure> {
        snapshot.materialise(self, need).await?;
        let (layers, snapshot) = (self.clone(), snapshot.clone());
        let digest = tokio::task::spawn_blocking(move || layers.digest_now(&snapshot, &selectors));
        digest.await.map_err(|e| Failure::from_error(&e))?
    }

    fn digest_now(&self, snapshot: &Snapshot, selectors: &[Selector]) -> Result<Digest, Failure> {
        let top = snapshot.ids().last().map(|id| id.to_string());
        let top = top.unwrap_or_else(|| "scratch".to_owned());
        let failed = |e: shipway_tree::Error| {
            let context = format!("failed to calculate checksum of ref {top}");
            Failure::from_error(&e).context(context)
        };
        let mut indexed = Vec::new();
        for layer in snapshot.layers() {
            let (Some(id), Some(path)) = (layer.id(), layer.path()) else {
                continue;
            };
            let open = Arc::new(shipway_tree::Layer::open(path).map_err(failed)?);
            let kept = self.indexes().lock().get(id);
            let index = match kept.or_else(|| self.stored_index(id)) {
                Some(index) => index,
                None => Arc::new(LayerIndex::scan(&open).map_err(failed)?),
            };
            indexed.push((id, Indexed { layer: open, index }));
        }
        let content = Content::new(indexed.iter().map(|(_, indexed)| indexed.clone()).collect());
        let digest = content.key(selectors).map_err(failed)?;
        for (id, Indexed { index, .. }) in indexed {
            self.keep_index(id, index);
        }
        Ok(digest)
    }

    /// Remembers the digests of files of a layer that were taken when they were written, so that nobody reads them again.
    pub fn learn(&self, layer: &Layer, sums: &HashMap<PathBuf, Sum>) -> Result<(), Failure> {
        let (Some(id), Some(path)) = (layer.id(), layer.path()) else {
            return Ok(());
        };
        let scanned = shipway_tree::Layer::open(path).and_then(|open| LayerIndex::scan(&open));
        let index = scanned.map_err(|e| Failure::from_error(&e).context("listing a layer"))?;
        index.learn(sums);
        self.keep_index(id, Arc::new(index));
        Ok(())
    }

    fn stored_index(&self, id: LayerId) -> Option<Arc<LayerIndex>> {
        let bytes = self.meta_dir().read_index(id)?;
        LayerIndex::from_bytes(&bytes).ok().map(Arc::new)
    }

    fn keep_index(&self, id: LayerId, index: Arc<LayerIndex>) {
        let mut indexes = self.indexes().lock();
        if indexes.get(id).is_some() {
            return;
        }
        if let Err(error) = self.meta_dir().write_index(id, &index.to_bytes()) {
            tracing::warn!(%id, %error, "keeping the content index of a layer");
        }
        indexes.put(id, index);
    }
}
