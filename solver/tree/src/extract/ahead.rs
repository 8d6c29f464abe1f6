//! Reads and decompresses on a thread of its own, ahead of whoever uses the bytes, and takes the digest of what
//! went in. Bounds how much comes out, so that a small blob cannot fill a disk. It knows nothing of archives.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sha2::{Digest as _, Sha256};
use shipway_model::Digest;

use crate::codec::decoder;
use crate::error::{Error, Result};

const CHUNK: usize = 256 << 10;
const WAITING: usize = 8;
/// Bytes that any blob may unpack to, whatever its size.
const ALWAYS: u64 = 64 << 20;

/// What an archive may hold at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes after decompression.
    pub bytes: u64,
    /// Bytes that come out for each that went in.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 20_000_000,
            bytes: 1 << 40,
            ratio: 1100,
        }
    }
}

/// Digest and size of the bytes that were read.
pub(super) struct Input {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// Runs `consume` on the decompressed form of `blob`. The blob is read to its end in any case.
pub(super) fn decompressed<T>(
    blob: impl Read + Send,
    limits: Limits,
    consume: impl FnOnce(&mut Ahead) -> Result<T>,
) -> Result<(T, Input)> {
    thread::scope(|scope| {
        let (send, receive) = sync_channel(WAITING);
        let reading = scope.spawn(move || read(blob, limits, &send));
        let mut ahead = Ahead {
            receive,
            current: Vec::new(),
            at: 0,
            failed: None,
        };
        let consumed = consume(&mut ahead);
        let too_large = ahead.failed.take();
        drop(ahead);
        let input = reading.join().expect("reading does not panic");
        match too_large {
            Some(error) => Err(error),
            None => Ok((consumed?, input.map_err(Error::Archive)?)),
        }
    })
}

type Chunk = Result<Vec<u8>>;

fn read(blob: impl Read + Send, limits: Limits, send: &SyncSender<Chunk>) -> io::Result<Input> {
    let count = AtomicU64::new(0);
    let mut input = Counted {
        inner: blob,
        hash: Sha256::new(),
        count: &count,
    };
    let ended = unpack(&mut input, &count, limits, send);
    if let Err(error) = ended {
        drop(send.send(Err(error)));
    }
    // What follows the compressed stream belongs to the blob's digest too.
    io::copy(&mut input, &mut io::sink())?;
    let digest = Digest::from_bytes(input.hash.finalize().into());
    Ok(Input {
        digest,
        size: count.load(Ordering::Relaxed),
    })
}

fn unpack(
    input: &mut Counted<'_, impl Read + Send>,
    count: &AtomicU64,
    limits: Limits,
    send: &SyncSender<Chunk>,
) -> Result<()> {
    let mut from = decoder(input).map_err(Error::Archive)?;
    let mut total = 0;
    loop {
        let mut chunk = vec![0; CHUNK];
        let mut filled = 0;
        while filled < CHUNK {
            match from.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(got) => filled += got,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::Archive(e)),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        total += filled as u64;
        let allowed = count
            .load(Ordering::Relaxed)
            .saturating_mul(limits.ratio)
            .max(ALWAYS);
        if total > limits.bytes.min(allowed) {
            let limit = limits.bytes.min(allowed);
            return Err(Error::TooLarge {
                what: "unpacked bytes",
                limit,
            });
        }
        chunk.truncate(filled);
        if send.send(Ok(chunk)).is_err() {
            return Ok(());
        }
    }
}

/// Takes digest and count of what is read through it.
struct Counted<'a, R> {
    inner: R,
    hash: Sha256,
    count: &'a AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.hash.update(&buffer[..got]);
        self.count.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// The bytes that come out.
pub(super) struct Ahead {
    receive: Receiver<Chunk>,
    current: Vec<u8>,
    at: usize,
    /// Why the bytes ended early, if it was no error of reading.
    failed: Option<Error>,
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.len() {
            match self.receive.recv() {
                Ok(Ok(chunk)) => (self.current, self.at) = (chunk, 0),
                Ok(Err(Error::Archive(e))) => return Err(e),
                Ok(Err(other)) => {
                    let text = other.to_string();
                    self.failed = Some(other);
                    return Err(io::Error::other(text));
                }
                Err(_) => return Ok(0),
            }
        }
        let len = buffer.len().min(self.current.len() - self.at);
        buffer[..len].copy_from_slice(&self.current[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}
