//! A result of a build: layers stacked on each other, lowest first. Immutable.

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use shipway_backend::LayerId;
use shipway_model::{Descriptor, Digest, Failure};

use crate::{Layer, Layers, Need};

/// Layers, lowest first. Clones are cheap and keep the layers alive.
#[derive(Debug, Clone, Default)]
pub struct Snapshot(Arc<[Layer]>);

/// A snapshot as the cache records it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedSnapshot(pub Vec<SavedLayer>);

/// One layer of a [`SavedSnapshot`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "it lives only while a result is read or written"
)]
#[serde(untagged)]
pub enum SavedLayer {
    /// A directory of the store.
    Stored(LayerId),
    /// A blob of an image.
    Lazy {
        /// The blob.
        blob: Descriptor,
        /// Digest of the archive in it.
        diff_id: Digest,
        /// The image.
        image: String,
    },
}

impl Snapshot {
    /// These layers, lowest first.
    #[must_use]
    pub fn new(layers: impl Into<Arc<[Layer]>>) -> Self {
        Self(layers.into())
    }

    /// Its layers.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.0
    }

    /// True for the empty filesystem.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same with one more layer on top.
    #[must_use]
    pub fn with(&self, top: Layer) -> Self {
        Self(self.0.iter().cloned().chain([top]).collect())
    }

    /// Makes every layer a directory, at once; gives the directories, lowest first.
    pub async fn materialise(&self, layers: &Layers, need: &Need) -> Result<Vec<PathBuf>, Failure> {
        let mut each: Vec<BoxFuture<'_, Result<PathBuf, Failure>>> = Vec::new();
        for layer in &*self.0 {
            each.push(Box::pin(async move {
                let (_, path) = layer.materialise(layers, need).await?;
                Ok(path.to_owned())
            }));
        }
        futures::future::try_join_all(each).await
    }

    /// How the cache records it.
    #[must_use]
    pub fn saved(&self) -> SavedSnapshot {
        let layers = self
            .0
            .iter()
            .filter_map(|layer| match (layer.id(), layer.provider()) {
                (Some(id), _) => Some(SavedLayer::Stored(id)),
                (None, Some(provider)) => Some(SavedLayer::Lazy {
                    blob: provider.descriptor().clone(),
                    diff_id: provider.diff_id(),
                    image: provider.origin().to_owned(),
                }),
                (None, None) => None,
            });
        SavedSnapshot(layers.collect())
    }

    /// Ids of the layers that are directories.
    pub fn ids(&self) -> impl Iterator<Item = LayerId> {
        self.0.iter().filter_map(Layer::id)
    }
}
