//! Reads and decompresses on a thread of its own, ahead of whoever uses the bytes. Bounds how much comes out, so that a
//! small blob cannot fill a disk. It knows nothing of archives.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

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

/// Runs `consume` on the decompressed form of `blob`.
pub(super) fn decompressed<T>(
    blob: impl Read + Send,
    limits: Limits,
    consume: impl FnOnce(&mut Ahead) -> Result<T>,
) -> Result<T> {
    thread::scope(|scope| {
        let (send, receive) = sync_channel(WAITING);
        let (give_back, used) = channel();
        let reading = scope.spawn(move || read(blob, limits, &Out { send, used }));
        let mut ahead = Ahead {
            receive,
            give_back,
            current: Chunk::default(),
            at: 0,
            failed: None,
        };
        let consumed = consume(&mut ahead);
        let too_large = ahead.failed.take();
        drop(ahead);
        reading.join().expect("reading does not panic");
        too_large.map_or(consumed, Err)
    })
}

/// A buffer and how much of it is filled.
#[derive(Default)]
struct Chunk {
    buffer: Vec<u8>,
    filled: usize,
}

/// Where chunks go, and where their buffers come back.
struct Out {
    send: SyncSender<Result<Chunk>>,
    used: Receiver<Vec<u8>>,
}

fn read(blob: impl Read + Send, limits: Limits, out: &Out) {
    let count = AtomicU64::new(0);
    let mut input = Counted {
        inner: blob,
        count: &count,
    };
    if let Err(error) = unpack(&mut input, &count, limits, out) {
        drop(out.send.send(Err(error)));
    }
}

fn unpack(
    input: &mut Counted<'_, impl Read + Send>,
    count: &AtomicU64,
    limits: Limits,
    out: &Out,
) -> Result<()> {
    let mut from = decoder(input).map_err(Error::Archive)?;
    let mut total = 0;
    loop {
        let used = out.used.try_recv();
        let mut buffer = used.unwrap_or_else(|_| vec![0; CHUNK]);
        let mut filled = 0;
        while filled < CHUNK {
            match from.read(&mut buffer[filled..]) {
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
        if out.send.send(Ok(Chunk { buffer, filled })).is_err() {
            return Ok(());
        }
    }
}

/// Counts what is read through it.
struct Counted<'a, R> {
    inner: R,
    count: &'a AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.count.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// The bytes that come out.
pub(super) struct Ahead {
    receive: Receiver<Result<Chunk>>,
    give_back: Sender<Vec<u8>>,
    current: Chunk,
    at: usize,
    /// Why the bytes ended early, if it was no error of reading.
    failed: Option<Error>,
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.filled {
            let used = std::mem::take(&mut self.current);
            if !used.buffer.is_empty() {
                // A reader that has ended needs no more buffers.
                drop(self.give_back.send(used.buffer));
            }
            self.at = 0;
            match self.receive.recv() {
                Ok(Ok(chunk)) => self.current = chunk,
                Ok(Err(Error::Archive(e))) => return Err(e),
                Ok(Err(other)) => {
                    let text = other.to_string();
                    self.failed = Some(other);
                    return Err(io::Error::other(text));
                }
                Err(_) => return Ok(0),
            }
        }
        let len = buffer.len().min(self.current.filled - self.at);
        buffer[..len].copy_from_slice(&self.current.buffer[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}
