//! The pipeline from a layer's archive to its blob: bytes in, sha256 of the archive (the diff id), compression on
//! several threads, sha256 of the blob, bytes out. Blocks have a fixed size and are compressed each by itself (gzip
//! members, zstd frames), so the blob depends on neither the number of threads nor the machine. Memory is bounded
//! by the blocks in flight. It never touches a filesystem.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use shipway_model::Digest;

use crate::codec::{Codec, Compression};
use crate::error::{Error, Result};

/// Blocks that may wait between two stages.
const WAITING: usize = 2;

/// What came out of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compressed {
    /// sha256 of the archive.
    pub diff_id: Digest,
    /// Bytes of the archive.
    pub diff_size: u64,
    /// sha256 of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
}

/// Runs `produce`, which writes an archive, and gives its compressed form to `sink`, piece by piece.
///
/// # Errors
/// That of the sink if it fails, else that of `produce`.
///
/// # Panics
/// If `sink` does.
pub fn compress(
    sink: impl FnMut(Bytes) -> io::Result<()> + Send,
    how: Compression,
    threads: usize,
    produce: impl FnOnce(&mut Feed) -> Result<()>,
) -> Result<Compressed> {
    let workers = if how == Compression::None {
        0
    } else {
        threads.max(1)
    };
    let pool = Arc::new(Pool::default());
    thread::scope(|scope| {
        let (to_hash, hashed) = sync_channel::<Arc<Block>>(WAITING);
        let hash = scope.spawn(move || hash_blocks(&hashed));
        let (mut jobs, mut results) = (Vec::new(), Vec::new());
        for _ in 0..workers {
            let (job, work) = sync_channel(1);
            let (done, result) = sync_channel(WAITING);
            jobs.push(job);
            results.push(result);
            scope.spawn(move || compress_blocks(how, &work, &done));
        }
        let (direct, plain) = sync_channel(WAITING);
        let mut feed = Feed::new(pool, to_hash, jobs, direct, how.block());
        let write = scope.spawn(move || match workers {
            0 => write_plain(sink, &plain),
            _ => write_blobs(sink, &results),
        });
        let produced = produce(&mut feed).and_then(|()| feed.finish());
        drop(feed);
        let (diff_id, diff_size) = hash.join().expect("hashing does not panic");
        let blob = write.join().expect("sinks do not panic")?;
        produced?;
        let (digest, size) = blob.unwrap_or((diff_id, diff_size));
        Ok(Compressed {
            diff_id,
            diff_size,
            digest,
            size,
        })
    })
}

fn hash_blocks(blocks: &Receiver<Arc<Block>>) -> (Digest, u64) {
    let (mut hash, mut size) = (Sha256::new(), 0);
    for block in blocks {
        hash.update(&block.data);
        size += block.data.len() as u64;
    }
    (Digest::from_bytes(hash.finalize().into()), size)
}

fn compress_blocks(how: Compression, work: &Receiver<Job>, done: &SyncSender<io::Result<Vec<u8>>>) {
    let mut codec = match Codec::new(how) {
        Ok(codec) => codec,
        Err(e) => return drop(done.send(Err(e))),
    };
    for Job { block, only } in work {
        if done.send(codec.compress(&block.data, only)).is_err() {
            return;
        }
    }
}

/// Digest and size of the blob where it is not the archive itself.
type Written = Result<Option<(Digest, u64)>>;

/// Takes compressed blocks from the workers in turn, which is the order in which they were given out.
fn write_blobs(
    mut sink: impl FnMut(Bytes) -> io::Result<()>,
    results: &[Receiver<io::Result<Vec<u8>>>],
) -> Written {
    let (mut hash, mut size) = (Sha256::new(), 0);
    for worker in results.iter().cycle() {
        let Ok(result) = worker.recv() else { break };
        let bytes = result.map_err(Error::Sink)?;
        hash.update(&bytes);
        size += bytes.len() as u64;
        sink(bytes.into()).map_err(Error::Sink)?;
    }
    Ok(Some((Digest::from_bytes(hash.finalize().into()), size)))
}

fn write_plain(
    mut sink: impl FnMut(Bytes) -> io::Result<()>,
    blocks: &Receiver<Arc<Block>>,
) -> Written {
    for block in blocks {
        sink(Bytes::from_owner(Shared(block))).map_err(Error::Sink)?;
    }
    Ok(None)
}

/// Buffers to use again.
#[derive(Debug, Default)]
struct Pool(Mutex<Vec<Vec<u8>>>);

impl Pool {
    fn take(&self, size: usize) -> Vec<u8> {
        let old = self.0.lock().ok().and_then(|mut free| free.pop());
        old.unwrap_or_else(|| Vec::with_capacity(size))
    }
}

/// Bytes on their way; the buffer goes back to the pool with the last holder.
#[derive(Debug)]
struct Block {
    data: Vec<u8>,
    pool: Arc<Pool>,
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut data = std::mem::take(&mut self.data);
        data.clear();
        if let Ok(mut free) = self.pool.0.lock() {
            free.push(data);
        }
    }
}

/// A block that another stage may hold too.
struct Shared(Arc<Block>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0.data
    }
}

struct Job {
    block: Arc<Block>,
    /// It is all that there is.
    only: bool,
}

/// Where the archive is written to.
#[derive(Debug)]
pub struct Feed {
    pool: Arc<Pool>,
    filling: Vec<u8>,
    size: usize,
    sent: usize,
    to_hash: SyncSender<Arc<Block>>,
    jobs: Vec<SyncSender<Job>>,
    direct: SyncSender<Arc<Block>>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("only", &self.only)
            .finish_non_exhaustive()
    }
}

impl Feed {
    fn new(
        pool: Arc<Pool>,
        to_hash: SyncSender<Arc<Block>>,
        jobs: Vec<SyncSender<Job>>,
        direct: SyncSender<Arc<Block>>,
        size: usize,
    ) -> Self {
        let filling = pool.take(size);
        Self {
            pool,
            filling,
            size,
            sent: 0,
            to_hash,
            jobs,
            direct,
        }
    }

    /// Sends what is filled on.
    fn send(&mut self, last: bool) -> io::Result<()> {
        let data = std::mem::replace(&mut self.filling, self.pool.take(self.size));
        let block = Arc::new(Block {
            data,
            pool: Arc::clone(&self.pool),
        });
        let only = last && self.sent == 0;
        let worker = self
            .sent
            .checked_rem(self.jobs.len())
            .map(|at| &self.jobs[at]);
        self.sent += 1;
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        self.to_hash
            .send(Arc::clone(&block))
            .map_err(|_| closed())?;
        match worker {
            Some(worker) => worker.send(Job { block, only }).map_err(|_| closed()),
            None => self.direct.send(block).map_err(|_| closed()),
        }
    }

    fn finish(&mut self) -> Result<()> {
        if self.filling.is_empty() && self.sent > 0 {
            return Ok(());
        }
        self.send(true).map_err(Error::Sink)
    }
}

impl Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.size - self.filling.len());
        self.filling.extend_from_slice(&bytes[..taken]);
        if self.filling.len() == self.size {
            self.send(false)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::decoder;
    use std::io::Read;

    fn run(how: Compression, threads: usize, data: &[u8]) -> (Compressed, Vec<u8>) {
        let mut blob = Vec::new();
        let sink = |bytes: Bytes| blob.write_all(&bytes);
        let done = compress(sink, how, threads, |feed| {
            feed.write_all(data).map_err(Error::Sink)
        });
        (done.unwrap(), blob)
    }

    fn sample(size: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_le_bytes()[3] & 0x1f
        };
        (0..size).map(|_| next()).collect()
    }

    #[test]
    fn every_compression_reads_back_and_names_its_digests() {
        let data = sample(5 << 20);
        for how in [Compression::None, Compression::GZIP, Compression::ZSTD] {
            let (done, blob) = run(how, 2, &data);
            assert_eq!(
                (done.diff_id, done.diff_size),
                (Digest::of(&data), data.len() as u64)
            );
            assert_eq!(
                (done.digest, done.size),
                (Digest::of(&blob), blob.len() as u64)
            );
            let mut back = Vec::new();
            decoder(&blob[..]).unwrap().read_to_end(&mut back).unwrap();
            assert!(back == data, "{how:?}");
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_the_blob() {
        let data = sample(7 << 20);
        for how in [Compression::GZIP, Compression::ZSTD] {
            assert!(run(how, 1, &data).1 == run(how, 5, &data).1, "{how:?}");
        }
    }

    #[test]
    fn the_default_of_a_format_is_the_level_that_go_has_for_it() {
        let data = sample(9 << 20);
        let same = |a, b| assert!(run(a, 2, &data).1 == run(b, 2, &data).1, "{b:?}");
        same(Compression::ZSTD, Compression::Zstd(Some(3)));
        same(Compression::GZIP, Compression::Gzip(Some(6)));
    }

    #[test]
    fn the_empty_layer_is_the_blob_that_everybody_has() {
        let (done, blob) = run(Compression::GZIP, 2, &[0; 1024]);
        assert_eq!(blob.len(), 32);
        let digest = "sha256:4f4fb700ef54461cfa02571ae0db9a0dc1e0cdb5577484a6d75e68dc38e8acc1";
        assert_eq!(done.digest.to_string(), digest);
    }

    #[test]
    fn a_sink_that_fails_ends_the_pipeline_with_its_error() {
        let full = |_| Err(io::Error::other("disk is full"));
        for how in [Compression::None, Compression::GZIP] {
            let data = sample(40 << 20);
            let ended = compress(full, how, 2, |feed| {
                feed.write_all(&data).map_err(Error::Sink)
            });
            assert!(ended.err().unwrap().to_string().contains("disk is full"));
        }
    }
}
