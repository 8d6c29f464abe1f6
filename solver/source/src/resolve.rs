//! Finds what an image reference names: in containerd's image store, in what was seen before, or at the registry; and
//! picks the manifest for a platform. It fetches manifests and configurations, never layers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use shipway_backend::{
    BackendError, BlobSlot, Blobs, ErrorKind, Lease, Namespace, Registry, RegistryAccess,
};
use shipway_model::image::{ConfigView, Index, Manifest};
use shipway_model::{Descriptor, Digest, Failure, ImageRef, Platform};

use crate::smallblobs::SmallBlobs;

/// Largest manifest or configuration that is read, in bytes.
pub(crate) const METADATA_LIMIT: u64 = 8 << 20;

/// Where to look first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Lookup {
    /// An image that containerd has, else the registry.
    #[default]
    LocalFirst,
    /// The registry.
    Registry,
}

/// What a reference names.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// The reference.
    pub reference: ImageRef,
    /// What the reference names: an index or a manifest.
    pub target: Descriptor,
    /// The manifest for the platform.
    pub manifest: Manifest,
    /// Descriptor of that manifest.
    pub manifest_descriptor: Descriptor,
    /// The image's configuration.
    pub config: Bytes,
    /// Diff IDs of its layers, lowest first.
    pub diff_ids: Vec<Digest>,
}

/// Finds images.
pub struct ImageResolver {
    registry: Arc<dyn Registry>,
    seen: SmallBlobs,
}

/// Where to look and on whose behalf.
pub struct LookupEnv<'a> {
    /// Whose images and content.
    pub namespace: &'a Namespace,
    /// Holds what is fetched.
    pub lease: &'a Lease,
    /// How registries may be spoken to.
    pub access: &'a RegistryAccess,
}

impl ImageResolver {
    /// A resolver that keeps manifests in a directory.
    #[must_use]
    pub fn new(registry: Arc<dyn Registry>, dir: PathBuf) -> Self {
        Self {
            registry,
            seen: SmallBlobs::new(dir),
        }
    }

    /// The same over another registry, with what was seen in common.
    #[must_use]
    pub(crate) fn over(&self, registry: Arc<dyn Registry>) -> Self {
        Self {
            registry,
            seen: self.seen.clone(),
        }
    }

    /// Finds an image and reads its manifest and configuration.
    pub async fn resolve(
        &self,
        reference: &ImageRef,
        platform: &Platform,
        lookup: Lookup,
        env: &LookupEnv<'_>,
    ) -> Result<ResolvedImage, Failure> {
        if lookup == Lookup::LocalFirst
            && let Some(target) = self.local(reference, env).await?
        {
            match self.open(reference, target, platform, env).await {
                Ok(image) => return Ok(image),
                // An image without this platform, or with its content gone, is no local image.
                Err(error) => tracing::debug!(%reference, %error, "passing over a local image"),
            }
        }
        let target = self.remote(reference, env).await?;
        self.open(reference, target, platform, env).await
    }

    async fn local(
        &self,
        reference: &ImageRef,
        env: &LookupEnv<'_>,
    ) -> Result<Option<Descriptor>, Failure> {
        let image = env.namespace.images.get(&reference.to_string()).await?;
        let target = image.map(|image| image.target);
        let matches = |d: &Descriptor| reference.digest.is_none_or(|want| want == d.digest);
        if let Some(target) = target.filter(matches) {
            return Ok(Some(target));
        }
        // A pinned reference may name an image that is stored under its tag alone.
        if let (Some(digest), Some(_)) = (reference.digest, &reference.tag) {
            let tagged = ImageRef {
                digest: None,
                ..reference.clone()
            };
            let image = env.namespace.images.get(&tagged.to_string()).await?;
            return Ok(image
                .map(|i| i.target)
                .filter(|target| target.digest == digest));
        }
        Ok(None)
    }

    async fn remote(
        &self,
        reference: &ImageRef,
        env: &LookupEnv<'_>,
    ) -> Result<Descriptor, Failure> {
        if let Some(digest) = &reference.digest
            && let Some(bytes) = self.seen.get(digest)
        {
            return Ok(Descriptor::of(&media_type(&bytes), &bytes));
        }
        let resolved = self.registry.resolve(reference, env.access).await;
        resolved.map_err(|error| {
            let not_found = error.is_not_found();
            let failure = Failure::from(error).context(format!("{reference}"));
            if not_found && !failure.message.ends_with("not found") {
                return Failure {
                    message: format!("{reference}: not found").into(),
                    ..failure
                };
            }
            failure
        })
    }

    async fn open(
        &self,
        reference: &ImageRef,
        target: Descriptor,
        platform: &Platform,
        env: &LookupEnv<'_>,
    ) -> Result<ResolvedImage, Failure> {
        let mut manifest_descriptor = target.clone();
        let mut bytes = self.read(reference, &target, env).await?;
        for _ in 0..3 {
            if !is_index(&manifest_descriptor, &bytes) {
                break;
            }
            let index: Index = parse(&bytes, &manifest_descriptor)?;
            manifest_descriptor = pick(&index, platform).ok_or_else(|| {
                Failure::new(format!(
                    "no match for platform in manifest {}: not found",
                    target.digest
                ))
            })?;
            bytes = self.read(reference, &manifest_descriptor, env).await?;
        }
        let manifest: Manifest = parse(&bytes, &manifest_descriptor)?;
        let config = self.read(reference, &manifest.config, env).await?;
        let view: ConfigView = parse(&config, &manifest.config)?;
        let diff_ids = view.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() != manifest.layers.len() {
            return Err(Failure::new(format!(
                "image {reference}: its configuration lists {} layers, its manifest {}",
                diff_ids.len(),
                manifest.layers.len()
            )));
        }
        let reference = reference.clone();
        Ok(ResolvedImage {
            reference,
            target,
            manifest,
            manifest_descriptor,
            config,
            diff_ids,
        })
    }

    /// A manifest or configuration: from what was seen, the content store, or the registry.
    async fn read(
        &self,
        reference: &ImageRef,
        blob: &Descriptor,
        env: &LookupEnv<'_>,
    ) -> Result<Bytes, Failure> {
        if let Some(bytes) = self.seen.get(&blob.digest) {
            return Ok(bytes);
        }
        let bytes = match read_stored(&*env.namespace.blobs, blob).await? {
            Some(bytes) => bytes,
            None => self.fetch(reference, blob, env).await?,
        };
        self.seen.put(&blob.digest, &bytes);
        Ok(bytes)
    }

    async fn fetch(
        &self,
        reference: &ImageRef,
        blob: &Descriptor,
        env: &LookupEnv<'_>,
    ) -> Result<Bytes, Failure> {
        let stream = self.registry.fetch(reference, blob, env.access).await?;
        let bytes = collect(stream, blob).await?;
        store(
            &*env.namespace.blobs,
            env.lease,
            blob,
            &bytes,
            BTreeMap::new(),
        )
        .await?;
        Ok(bytes)
    }

    /// Registry client, for layers.
    #[must_use]
    pub fn registry(&self) -> &Arc<dyn Registry> {
        &self.registry
    }
}

/// A small blob of the content store; `None` where it is not there.
pub async fn read_stored(blobs: &dyn Blobs, blob: &Descriptor) -> Result<Option<Bytes>, Failure> {
    match blobs.open(&blob.digest, 0).await {
        Ok(stream) => Ok(Some(collect(stream, blob).await?)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Stores a small blob, held by a lease.
pub async fn store(
    blobs: &dyn Blobs,
    lease: &Lease,
    blob: &Descriptor,
    bytes: &Bytes,
    labels: BTreeMap<String, String>,
) -> Result<(), BackendError> {
    let name = format!("shipway-{}", blob.digest.hex());
    let expected = Some((blob.digest, blob.size));
    match blobs.write(lease, &name, expected, labels.clone()).await? {
        BlobSlot::Write(mut writer) => {
            writer.append(bytes.clone()).await?;
            writer.commit(blob.digest, blob.size).await
        }
        BlobSlot::Present if labels.is_empty() => Ok(()),
        BlobSlot::Present => blobs.label(&blob.digest, labels).await,
    }
}

async fn collect(
    stream: shipway_backend::ByteStream,
    blob: &Descriptor,
) -> Result<Bytes, BackendError> {
    let corrupt = |what: &str| {
        BackendError::new(
            ErrorKind::Corrupt,
            format!("reading blob {}: {what}", blob.digest),
        )
    };
    if blob.size > METADATA_LIMIT {
        return Err(corrupt("it is too large for a manifest or configuration"));
    }
    let mut bytes = BytesMut::new();
    let mut stream = stream.fuse();
    while let Some(chunk) = stream.try_next().await? {
        if bytes.len() as u64 + chunk.len() as u64 > METADATA_LIMIT {
            return Err(corrupt("it is too large for a manifest or configuration"));
        }
        bytes.extend_from_slice(&chunk);
    }
    if Digest::of(&bytes) != blob.digest {
        return Err(corrupt("its bytes have another digest"));
    }
    Ok(bytes.freeze())
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], blob: &Descriptor) -> Result<T, Failure> {
    serde_json::from_slice(bytes)
        .map_err(|e| Failure::from_error(&e).context(format!("reading {}", blob.digest)))
}

pub(crate) fn media_type(bytes: &[u8]) -> String {
    #[derive(serde::Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Head {
        media_type: String,
    }
    serde_json::from_slice::<Head>(bytes)
        .unwrap_or_default()
        .media_type
}

fn is_index(descriptor: &Descriptor, bytes: &[u8]) -> bool {
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Shape {
        manifests: Option<serde::de::IgnoredAny>,
    }
    if descriptor.is_manifest() {
        return false;
    }
    descriptor.is_index()
        || serde_json::from_slice::<Shape>(bytes).is_ok_and(|shape| shape.manifests.is_some())
}

/// The manifest that fits a platform best: same variant first, else the highest that runs there.
fn pick(index: &Index, platform: &Platform) -> Option<Descriptor> {
    let fits = |descriptor: &&Descriptor| match &descriptor.platform {
        None => true,
        Some(p) => p.architecture != "unknown" && same_machine(p, platform),
    };
    let rank = |descriptor: &&Descriptor| match &descriptor.platform {
        None => (0, String::new()),
        Some(p) if p.normalized() == platform.normalized() => (2, String::new()),
        Some(p) => (1, p.normalized().variant),
    };
    // `max_by_key` gives the last of equals; the first is wanted.
    index
        .manifests
        .iter()
        .filter(fits)
        .rev()
        .max_by_key(rank)
        .cloned()
}

/// True where an image for `image` is what a build for `wanted` takes: an older variant is fine, another machine is not.
fn same_machine(image: &Platform, wanted: &Platform) -> bool {
    image.normalized().architecture == wanted.normalized().architecture && image.runs_on(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(platform: &str, of: &str) -> Descriptor {
        let (os, rest) = platform.split_once('/').unwrap();
        let (arch, variant) = rest.split_once('/').unwrap_or((rest, ""));
        let mut descriptor = Descriptor::of("m", of.as_bytes());
        descriptor.platform = Some(Platform::new(os, arch, variant));
        descriptor
    }

    #[test]
    fn the_platform_s_own_manifest_is_picked() {
        let manifests = vec![
            entry("linux/arm64", "a"),
            entry("linux/amd64", "b"),
            entry("unknown/unknown", "attestation"),
        ];
        let index = Index {
            schema_version: 2,
            media_type: String::new(),
            manifests,
            annotations: BTreeMap::new(),
        };
        let picked = |platform: &str| pick(&index, &platform.parse().unwrap()).map(|d| d.digest);
        assert_eq!(picked("linux/amd64"), Some(Digest::of("b")));
        assert_eq!(picked("linux/arm64"), Some(Digest::of("a")));
        assert_eq!(picked("linux/s390x"), None);
    }
}
