//! What every implementation of a backend trait does, as tests that panic. Each takes the trait object that it is about.
//!
//! None of them starts anything: the caller brings a real service or a [`fake`](crate::fake).

pub mod blobs;
pub mod executor;
pub mod images;
pub mod network;
pub mod registry;
pub mod session;
pub mod snapshots;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};

use crate::{BackendError, ByteStream};

/// A stream of these chunks.
pub fn stream(chunks: impl IntoIterator<Item = Bytes>) -> ByteStream {
    let chunks: Vec<_> = chunks.into_iter().map(Ok).collect();
    futures::stream::iter(chunks).boxed()
}

/// A stream that breaks after these chunks with the error `reading`.
pub fn broken_stream(chunks: impl IntoIterator<Item = Bytes>) -> ByteStream {
    let broken = BackendError::new(crate::ErrorKind::Other, "reading");
    let chunks: Vec<_> = chunks.into_iter().map(Ok).chain([Err(broken)]).collect();
    futures::stream::iter(chunks).boxed()
}

/// All bytes of a stream.
pub async fn collect(stream: ByteStream) -> Result<Vec<u8>, BackendError> {
    let chunks: Vec<Bytes> = stream.try_collect().await?;
    Ok(chunks.concat())
}

/// Bytes that repeat nowhere within a few hundred kilobytes.
#[must_use]
pub fn bytes(length: usize) -> Vec<u8> {
    let words = (0u32..).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes());
    words.take(length).collect()
}
