//! A registry in memory, of every host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use shipway_model::{Descriptor, Digest, ImageRef};

use super::lock;
use crate::suite::collect;
use crate::{BackendError, ByteStream, ErrorKind, Registry, RegistryAccess};

/// A registry in memory. Clones are the same one.
#[derive(Clone, Default)]
pub struct FakeRegistry {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    bytes: BTreeMap<Digest, Bytes>,
    repositories: BTreeMap<String, Repository>,
    fetched: Vec<Digest>,
}

#[derive(Default)]
struct Repository {
    blobs: BTreeSet<Digest>,
    manifests: BTreeMap<Digest, Descriptor>,
    tags: BTreeMap<String, Digest>,
}

impl FakeRegistry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a blob.
    pub fn add_blob(&self, image: &ImageRef, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        let mut state = lock(&self.state);
        state.bytes.insert(digest, bytes);
        let repository = state.repositories.entry(image.name()).or_default();
        repository.blobs.insert(digest);
        digest
    }

    /// Adds a manifest or index under the reference's tag, where it has one, and under its digest.
    pub fn add_manifest(
        &self,
        image: &ImageRef,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> Descriptor {
        let bytes = bytes.into();
        let descriptor = Descriptor::of(media_type, &bytes);
        let mut state = lock(&self.state);
        state.bytes.insert(descriptor.digest, bytes);
        let repository = state.repositories.entry(image.name()).or_default();
        let manifests = &mut repository.manifests;
        manifests.insert(descriptor.digest, descriptor.clone());
        if let Some(tag) = &image.tag {
            repository.tags.insert(tag.clone(), descriptor.digest);
        }
        descriptor
    }

    /// Makes a blob's bytes something else.
    pub fn corrupt(&self, digest: &Digest) {
        lock(&self.state).bytes.insert(*digest, "corrupt".into());
    }

    /// What has been fetched so far, in order.
    #[must_use]
    pub fn fetched(&self) -> Vec<Digest> {
        lock(&self.state).fetched.clone()
    }

    fn with<T>(&self, image: &ImageRef, act: impl FnOnce(&mut Repository) -> T) -> T {
        act(lock(&self.state)
            .repositories
            .entry(image.name())
            .or_default())
    }
}

#[async_trait]
impl Registry for FakeRegistry {
    async fn resolve(
        &self,
        image: &ImageRef,
        _access: &RegistryAccess,
    ) -> Result<Descriptor, BackendError> {
        let found = self.with(image, |repository| {
            let tagged = |tag| repository.tags.get(tag).copied();
            let digest = image.digest.or_else(|| tagged(image.tag.as_deref()?))?;
            repository.manifests.get(&digest).cloned()
        });
        found.ok_or_else(|| absent(image.to_string()))
    }

    async fn fetch(
        &self,
        image: &ImageRef,
        descriptor: &Descriptor,
        _access: &RegistryAccess,
    ) -> Result<ByteStream, BackendError> {
        let digest = descriptor.digest;
        let attempt = format!("fetching {digest} of {}", image.name());
        let known = self.with(image, |repository| {
            repository.blobs.contains(&digest) || repository.manifests.contains_key(&digest)
        });
        let mut state = lock(&self.state);
        let Some(bytes) = state.bytes.get(&digest).filter(|_| known).cloned() else {
            return Err(absent(attempt));
        };
        state.fetched.push(digest);
        let lie = (Digest::of(&bytes) != digest || bytes.len() as u64 != descriptor.size)
            .then(|| Err(BackendError::new(ErrorKind::Corrupt, attempt)));
        let chunks: Vec<_> = std::iter::once(Ok(bytes)).chain(lie).collect();
        Ok(futures::stream::iter(chunks).boxed())
    }

    async fn has_blob(
        &self,
        image: &ImageRef,
        digest: &Digest,
        mount_from: Option<&str>,
        _access: &RegistryAccess,
    ) -> Result<bool, BackendError> {
        let from = mount_from.map(|path| ImageRef {
            path: path.to_owned(),
            ..image.clone()
        });
        let mountable = from.is_some_and(|from| self.with(&from, |r| r.blobs.contains(digest)));
        Ok(self.with(image, |repository| {
            if mountable {
                repository.blobs.insert(*digest);
            }
            repository.blobs.contains(digest)
        }))
    }

    async fn push_blob(
        &self,
        image: &ImageRef,
        descriptor: &Descriptor,
        data: ByteStream,
        _access: &RegistryAccess,
    ) -> Result<(), BackendError> {
        let bytes = collect(data).await?;
        check(image, descriptor, &bytes)?;
        self.add_blob(image, bytes);
        Ok(())
    }

    async fn push_manifest(
        &self,
        image: &ImageRef,
        descriptor: &Descriptor,
        bytes: Bytes,
        _access: &RegistryAccess,
    ) -> Result<(), BackendError> {
        check(image, descriptor, &bytes)?;
        self.add_manifest(image, &descriptor.media_type, bytes);
        Ok(())
    }
}

fn absent(attempt: String) -> BackendError {
    BackendError::caused(ErrorKind::NotFound, attempt, "not found")
}

fn check(image: &ImageRef, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), BackendError> {
    if Digest::of(bytes) == descriptor.digest && bytes.len() as u64 == descriptor.size {
        return Ok(());
    }
    let attempt = format!("pushing {} to {}", descriptor.digest, image.name());
    Err(BackendError::new(ErrorKind::Corrupt, attempt))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_fake_passes_the_suite() {
        crate::suite::registry::all(&FakeRegistry::new(), "h.example").await;
    }
}
