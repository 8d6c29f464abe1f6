//! One layer: a directory of the store, or a blob with a provider that makes it one on demand, once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use shipway_backend::{ByteStream, LayerId, Pin};
use shipway_model::{Descriptor, Digest, Failure};
use tokio::sync::OnceCell;

use crate::meta::{BlobRecord, LayerMeta};
use crate::{Layers, Need};

/// Makes a lazy layer real.
#[async_trait]
pub trait Provider: Send + Sync {
    /// The blob.
    fn descriptor(&self) -> &Descriptor;
    /// Digest of the archive in it.
    fn diff_id(&self) -> Digest;
    /// Unpacks it into the store, or finds it there.
    async fn unpack(&self, layers: &Layers, need: &Need) -> Result<LayerId, Failure>;
    /// True where the blob can be fetched: it may be gone from where it came from.
    async fn available(&self, need: &Need) -> bool;
    /// The blob's bytes.
    async fn fetch(&self, need: &Need) -> Result<ByteStream, Failure>;
    /// Reference of the image that it is part of, to find it again after a restart.
    fn origin(&self) -> &str;
}

/// A layer. Clones are the same layer.
#[derive(Clone)]
pub struct Layer(Arc<Inner>);

struct Inner {
    ready: OnceCell<Ready>,
    provider: Option<Arc<dyn Provider>>,
    meta: Mutex<LayerMeta>,
    /// Held while a blob of this layer is made, so that two exports make it once.
    pub(crate) making: tokio::sync::Mutex<()>,
}

/// A layer that is a directory.
struct Ready {
    id: LayerId,
    path: PathBuf,
    _pin: Pin,
}

impl Layer {
    pub(crate) fn ready(id: LayerId, path: PathBuf, pin: Pin, meta: LayerMeta) -> Self {
        let ready = OnceCell::new_with(Some(Ready {
            id,
            path,
            _pin: pin,
        }));
        let making = tokio::sync::Mutex::default();
        Self(Arc::new(Inner {
            ready,
            provider: None,
            meta: Mutex::new(meta),
            making,
        }))
    }

    /// A layer that is fetched when it is needed.
    #[must_use]
    pub fn lazy(provider: Arc<dyn Provider>) -> Self {
        let meta = LayerMeta::of_blob(provider.descriptor(), provider.diff_id());
        Self(Arc::new(Inner {
            ready: OnceCell::new(),
            provider: Some(provider),
            meta: Mutex::new(meta),
            making: tokio::sync::Mutex::default(),
        }))
    }

    /// Its id; `None` while it is lazy.
    #[must_use]
    pub fn id(&self) -> Option<LayerId> {
        self.0.ready.get().map(|ready| ready.id)
    }

    /// Its directory; `None` while it is lazy.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.ready.get().map(|ready| ready.path.as_path())
    }

    /// Its provider, where it has one.
    #[must_use]
    pub fn provider(&self) -> Option<&Arc<dyn Provider>> {
        self.0.provider.as_ref()
    }

    /// What is known of it.
    #[must_use]
    pub fn meta(&self) -> LayerMeta {
        self.0.meta.lock().clone()
    }

    /// True where both are the same layer.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.id().is_some() && self.id() == other.id())
    }

    /// Makes it a directory, unless it is one; gives its id and directory.
    pub async fn materialise(
        &self,
        layers: &Layers,
        need: &Need,
    ) -> Result<(LayerId, &Path), Failure> {
        let ready = self
            .0
            .ready
            .get_or_try_init(|| async {
                let provider = self
                    .0
                    .provider
                    .as_ref()
                    .expect("a layer is ready or has a provider");
                let id = provider.unpack(layers, need).await?;
                let (path, pin) = layers.locate(id)?;
                Ok::<_, Failure>(Ready {
                    id,
                    path,
                    _pin: pin,
                })
            })
            .await?;
        Ok((ready.id, &ready.path))
    }

    /// Held while a blob of this layer is made.
    pub(crate) async fn making(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.making.lock().await
    }

    /// Remembers a blob, durably where the layer is a directory. Losing it costs making the blob again.
    pub(crate) fn remember(&self, layers: &Layers, blob: BlobRecord) {
        let mut meta = self.0.meta.lock();
        meta.diff_id.get_or_insert(blob.diff_id);
        if !meta.blobs.contains(&blob) {
            meta.blobs.push(blob);
        }
        if let Some(id) = self.id() {
            layers.remember(id, &meta);
        }
    }
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.id(), &self.0.provider) {
            (Some(id), _) => write!(f, "Layer({id})"),
            (None, Some(provider)) => write!(f, "Layer(lazy {})", provider.descriptor().digest),
            (None, None) => f.write_str("Layer(?)"),
        }
    }
}
