//! Blobs, images and leases of one namespace of a fake host.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use shipway_model::Digest;

use super::host::Scope;
use crate::images::Resource;
use crate::{
    BackendError, BlobInfo, BlobSlot, BlobWriter, Blobs, ByteStream, ErrorKind, Image, Images,
    Lease, LeaseKeeper, Leases,
};

/// How much is read at once.
const CHUNK: usize = 1 << 20;

#[async_trait]
impl Blobs for Scope {
    async fn info(&self, digest: &Digest) -> Result<Option<BlobInfo>, BackendError> {
        Ok(self.with(|state, records| {
            let labels = records.blobs.get(digest)?.clone();
            let size = state.bytes.get(digest)?.len() as u64;
            Some(BlobInfo { size, labels })
        }))
    }

    async fn open(&self, digest: &Digest, offset: u64) -> Result<ByteStream, BackendError> {
        let bytes = self.with(|state, records| {
            records.blobs.get(digest)?;
            state.bytes.get(digest).cloned()
        });
        let mut bytes = bytes.ok_or_else(|| absent(format!("reading blob {digest}")))?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut bytes = bytes.split_off(offset.min(bytes.len()));
        let chunks = std::iter::from_fn(move || {
            let count = bytes.len().min(CHUNK);
            (count > 0).then(|| Ok(bytes.split_to(count)))
        });
        Ok(futures::stream::iter(chunks).boxed())
    }

    async fn write(
        &self,
        lease: &Lease,
        _name: &str,
        expected: Option<(Digest, u64)>,
        labels: BTreeMap<String, String>,
    ) -> Result<BlobSlot, BackendError> {
        let present = self.with(|state, records| {
            let (digest, _) = expected?;
            state.bytes.get(&digest)?;
            records
                .blobs
                .entry(digest)
                .or_default()
                .extend(labels.clone());
            hold(&mut records.leases, lease, Resource::Blob(digest));
            Some(())
        });
        if present.is_some() {
            return Ok(BlobSlot::Present);
        }
        Ok(BlobSlot::Write(Box::new(Writer {
            scope: self.clone(),
            lease: lease.clone(),
            labels,
            data: Vec::new(),
        })))
    }

    async fn label(
        &self,
        digest: &Digest,
        labels: BTreeMap<String, String>,
    ) -> Result<(), BackendError> {
        self.with(|_, records| {
            let known = records.blobs.get_mut(digest);
            let known = known.ok_or_else(|| absent(format!("labelling blob {digest}")))?;
            known.extend(labels);
            Ok(())
        })
    }

    async fn delete(&self, digest: &Digest) -> Result<(), BackendError> {
        self.with(|_, records| records.blobs.remove(digest));
        Ok(())
    }
}

struct Writer {
    scope: Scope,
    lease: Lease,
    labels: BTreeMap<String, String>,
    data: Vec<u8>,
}

#[async_trait]
impl BlobWriter for Writer {
    async fn append(&mut self, data: Bytes) -> Result<(), BackendError> {
        self.data.extend_from_slice(&data);
        Ok(())
    }

    async fn commit(self: Box<Self>, digest: Digest, size: u64) -> Result<(), BackendError> {
        let attempt = format!("writing blob {digest}");
        if self.data.len() as u64 != size || Digest::of(&self.data) != digest {
            let why = format!("{} bytes of {}", self.data.len(), Digest::of(&self.data));
            return Err(BackendError::caused(ErrorKind::Corrupt, attempt, why));
        }
        let Self {
            scope,
            lease,
            labels,
            data,
        } = *self;
        scope.with(|state, records| {
            state.bytes.insert(digest, data.into());
            records.blobs.entry(digest).or_default().extend(labels);
            hold(&mut records.leases, &lease, Resource::Blob(digest));
        });
        Ok(())
    }
}

fn absent(attempt: String) -> BackendError {
    BackendError::caused(ErrorKind::NotFound, attempt, "not found")
}

/// Blobs that one with these labels keeps.
fn children(labels: &BTreeMap<String, String>) -> impl Iterator<Item = Digest> {
    let kept = labels
        .iter()
        .filter(|(name, _)| name.starts_with("containerd.io/gc.ref.content"));
    kept.filter_map(|(_, digest)| digest.parse().ok())
}

fn hold(leases: &mut BTreeMap<String, Vec<Resource>>, lease: &Lease, resource: Resource) {
    if let Some(held) = leases.get_mut(lease.id()) {
        held.push(resource);
    }
}

#[async_trait]
impl Images for Scope {
    async fn get(&self, name: &str) -> Result<Option<Image>, BackendError> {
        Ok(self.with(|_, records| records.images.get(name).cloned()))
    }

    async fn put(&self, image: Image) -> Result<(), BackendError> {
        self.with(|_, records| records.images.insert(image.name.clone(), image));
        Ok(())
    }
}

struct Keeper {
    scope: Scope,
    id: String,
}

#[async_trait]
impl LeaseKeeper for Keeper {
    async fn end(&self) -> Result<(), BackendError> {
        self.scope
            .with(|_, records| records.leases.remove(&self.id));
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.scope
            .with(|_, records| records.leases.remove(&self.id));
    }
}

#[async_trait]
impl Leases for Scope {
    async fn create(&self, _ttl: Duration) -> Result<Lease, BackendError> {
        let id = self.with(|state, records| {
            state.next += 1;
            let id = format!("lease-{}", state.next);
            records.leases.insert(id.clone(), Vec::new());
            id
        });
        let keeper = Keeper {
            scope: self.clone(),
            id: id.clone(),
        };
        Ok(Lease::new(id, Arc::new(keeper)))
    }

    async fn hold(&self, lease: &Lease, resources: &[Resource]) -> Result<(), BackendError> {
        self.with(|_, records| {
            let held = records.leases.get_mut(lease.id());
            let held = held.ok_or_else(|| absent(format!("holding by lease {}", lease.id())))?;
            held.extend_from_slice(resources);
            Ok(())
        })
    }

    async fn keep(&self, name: &str) -> Result<Lease, BackendError> {
        self.with(|_, records| {
            records.leases.entry(name.to_owned()).or_default();
            records.kept.insert(name.to_owned());
        });
        Ok(Lease::borrowed(name))
    }

    async fn forget(&self, name: &str) -> Result<(), BackendError> {
        self.with(|_, records| {
            records.kept.remove(name);
            let held = records.leases.remove(name).unwrap_or_default();
            for resource in held {
                let others = records.leases.values().flatten();
                let unheld = others.into_iter().all(|other| *other != resource);
                if let (Resource::Blob(digest), true) = (resource, unheld) {
                    records.blobs.remove(&digest);
                }
            }
        });
        Ok(())
    }

    async fn collect(&self) -> Result<(), BackendError> {
        self.with(|_, records| {
            let held = records.leases.values().flatten();
            let held = held.filter_map(|resource| match resource {
                Resource::Blob(digest) => Some(*digest),
                Resource::Snapshot(..) => None,
            });
            let named = records.images.values().map(|image| image.target.digest);
            let mut reached: Vec<Digest> = held.chain(named).collect();
            let mut kept = BTreeMap::new();
            while let Some(digest) = reached.pop() {
                if let Some(labels) = records.blobs.remove(&digest) {
                    reached.extend(children(&labels));
                    kept.insert(digest, labels);
                }
            }
            records.blobs = kept;
        });
        Ok(())
    }

    async fn kept(&self) -> Result<Vec<String>, BackendError> {
        Ok(self.with(|_, records| records.kept.iter().cloned().collect()))
    }

    async fn clean_up(&self) -> Result<(), BackendError> {
        // Nothing outlives this process.
        Ok(())
    }
}
