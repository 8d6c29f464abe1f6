//! The layers of this machine: begins, commits and reopens them, and remembers what is known of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use shipway_backend::layers::LayerUpkeep;
use shipway_backend::{BackendError, LayerId, LayerStore, NewLayer, Pin, Usage};
use shipway_model::Failure;

use crate::Layer;
use crate::digest::Indexes;
use crate::meta::{LayerMeta, MetaDir};

/// Why a layer could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] BackendError),
    /// Measuring a layer's disk use failed.
    #[error("measuring layer {id}")]
    Usage {
        /// The layer.
        id: LayerId,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
}

impl From<LayerError> for Failure {
    fn from(error: LayerError) -> Self {
        match error {
            LayerError::Store(error) => error.into(),
            error @ LayerError::Usage { .. } => Self::from_error(&error),
        }
    }
}

/// The layers of this machine.
#[derive(Clone)]
pub struct Layers(Arc<Inner>);

struct Inner {
    store: Arc<dyn LayerStore>,
    upkeep: Arc<dyn LayerUpkeep>,
    meta: MetaDir,
    pub(crate) indexes: Mutex<Indexes>,
}

/// A layer that is being written; thrown away when it is dropped before [`Building::finish`].
pub struct Building {
    layers: Layers,
    new: Option<NewLayer>,
}

/// Owner of a layer in the store: the cache. Pruning takes it away layer by layer.
fn owner(id: LayerId) -> String {
    format!("cache:{id}")
}

impl Layers {
    /// Layers of a store.
    pub fn new(
        store: Arc<dyn LayerStore>,
        upkeep: Arc<dyn LayerUpkeep>,
    ) -> Result<Self, BackendError> {
        let meta = MetaDir::new(upkeep.scratch_dir("meta")?);
        let indexes = Mutex::default();
        Ok(Self(Arc::new(Inner {
            store,
            upkeep,
            meta,
            indexes,
        })))
    }

    /// The store's upkeep.
    #[must_use]
    pub fn upkeep(&self) -> &dyn LayerUpkeep {
        &*self.0.upkeep
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &dyn LayerStore {
        &*self.0.store
    }

    /// Begins a layer.
    pub fn begin(&self) -> Result<Building, BackendError> {
        Ok(Building {
            layers: self.clone(),
            new: Some(self.0.store.create()?),
        })
    }

    /// A committed layer.
    pub fn open(&self, id: LayerId) -> Result<Layer, BackendError> {
        let (path, pin) = self.locate(id)?;
        Ok(Layer::ready(id, path, pin, self.0.meta.read(id)))
    }

    /// A directory outside of the store as a layer. The caller keeps it alive through `owner`'s bookkeeping.
    pub fn adopt(&self, dir: &Path) -> Result<LayerId, BackendError> {
        self.0.upkeep.adopt(dir, "foreign")
    }

    /// Takes the cache's ownership away; the layers go at the next collection unless something else needs them.
    pub fn release(&self, ids: impl IntoIterator<Item = LayerId>) -> Result<(), BackendError> {
        ids.into_iter()
            .try_for_each(|id| self.0.store.disown(&owner(id)))
    }

    /// Layers that the cache owns.
    pub fn owned(&self) -> Result<Vec<LayerId>, BackendError> {
        let owners = self.0.upkeep.owners()?;
        let own = owners.into_iter().filter(|(name, id)| *name == owner(*id));
        Ok(own.map(|(_, id)| id).collect())
    }

    /// Disk use of a layer.
    pub fn usage(&self, id: LayerId) -> Result<Usage, BackendError> {
        self.0.store.usage(id)
    }

    /// Removes what is remembered of layers that are gone.
    pub fn sweep(&self) {
        let lives = |id| self.0.store.path(id).is_ok();
        if let Err(error) = self.0.meta.sweep(lives) {
            tracing::warn!(%error, "sweeping what is remembered of layers");
        }
    }

    pub(crate) fn locate(&self, id: LayerId) -> Result<(PathBuf, Pin), BackendError> {
        let pin = self.0.store.pin(&[id])?;
        Ok((self.0.store.path(id)?, pin))
    }

    pub(crate) fn remember(&self, id: LayerId, meta: &LayerMeta) {
        if let Err(error) = self.0.meta.write(id, meta) {
            tracing::warn!(%id, %error, "remembering what is known of a layer");
        }
    }

    pub(crate) fn meta_dir(&self) -> &MetaDir {
        &self.0.meta
    }

    pub(crate) fn indexes(&self) -> &Mutex<Indexes> {
        &self.0.indexes
    }
}

impl Building {
    fn new_layer(&self) -> &NewLayer {
        self.new
            .as_ref()
            .expect("a layer is open until it is finished")
    }

    /// Where to write.
    #[must_use]
    pub fn fs(&self) -> &Path {
        &self.new_layer().fs
    }

    /// Overlay work directory.
    #[must_use]
    pub fn work(&self) -> &Path {
        &self.new_layer().work
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> LayerId {
        self.new_layer().id
    }

    /// Commits. Walks the layer to measure it: call where blocking is allowed.
    pub fn finish(self, description: &str, created: Timestamp) -> Result<Layer, LayerError> {
        let meta = LayerMeta {
            created: Some(created),
            description: description.to_owned(),
            ..LayerMeta::default()
        };
        self.finish_with(meta)
    }

    /// Commits with what is known already.
    pub fn finish_with(mut self, meta: LayerMeta) -> Result<Layer, LayerError> {
        let id = self.id();
        let measured = crate::usage::measure(self.fs());
        let usage = measured.map_err(|cause| LayerError::Usage { id, cause })?;
        self.layers.0.store.commit(id, usage, &owner(id))?;
        self.new = None;
        let (path, pin) = self.layers.locate(id)?;
        self.layers.remember(id, &meta);
        Ok(Layer::ready(id, path, pin, meta))
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if let Some(new) = self.new.take()
            && let Err(error) = self.layers.0.store.discard(new.id)
        {
            tracing::warn!(id = %new.id, %error, "discarding an unfinished layer");
        }
    }
}
