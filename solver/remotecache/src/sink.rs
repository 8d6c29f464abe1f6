//! Where an exported cache is written: a registry, or a directory of the client. It decides nothing but the order of asking
//! before sending.

use std::sync::Arc;

use bytes::Bytes;
use shipway_backend::session::Files;
use shipway_backend::{ByteStream, Registry, RegistryAccess};
use shipway_layers::{Layer, Need};
use shipway_model::{Descriptor, Failure, ImageRef};

/// Where an exported cache is written.
pub enum Sink {
    /// A registry.
    Registry {
        /// Its client.
        registry: Arc<dyn Registry>,
        /// What the manifest will be named.
        image: ImageRef,
        /// How it may be spoken to.
        access: RegistryAccess,
    },
    /// A content store of the client.
    Client {
        /// The client's files.
        files: Arc<dyn Files>,
        /// Name of the store.
        store: String,
    },
}

impl Sink {
    /// Writes a layer's blob, unless it is there. A layer that was never fetched is fetched for it.
    pub(crate) async fn layer(
        &self,
        blob: &Descriptor,
        layer: &Layer,
        need: &Need,
    ) -> Result<(), Failure> {
        match self {
            Self::Registry {
                registry,
                image,
                access,
            } => {
                let from = mount_from(image, layer);
                let there = registry.has_blob(image, &blob.digest, from.as_deref(), access);
                if there.await? {
                    return Ok(());
                }
                let data = open(blob, layer, need).await?;
                Ok(registry.push_blob(image, blob, data, access).await?)
            }
            Self::Client { files, store } => {
                if files.blob_size(store, &blob.digest).await.is_ok() {
                    return Ok(());
                }
                let data = open(blob, layer, need).await?;
                let written = files.write_blob(store, &blob.digest, blob.size, data);
                Ok(written.await?)
            }
        }
    }

    /// Writes a small blob.
    pub(crate) async fn small(&self, blob: &Descriptor, bytes: Bytes) -> Result<(), Failure> {
        match self {
            Self::Registry {
                registry,
                image,
                access,
            } => {
                if registry.has_blob(image, &blob.digest, None, access).await? {
                    return Ok(());
                }
                Ok(registry.push_blob(image, blob, once(bytes), access).await?)
            }
            Self::Client { files, store } => {
                let written = files.write_blob(store, &blob.digest, blob.size, once(bytes));
                Ok(written.await?)
            }
        }
    }

    /// Writes the manifest, last.
    pub(crate) async fn manifest(
        &self,
        manifest: &Descriptor,
        bytes: Bytes,
    ) -> Result<(), Failure> {
        match self {
            Self::Registry {
                registry,
                image,
                access,
            } => Ok(registry
                .push_manifest(image, manifest, bytes, access)
                .await?),
            Self::Client { .. } => self.small(manifest, bytes).await,
        }
    }
}

/// Repository of the same registry that the layer came from.
fn mount_from(image: &ImageRef, layer: &Layer) -> Option<String> {
    let from: ImageRef = layer.provider()?.origin().parse().ok()?;
    (from.host == image.host && from.path != image.path).then_some(from.path)
}

fn once(bytes: Bytes) -> ByteStream {
    Box::pin(futures::stream::once(async move { Ok(bytes) }))
}

async fn open(blob: &Descriptor, layer: &Layer, need: &Need) -> Result<ByteStream, Failure> {
    match need.namespace.blobs.open(&blob.digest, 0).await {
        Ok(stream) => Ok(stream),
        Err(error) if error.is_not_found() => {
            let provider = layer
                .provider()
                .filter(|p| p.descriptor().digest == blob.digest);
            match provider {
                Some(provider) => provider.fetch(need).await,
                None => Err(error.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}
