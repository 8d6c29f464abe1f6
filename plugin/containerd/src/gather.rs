//! Writes a blob whose digest is known at its end only. A small one is held and sent as a whole; a large one is placed in
//! containerd's content store as a file, and recorded as containerd records a blob that another namespace has: no byte of
//! it travels. Where containerd does not find it there (it runs elsewhere, or keeps its namespaces apart), it is uploaded.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use shipway_backend::{BackendError, BlobSlot, BlobWriter, ErrorKind, Lease};
use shipway_model::Digest;

use crate::placed::{self, Complete, Unnamed};
use crate::scope::Scope;
use crate::upload::MESSAGE;

/// A blob that is being written.
pub(crate) struct Gathered {
    blob: Blob,
    to: To,
}

/// What a blob needs to be recorded.
struct Blob {
    scope: Scope,
    lease: Lease,
    name: String,
    labels: BTreeMap<String, String>,
}

/// Where it goes.
enum To {
    /// Nowhere yet: no more than one message.
    Held(Vec<Bytes>),
    File(Unnamed),
    Upload(Box<dyn BlobWriter>),
}

impl Gathered {
    pub(crate) fn new(
        scope: Scope,
        lease: Lease,
        name: &str,
        labels: BTreeMap<String, String>,
    ) -> Self {
        Self {
            blob: Blob {
                scope,
                lease,
                name: name.to_owned(),
                labels,
            },
            to: To::Held(Vec::new()),
        }
    }
}

impl To {
    async fn append(&mut self, blob: &Blob, data: Bytes) -> Result<(), BackendError> {
        match self {
            Self::Held(parts) => parts.push(data),
            Self::File(file) => {
                let appended = file.append(data).await;
                appended.map_err(|error| blob.error(ErrorKind::Other, error))?;
            }
            Self::Upload(writer) => writer.append(data).await?,
        }
        Ok(())
    }
}

#[async_trait]
impl BlobWriter for Gathered {
    async fn append(&mut self, data: Bytes) -> Result<(), BackendError> {
        if let To::Held(parts) = &self.to
            && parts.iter().map(Bytes::len).sum::<usize>() + data.len() > MESSAGE
        {
            let large = self.blob.large().await?;
            if let To::Held(parts) = std::mem::replace(&mut self.to, large) {
                for part in parts {
                    self.to.append(&self.blob, part).await?;
                }
            }
        }
        self.to.append(&self.blob, data).await
    }

    async fn commit(self: Box<Self>, digest: Digest, size: u64) -> Result<(), BackendError> {
        let Self { blob, to } = *self;
        match to {
            To::Held(parts) => {
                let data = parts.concat();
                let found = Digest::of(&data);
                if found != digest {
                    let why = format!("digest {found} instead of {digest}");
                    return Err(blob.error(ErrorKind::Corrupt, why));
                }
                blob.check_size(data.len() as u64, size)?;
                match blob.announce(digest, size).await? {
                    BlobSlot::Present => Ok(()),
                    BlobSlot::Write(mut writer) => {
                        writer.append(data.into()).await?;
                        writer.commit(digest, size).await
                    }
                }
            }
            To::File(file) => {
                let file = file.complete().await;
                let file = file.map_err(|error| blob.error(ErrorKind::Other, error))?;
                blob.check_size(file.size(), size)?;
                // Once it has a name it is recorded, also if nobody waits for that any more.
                let background = blob.scope.connection.background.clone();
                let recorded = background.spawn(blob.record(file, digest)).await;
                recorded.map_err(|panic| {
                    let attempt = format!("recording blob {digest}");
                    BackendError::caused(ErrorKind::Other, attempt, panic)
                })?
            }
            To::Upload(writer) => writer.commit(digest, size).await,
        }
    }
}

impl Blob {
    /// Where more than a message goes.
    async fn large(&self) -> Result<To, BackendError> {
        let connection = &self.scope.connection;
        if connection.places_blobs.load(Ordering::Relaxed)
            && let Some(root) = connection.content_root().await
        {
            match Unnamed::create(placed::blobs(root)) {
                Ok(file) => return Ok(To::File(file)),
                Err(error) => tracing::debug!(%error, "large blobs are uploaded"),
            }
        }
        let labels = self.labels.clone();
        let slot = self.scope.upload(&self.lease, &self.name, None, labels);
        match slot.await? {
            BlobSlot::Write(writer) => Ok(To::Upload(writer)),
            BlobSlot::Present => {
                Err(self.error(ErrorKind::Other, "it is there before its digest is known"))
            }
        }
    }

    async fn announce(&self, digest: Digest, size: u64) -> Result<BlobSlot, BackendError> {
        let labels = self.labels.clone();
        let expected = Some((digest, size));
        self.scope
            .upload(&self.lease, &self.name, expected, labels)
            .await
    }

    /// Names a complete file and has containerd record it.
    async fn record(self, file: Complete, digest: Digest) -> Result<(), BackendError> {
        let size = file.size();
        let failed = |error| self.error(ErrorKind::Other, error);
        let placed = tokio::task::spawn_blocking(move || file.place(digest).map(|()| file));
        let file = match placed.await {
            Ok(placed) => placed.map_err(failed)?,
            Err(panic) => return Err(failed(panic.into())),
        };
        let BlobSlot::Write(mut writer) = self.announce(digest, size).await? else {
            return Ok(());
        };
        if file.withdraw(digest).map_err(failed)? {
            self.scope
                .connection
                .places_blobs
                .store(false, Ordering::Relaxed);
            tracing::info!(
                "containerd does not find blobs in its content store: they are uploaded"
            );
        } else {
            // A collection has taken it before it was recorded.
            tracing::debug!(%digest, "a placed blob has gone: it is uploaded");
        }
        let mut file = file.into_file().map_err(failed)?;
        loop {
            let (block, rest) = read(file).await.map_err(failed)?;
            if block.is_empty() {
                return writer.commit(digest, size).await;
            }
            writer.append(block).await?;
            file = rest;
        }
    }

    fn check_size(&self, is: u64, told: u64) -> Result<(), BackendError> {
        if is == told {
            return Ok(());
        }
        let why = format!("{is} bytes instead of {told}");
        Err(self.error(ErrorKind::Corrupt, why))
    }

    fn error(
        &self,
        kind: ErrorKind,
        why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> BackendError {
        BackendError::caused(kind, format!("writing blob {:?}", self.name), why)
    }
}

/// The next message of a file; empty at its end.
async fn read(file: File) -> std::io::Result<(Bytes, File)> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut block = Vec::new();
        (&file).take(MESSAGE as u64).read_to_end(&mut block)?;
        Ok((block.into(), file))
    });
    reading.await?
}
