//! Unpacks archives into an upper directory. Two policies share the mechanism: an image *layer* (whiteouts become
//! overlayfs's, names that leave the tree are refused) and `ADD` (names are literal and confined to the
//! destination). Digests are checked while the bytes pass. It never writes outside the upper.

mod ahead;
mod contents;
mod layer;
mod member;
mod place;

use std::io::Read;

use sha2::{Digest as _, Sha256};
use shipway_model::Digest;

pub use ahead::Limits;
pub(crate) use place::{Names, Unpacker};

use crate::compose::Composer;
use crate::error::{Error, Result};
use ahead::decompressed;
use member::{Member, What};

/// What a blob must be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected {
    /// sha256 of the blob.
    pub digest: Option<Digest>,
    /// sha256 of the archive.
    pub diff_id: Option<Digest>,
}

/// What a blob was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extracted {
    /// sha256 of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// sha256 of the archive.
    pub diff_id: Digest,
    /// Bytes of the archive.
    pub diff_size: u64,
}

/// Unpacks a layer blob of any compression into the upper directory that `to` composes.
///
/// # Errors
/// After one the upper is of no use: throw it away.
pub fn extract_layer(
    blob: impl Read + Send,
    to: &mut Composer,
    expected: Expected,
    limits: Limits,
) -> Result<Extracted> {
    let mut blob = Hashed::new(blob);
    let (diff_id, diff_size) = decompressed(&mut blob, limits, |bytes| {
        let mut hashed = Hashed::new(bytes);
        let unpacked = unpack(&mut hashed, Unpacker::new(to, Names::Layer), limits);
        // A blob that is not the one expected says so, whatever it held.
        std::io::copy(&mut hashed, &mut std::io::sink()).map_err(Error::Archive)?;
        let (diff_id, diff_size) = hashed.finish();
        if let Some(want) = expected.diff_id {
            check("archive", diff_id, want)?;
        }
        unpacked?;
        Ok((diff_id, diff_size))
    })?;
    // What follows the compressed stream belongs to the blob's digest too.
    std::io::copy(&mut blob, &mut std::io::sink()).map_err(Error::Archive)?;
    let (digest, size) = blob.finish();
    if let Some(want) = expected.digest {
        check("blob", digest, want)?;
    }
    Ok(Extracted {
        digest,
        size,
        diff_id,
        diff_size,
    })
}

fn check(what: &'static str, got: Digest, want: Digest) -> Result<()> {
    if got == want {
        Ok(())
    } else {
        Err(Error::Digest { what, got, want })
    }
}

/// Whether a file is an archive: decompressed, it starts with the header of an entry.
pub(crate) fn is_archive(file: impl Read + Send) -> bool {
    let Ok(decoded) = crate::codec::decoder(file) else {
        return false;
    };
    let mut archive = tar::Archive::new(decoded);
    let first = archive
        .entries()
        .ok()
        .and_then(|mut entries| entries.next());
    matches!(first, Some(Ok(_)))
}

/// Unpacks an archive of any compression with `unpacker`.
pub(crate) fn unpack_all(
    file: impl Read + Send,
    unpacker: Unpacker<'_>,
    limits: Limits,
) -> Result<()> {
    decompressed(file, limits, |bytes| unpack(bytes, unpacker, limits))
}

fn unpack(bytes: impl Read, mut unpacker: Unpacker<'_>, limits: Limits) -> Result<()> {
    let mut archive = tar::Archive::new(bytes);
    let mut count = 0;
    for entry in archive.entries().map_err(Error::Archive)? {
        let mut entry = entry.map_err(Error::Archive)?;
        count += 1;
        if count > limits.entries {
            return Err(Error::TooLarge {
                what: "entries",
                limit: limits.entries,
            });
        }
        let member = Member::of(&mut entry)?;
        if member.what != What::Skip {
            unpacker.add(&member, &mut entry)?;
        }
    }
    unpacker.finish()
}

/// Takes digest and size of what is read through it.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
    size: u64,
}

impl<R> Hashed<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            size: 0,
        }
    }

    fn finish(self) -> (Digest, u64) {
        (Digest::from_bytes(self.hash.finalize().into()), self.size)
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.hash.update(&buffer[..got]);
        self.size += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests;
