//! Image registries (OCI distribution specification).

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use shipway_model::{Descriptor, Digest, ImageRef};

use crate::session::Auth;
use crate::{BackendError, ByteStream};

/// How a registry may be spoken to in one build.
#[derive(Clone)]
pub struct RegistryAccess {
    /// Who answers challenges; tried in order.
    pub auth: Vec<Arc<dyn Auth>>,
    /// Plain HTTP and unverified TLS are fine (`registry.insecure`).
    pub insecure: bool,
}

/// Image registries.
///
/// Law: a stream ends with an error where the bytes are not what the descriptor's digest and size say.
#[async_trait]
pub trait Registry: Send + Sync {
    /// What a reference names now; its digest is taken as given where it has one and the registry confirms it.
    async fn resolve(
        &self,
        image: &ImageRef,
        access: &RegistryAccess,
    ) -> Result<Descriptor, BackendError>;
    /// The bytes of a blob or manifest, from `offset`.
    async fn fetch(
        &self,
        image: &ImageRef,
        descriptor: &Descriptor,
        access: &RegistryAccess,
    ) -> Result<ByteStream, BackendError>;
    /// True where the repository has this blob; a blob of `mount_from` (a repository path of the same registry) is mounted.
    async fn has_blob(
        &self,
        image: &ImageRef,
        digest: &Digest,
        mount_from: Option<&str>,
        access: &RegistryAccess,
    ) -> Result<bool, BackendError>;
    /// Uploads a blob.
    async fn push_blob(
        &self,
        image: &ImageRef,
        descriptor: &Descriptor,
        data: ByteStream,
        access: &RegistryAccess,
    ) -> Result<(), BackendError>;
    /// Uploads a manifest or index under the reference's tag, or under its digest where it has no tag.
    async fn push_manifest(
        &self,
        image: &ImageRef,
        descriptor: &Descriptor,
        bytes: Bytes,
        access: &RegistryAccess,
    ) -> Result<(), BackendError>;
}
