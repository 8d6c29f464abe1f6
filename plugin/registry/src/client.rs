//! The client under its trait. Each operation is decided in a module of its own.

use async_trait::async_trait;
use bytes::Bytes;
use shipway_backend::{BackendError, ByteStream, Registry, RegistryAccess};
use shipway_model::{Descriptor, Digest, ImageRef};
use std::sync::Arc;

use crate::exchange::Exchange;
use crate::settings::Settings;

/// Speaks to registries. One serves a whole daemon; cheap to clone.
#[derive(Clone)]
pub struct RegistryClient {
    pub(crate) exchange: Arc<Exchange>,
}

impl RegistryClient {
    /// A client that has connected to nobody yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            exchange: Arc::new(Exchange::new(settings)),
        }
    }
}

#[async_trait]
impl Registry for RegistryClient {
    async fn resolve(
        &self,
        image: &ImageRef,
        access: &RegistryAccess,
    ) -> Result<Descriptor, BackendError> {
        self.resolve_reference(image, access).await
    }

    async fn fetch(
        &self,
        image: &ImageRef,
        descriptor: &Descriptor,
        access: &RegistryAccess,
    ) -> Result<ByteStream, BackendError> {
        self.fetch_verified(image, descriptor, access).await
    }

    async fn has_blob(
        &self,
        image: &ImageRef,
        digest: &Digest,
        mount_from: Option<&str>,
        access: &RegistryAccess,
    ) -> Result<bool, BackendError> {
        self.find_or_mount(image, digest, mount_from, access).await
    }

    async fn push_blob(
        &self,
        image: &ImageRef,
        descriptor: &Descriptor,
        data: ByteStream,
        access: &RegistryAccess,
    ) -> Result<(), BackendError> {
        self.upload_blob(image, descriptor, data, access).await
    }

    async fn push_manifest(
        &self,
        image: &ImageRef,
        descriptor: &Descriptor,
        bytes: Bytes,
        access: &RegistryAccess,
    ) -> Result<(), BackendError> {
        self.put_manifest(image, descriptor, bytes, access).await
    }
}

/// The scope of a token that may read a repository.
pub(crate) fn pull_scope(repository: &str) -> String {
    format!("repository:{repository}:pull")
}

/// The scope of a token that may write to a repository.
pub(crate) fn push_scope(repository: &str) -> String {
    format!("repository:{repository}:pull,push")
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
