//! A registry that may be spoken to without TLS, because a cache's options say so. It decides nothing else.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use shipway_backend::{BackendError, ByteStream, Registry, RegistryAccess};
use shipway_model::{Descriptor, Digest, ImageRef};

struct Insecure(Arc<dyn Registry>);

/// The same registry with plain HTTP and unverified TLS allowed in every call: layers of an imported cache are fetched by
/// steps that know nothing of the cache's options.
#[must_use]
pub fn insecure(registry: Arc<dyn Registry>) -> Arc<dyn Registry> {
    Arc::new(Insecure(registry))
}

fn allow(access: &RegistryAccess) -> RegistryAccess {
    RegistryAccess {
        insecure: true,
        ..access.clone()
    }
}

#[async_trait]
impl Registry for Insecure {
    async fn resolve(
        &self,
        image: &ImageRef,
        access: &RegistryAccess,
    ) -> Result<Descriptor, BackendError> {
        self.0.resolve(image, &allow(access)).await
    }

    async fn fetch(
        &self,
        image: &ImageRef,
        descriptor: &Descriptor,
        access: &RegistryAccess,
    ) -> Result<ByteStream, BackendError> {
        self.0.fetch(image, descriptor, &allow(access)).await
    }

    async fn has_blob(
        &self,
        image: &ImageRef,
        digest: &Digest,
        mount_from: Option<&str>,
        access: &RegistryAccess,
    ) -> Result<bool, BackendError> {
        let access = allow(access);
        self.0.has_blob(image, digest, mount_from, &access).await
    }

    async fn push_blob(
        &self,
        image: &ImageRef,
        descriptor: &Descriptor,
        data: ByteStream,
        access: &RegistryAccess,
    ) -> Result<(), BackendError> {
        let access = allow(access);
        self.0.push_blob(image, descriptor, data, &access).await
    }

    async fn push_manifest(
        &self,
        image: &ImageRef,
        descriptor: &Descriptor,
        bytes: Bytes,
        access: &RegistryAccess,
    ) -> Result<(), BackendError> {
        let access = allow(access);
        self.0
            .push_manifest(image, descriptor, bytes, &access)
            .await
    }
}
