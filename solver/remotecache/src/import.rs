//! Reads a cache: a manifest of its own, or the records in images' configurations. Fetches manifests and configurations
//! only; a layer is fetched when a build needs its files. What is not what its digest says is refused.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use serde::Deserialize;
use shipway_backend::{BackendError, Registry, RegistryAccess};
use shipway_cache::{KeyIndex, ResultId};
use shipway_engine::{CacheSource, OpContext};
use shipway_layers::{CREATED_AT, DESCRIPTION, Layer, Report, Snapshot};
use shipway_model::image::{History, Index as ImageIndex, Manifest, RootFs, chain_ids};
use shipway_model::{Descriptor, Digest, Failure, ImageRef};

use crate::config::{CONFIG_LIMIT, CONFIG_TYPE, Config, InvalidConfig};
use crate::index::Index;

/// Annotation of a layer with the digest of the archive in it (containerd).
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// Makes a layer that is fetched when it is needed: from its blob, the digest of the archive in it, and the chain ID of it
/// on those below.
pub type OpenLayer = Arc<dyn Fn(&Descriptor, Digest, Digest) -> Layer + Send + Sync>;

/// Where a cache is.
pub struct Place {
    /// The registry, or whatever stands in for one.
    pub registry: Arc<dyn Registry>,
    /// The manifest.
    pub image: ImageRef,
    /// How the registry may be spoken to.
    pub access: RegistryAccess,
}

/// Why a cache could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The manifest or a configuration could not be read.
    #[error(transparent)]
    Read(#[from] BackendError),
    /// Not the JSON of what it should be.
    #[error("parsing {what} {digest}")]
    Json {
        /// What it should be.
        what: &'static str,
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Neither an index nor an image manifest.
    #[error("unsupported or uninferrable manifest type of {0}")]
    Type(Digest),
    /// Too much of it.
    #[error("blob {digest} is too large ({size} > {CONFIG_LIMIT})")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size, in bytes.
        size: u64,
    },
    /// Not what its digest says.
    #[error("blob {0} has other bytes than its digest says")]
    Lies(Digest),
    /// The records are not base64.
    #[error("parsing the cache in image configuration {0}: it is not base64")]
    Base64(Digest),
    /// Not a valid configuration.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Read(error) => error.into(),
            error => Self::from_error(&error),
        }
    }
}

/// An imported cache: its keys, and how to get its layers.
pub struct ImportedCache {
    origin: String,
    index: Index,
    blobs: HashMap<Digest, (Descriptor, Digest)>,
    open: OpenLayer,
}

impl ImportedCache {
    /// Reads a cache. `origin` names it among the caches of a build.
    pub async fn read(
        place: &Place,
        origin: &str,
        open: OpenLayer,
        report: &dyn Report,
    ) -> Result<Self, ImportError> {
        let mut cache = Self {
            origin: format!("import:{origin}"),
            index: Index::default(),
            blobs: HashMap::new(),
            open,
        };
        let target = place.registry.resolve(&place.image, &place.access).await?;
        let bytes = place.fetch(&target).await?;
        let shape = Shape::of(&bytes, &target.digest)?;
        let part = format!("inferred cache manifest type: {}", shape.media_type());
        report.part(&part, "", 0, 0, true);
        match shape.cache_layers() {
            Some((config, layers)) => cache.add(place, &config, layers).await?,
            None => cache.add_inline(place, shape).await?,
        }
        Ok(cache)
    }

    async fn add(
        &mut self,
        place: &Place,
        config: &Descriptor,
        layers: Vec<Descriptor>,
    ) -> Result<(), ImportError> {
        let config = Config::decode(&place.fetch(config).await?)?;
        for layer in layers {
            let diff_id = layer.annotations.get(UNCOMPRESSED);
            // Without it the layer cannot be checked when it is unpacked: its results are passed over.
            if let Some(diff_id) = diff_id.and_then(|text| text.parse().ok()) {
                self.blobs.insert(layer.digest, (layer, diff_id));
            }
        }
        let has = |blob: &Digest| self.blobs.contains_key(blob);
        self.index.add(&self.origin, &config, &has);
        Ok(())
    }

    /// Reads the caches in the configurations of an image's manifests.
    async fn add_inline(&mut self, place: &Place, shape: Shape) -> Result<(), ImportError> {
        let mut open = vec![shape];
        while let Some(shape) = open.pop() {
            match shape {
                Shape::Index(index) => {
                    for manifest in index.manifests {
                        let bytes = place.fetch(&manifest).await?;
                        // What an index lists beside images concerns no cache.
                        open.extend(Shape::of(&bytes, &manifest.digest).ok());
                    }
                }
                Shape::Manifest(manifest) => self.add_image(place, *manifest).await?,
            }
        }
        Ok(())
    }

    async fn add_image(&mut self, place: &Place, manifest: Manifest) -> Result<(), ImportError> {
        if manifest.layers.is_empty() {
            return Ok(());
        }
        let digest = manifest.config.digest;
        let bytes = place.fetch(&manifest.config).await?;
        let Ok(image) = serde_json::from_slice::<CachedImage>(&bytes) else {
            return Ok(());
        };
        let diff_ids = image.rootfs.diff_ids.unwrap_or_default();
        let Some(records) = image.cache.filter(|c| !c.is_empty()) else {
            return Ok(());
        };
        if diff_ids.len() != manifest.layers.len() {
            return Ok(());
        }
        let records = STANDARD.decode(records);
        let records = records.map_err(|_| ImportError::Base64(digest))?;
        let blobs: Vec<Digest> = manifest.layers.iter().map(|layer| layer.digest).collect();
        let config = Config::decode_inline(&records, &blobs)?;
        let history = image.history.unwrap_or_default();
        let mut history = history.into_iter().filter(|entry| !entry.empty_layer);
        for (mut layer, diff_id) in manifest.layers.into_iter().zip(diff_ids) {
            if let Some(entry) = history.next() {
                let created = entry.created.map(|at| (CREATED_AT.to_owned(), at));
                layer.annotations.extend(created);
                let description = (DESCRIPTION.to_owned(), entry.created_by);
                layer.annotations.extend([description]);
            }
            let known = self.blobs.entry(layer.digest);
            known.or_insert((layer, diff_id));
        }
        let has = |blob: &Digest| self.blobs.contains_key(blob);
        self.index.add(&self.origin, &config, &has);
        Ok(())
    }

    /// A result of this cache, none of whose layers is fetched yet; `None` where it is not of this cache.
    #[must_use]
    pub fn open(&self, result: &ResultId) -> Option<Snapshot> {
        let (origin, _) = result.as_str().rsplit_once('#')?;
        if origin != self.origin {
            return None;
        }
        let chain = self.index.chain(result)?;
        let blobs: Option<Vec<_>> = chain.iter().map(|blob| self.blobs.get(blob)).collect();
        let blobs = blobs?;
        let diff_ids: Vec<Digest> = blobs.iter().map(|(_, diff_id)| *diff_id).collect();
        let layers = blobs.iter().zip(chain_ids(&diff_ids));
        let layers: Vec<Layer> = layers
            .map(|((blob, diff_id), chain_id)| (self.open)(blob, *diff_id, chain_id))
            .collect();
        Some(Snapshot::new(layers))
    }
}

#[async_trait]
impl CacheSource<Snapshot> for ImportedCache {
    fn index(&self) -> &dyn KeyIndex {
        &self.index
    }

    async fn load(&self, _ctx: &OpContext, result: &ResultId) -> Result<Option<Snapshot>, Failure> {
        Ok(self.open(result))
    }
}

impl Place {
    async fn fetch(&self, blob: &Descriptor) -> Result<Bytes, ImportError> {
        let (digest, size) = (blob.digest, blob.size);
        if size > CONFIG_LIMIT {
            return Err(ImportError::TooLarge { digest, size });
        }
        let mut stream = self.registry.fetch(&self.image, blob, &self.access).await?;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.try_next().await? {
            bytes.extend_from_slice(&chunk);
            let size = bytes.len() as u64;
            if size > CONFIG_LIMIT {
                return Err(ImportError::TooLarge { digest, size });
            }
        }
        if Digest::of(&bytes) != digest {
            return Err(ImportError::Lies(digest));
        }
        Ok(bytes.freeze())
    }
}

/// A manifest of either kind.
enum Shape {
    Index(ImageIndex),
    Manifest(Box<Manifest>),
}

impl Shape {
    fn of(bytes: &[u8], digest: &Digest) -> Result<Self, ImportError> {
        #[derive(Deserialize)]
        struct Members {
            manifests: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
        }
        let invalid = |what| {
            let digest = *digest;
            move |source| ImportError::Json {
                what,
                digest,
                source,
            }
        };
        let members: Members = serde_json::from_slice(bytes).map_err(invalid("manifest"))?;
        if members.manifests.is_some() {
            let index = serde_json::from_slice(bytes);
            return Ok(Self::Index(index.map_err(invalid("index"))?));
        }
        if members.config.is_some() {
            let manifest = serde_json::from_slice(bytes);
            return Ok(Self::Manifest(manifest.map_err(invalid("manifest"))?));
        }
        Err(ImportError::Type(*digest))
    }

    fn media_type(&self) -> &str {
        use shipway_model::descriptor::{OCI_INDEX, OCI_MANIFEST};
        let (named, default) = match self {
            Self::Index(index) => (&index.media_type, OCI_INDEX),
            Self::Manifest(manifest) => (&manifest.media_type, OCI_MANIFEST),
        };
        if named.is_empty() { default } else { named }
    }

    /// The cache's configuration and its layers; `None` for an image.
    fn cache_layers(&self) -> Option<(Descriptor, Vec<Descriptor>)> {
        let is_config = |blob: &&Descriptor| blob.media_type == CONFIG_TYPE;
        match self {
            Self::Index(index) => {
                let config = index.manifests.iter().rfind(is_config)?.clone();
                let layers = index.manifests.iter().filter(|blob| !is_config(blob));
                Some((config, layers.cloned().collect()))
            }
            Self::Manifest(manifest) => is_config(&&manifest.config)
                .then(|| (manifest.config.clone(), manifest.layers.clone())),
        }
    }
}

/// What an image's configuration says of the cache in it.
#[derive(Deserialize)]
struct CachedImage {
    #[serde(default)]
    rootfs: RootFs,
    #[serde(default)]
    history: Option<Vec<History>>,
    #[serde(rename = "moby.buildkit.cache.v0", default)]
    cache: Option<String>,
}
