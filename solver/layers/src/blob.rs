//! The blob of a layer: found, fetched, or made by archiving and compressing the layer's directory. One at a time per
//! layer; its bytes depend on the layer, those below it and the options, on nothing else.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use shipway_backend::{BackendError, BlobSlot, ByteStream};
use shipway_model::descriptor::Compression;
use shipway_model::{Descriptor, Failure};
use tokio::sync::mpsc;

use crate::meta::BlobRecord;
use crate::{Layer, Layers, Need};

/// Compression level; `None` is the format's default.
pub type Level = Option<u8>;

/// Bytes that travel at once to the content store: what its gRPC interface takes best.
const CHUNK: usize = 1 << 20;

/// How a blob is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlobOptions {
    /// Format.
    pub compression: Compression,
    /// Effort.
    pub level: Level,
    /// Later times become this one; seconds since 1970.
    pub latest_time: Option<i64>,
}

impl BlobOptions {
    fn codec(&self) -> shipway_tree::Compression {
        match self.compression {
            Compression::Uncompressed => shipway_tree::Compression::None,
            Compression::Gzip => shipway_tree::Compression::Gzip(self.level),
            Compression::Zstd => shipway_tree::Compression::Zstd(self.level),
        }
    }

    fn accepts(&self, record: &BlobRecord, force: bool) -> bool {
        match record.options {
            Some(options) => options == *self,
            // A blob that came with an image keeps its form, unless told otherwise.
            None => !force || record.descriptor.compression() == Some(self.compression),
        }
    }
}

impl Layers {
    /// The blob that is remembered for a layer; it may be gone from the content store.
    #[must_use]
    pub fn known_blob(
        &self,
        layer: &Layer,
        options: &BlobOptions,
        force: bool,
    ) -> Option<BlobRecord> {
        layer
            .meta()
            .blobs
            .into_iter()
            .find(|record| options.accepts(record, force))
    }

    /// The blob of `layer`, present in the namespace and held by the lease when this returns. `below` are the layers
    /// beneath it, lowest first.
    pub async fn blob(
        &self,
        layer: &Layer,
        below: &[Layer],
        options: &BlobOptions,
        force: bool,
        need: &Need,
    ) -> Result<BlobRecord, Failure> {
        let _making = layer.making().await;
        if let Some(record) = self.known_blob(layer, options, force)
            && self.ensure(layer, &record, need).await?
        {
            return Ok(record);
        }
        let (_, fs) = layer.materialise(self, need).await?;
        let fs = fs.to_owned();
        let lower = crate::Snapshot::new(below.to_vec())
            .materialise(self, need)
            .await?;
        let record = make(fs, lower, *options, need).await?;
        layer.remember(self, record.clone());
        Ok(record)
    }

    /// Makes a remembered blob present, without making it anew; false where that is not possible.
    async fn ensure(
        &self,
        layer: &Layer,
        record: &BlobRecord,
        need: &Need,
    ) -> Result<bool, Failure> {
        let blob = &record.descriptor;
        let name = format!("shipway-{}", blob.digest.hex());
        let expected = Some((blob.digest, blob.size));
        let slot = need
            .namespace
            .blobs
            .write(&need.lease, &name, expected, BTreeMap::new())
            .await?;
        let BlobSlot::Write(mut writer) = slot else {
            return Ok(true);
        };
        let provider = layer
            .provider()
            .filter(|p| p.descriptor().digest == blob.digest);
        let Some(provider) = provider else {
            return Ok(false);
        };
        let mut data = provider.fetch(need).await?;
        let mut done = 0;
        while let Some(chunk) = data.next().await {
            let chunk = chunk?;
            done += chunk.len() as u64;
            writer.append(chunk).await?;
            let id = blob.digest.to_string();
            need.report
                .part(&id, "downloading", done, blob.size, done == blob.size);
        }
        writer.commit(blob.digest, blob.size).await?;
        Ok(true)
    }
}

async fn make(
    fs: PathBuf,
    lower: Vec<PathBuf>,
    options: BlobOptions,
    need: &Need,
) -> Result<BlobRecord, Failure> {
    let name = format!("shipway-layer-{}", fs.display());
    let slot = need
        .namespace
        .blobs
        .write(&need.lease, &name, None, BTreeMap::new())
        .await?;
    let BlobSlot::Write(mut writer) = slot else {
        return Err(Failure::new(
            "the content store has a blob before its digest is known",
        ));
    };
    let (sink, mut chunks) = mpsc::channel(4);
    let made = tokio::task::spawn_blocking(move || archive(fs, lower, options, &sink));
    while let Some(chunk) = chunks.recv().await {
        writer.append(chunk).await?;
    }
    let made = made.await.map_err(|e| Failure::from_error(&e))?;
    let made = made.map_err(|e| Failure::from_error(&e).context("archiving a layer"))?;
    writer.commit(made.digest, made.size).await?;
    let media_type = options.compression.layer_media_type(true);
    Ok(BlobRecord {
        options: Some(options),
        descriptor: Descriptor::new(&media_type, made.digest, made.size),
        diff_id: made.diff_id,
    })
}

fn archive(
    fs: PathBuf,
    lower: Vec<PathBuf>,
    options: BlobOptions,
    to: &mpsc::Sender<Bytes>,
) -> shipway_tree::Result<shipway_tree::Compressed> {
    let upper = shipway_tree::Layer::open(fs)?;
    let lower = shipway_tree::Stack::open(lower)?;
    let latest = options
        .latest_time
        .map(|sec| shipway_tree::Time { sec, nsec: 0 });
    let how = shipway_tree::archive::Options { latest };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    let sink = |bytes| to.blocking_send(bytes).map_err(gone);
    shipway_tree::compress(sink, options.codec(), threads, |feed| {
        shipway_tree::write_layer(&upper, &lower, how, feed)
    })
}

/// Hands what is written to an async task, in chunks of [`CHUNK`] bytes.
pub struct ChunkSink {
    to: mpsc::Sender<Bytes>,
    chunk: BytesMut,
}

impl ChunkSink {
    pub(crate) fn new(to: mpsc::Sender<Bytes>) -> Self {
        Self {
            to,
            chunk: BytesMut::new(),
        }
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let chunk = self.chunk.split().freeze();
        self.to
            .blocking_send(chunk)
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    /// Hands over what is left.
    pub fn finish(mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            Ok(())
        } else {
            self.hand_over()
        }
    }
}

impl Write for ChunkSink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.chunk.reserve(CHUNK - self.chunk.len());
        let room = CHUNK - self.chunk.len();
        let taken = &data[..data.len().min(room)];
        self.chunk.extend_from_slice(taken);
        if self.chunk.len() == CHUNK {
            self.hand_over()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a byte stream where blocking is allowed.
pub struct StreamReader {
    from: mpsc::Receiver<Result<Bytes, BackendError>>,
    chunk: Bytes,
}

impl StreamReader {
    /// A blocking reader, and the task's part: a future that feeds it and must be polled meanwhile.
    pub fn new(mut stream: ByteStream) -> (Self, impl Future<Output = ()> + Send) {
        let (to, from) = mpsc::channel(4);
        let feed = async move {
            while let Some(chunk) = stream.next().await {
                if to.send(chunk).await.is_err() {
                    break;
                }
            }
        };
        (
            Self {
                from,
                chunk: Bytes::new(),
            },
            feed,
        )
    }
}

impl io::Read for StreamReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.from.blocking_recv() {
                None => return Ok(0),
                Some(Err(error)) => return Err(io::Error::other(error)),
                Some(Ok(chunk)) => self.chunk = chunk,
            }
        }
        let taken = self.chunk.split_to(self.chunk.len().min(into.len()));
        into[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

/// A byte stream that is written where blocking is allowed. If the writing side is dropped before its end, so that the
/// stream just stops, the reader must learn of the failure elsewhere.
pub struct ChunkStream;

impl ChunkStream {
    /// The two ends.
    #[must_use]
    pub fn channel() -> (ChunkSink, ByteStream) {
        let (to, mut from) = mpsc::channel(4);
        let stream = futures::stream::poll_fn(move |cx| from.poll_recv(cx)).map(Ok);
        (ChunkSink::new(to), Box::pin(stream))
    }
}
