//! Results as the key store names them: the name is the list of layers itself, so that recording a result is one write.

use std::sync::Arc;

use async_trait::async_trait;
use shipway_backend::{LayerId, Registry};
use shipway_cache::ResultId;
use shipway_engine::{OpContext, Results};
use shipway_layers::{Layer, Layers, SavedLayer, SavedSnapshot, Snapshot};
use shipway_model::Failure;
use shipway_source::layout::is_layout;

/// Keeps snapshots for the engine.
pub struct StoredResults {
    layers: Layers,
    registry: Arc<dyn Registry>,
}

impl StoredResults {
    /// Results made of these layers.
    #[must_use]
    pub fn new(layers: Layers, registry: Arc<dyn Registry>) -> Self {
        Self { layers, registry }
    }

    /// The value of a recorded result; `None` where it is gone.
    pub(crate) fn result(&self, result: &ResultId) -> Result<Option<Snapshot>, Failure> {
        let Ok(saved) = serde_json::from_str::<SavedSnapshot>(result.as_str()) else {
            return Ok(None);
        };
        let layers = saved.0.into_iter().map(|layer| self.open(layer));
        let layers: Option<Vec<Layer>> = layers.collect::<Result<_, _>>()?;
        Ok(layers.map(Snapshot::new))
    }

    fn open(&self, saved: SavedLayer) -> Result<Option<Layer>, Failure> {
        match saved {
            SavedLayer::Stored(id) => match self.layers.open(id) {
                Ok(layer) => Ok(Some(layer)),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error.into()),
            },
            // Without its client it cannot be fetched, unless that was done; the source finds it again.
            SavedLayer::Lazy { image, diff_id, .. } if is_layout(&image) => {
                let unpacked = shipway_source::image::unpacked(&self.layers, &diff_id)?;
                unpacked.map_or(Ok(None), |id| self.open(SavedLayer::Stored(id)))
            }
            SavedLayer::Lazy {
                blob,
                diff_id,
                image,
            } => {
                shipway_source::image::saved_layer(&self.registry, blob, diff_id, &image).map(Some)
            }
        }
    }
}

/// Layers of the store that a recorded result needs; none where its name cannot be read.
#[must_use]
pub(crate) fn layers_of(result: &ResultId) -> Vec<LayerId> {
    let saved: SavedSnapshot =
        serde_json::from_str(result.as_str()).unwrap_or(SavedSnapshot(Vec::new()));
    let stored = saved.0.into_iter().filter_map(|layer| match layer {
        SavedLayer::Stored(id) => Some(id),
        SavedLayer::Lazy { .. } => None,
    });
    stored.collect()
}

#[async_trait]
impl Results<Snapshot> for StoredResults {
    async fn save(&self, value: &Snapshot, _description: &str) -> Result<ResultId, Failure> {
        // What is recorded must not be known before the layers that it stands for.
        let layers = self.layers.clone();
        let flushed = tokio::task::spawn_blocking(move || layers.store().flush()).await;
        flushed.map_err(|e| Failure::from_error(&e))??;
        let name = serde_json::to_string(&value.saved());
        Ok(ResultId::new(name.map_err(|e| {
            Failure::from_error(&e).context("recording a result")
        })?))
    }

    async fn load(&self, _ctx: &OpContext, result: &ResultId) -> Result<Option<Snapshot>, Failure> {
        self.result(result)
    }
}
