//! Compression formats of layer blobs: one block in, one block out, and reading any of them back. Levels are those
//! that BuildKit's users give; which effort that means here is chosen so that sizes stay those of Go's libraries.

use std::io::{self, BufRead, BufReader, Read};

use libdeflater::{CompressionLvl, Compressor};
use zstd::zstd_safe::{CParameter, Strategy};

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, level 0 to 9; `None` is its default.
    Gzip(Option<u8>),
    /// Zstandard, level 1 to 22; `None` is its default.
    Zstd(Option<u8>),
}

impl Compression {
    /// gzip at its default level.
    pub const GZIP: Self = Self::Gzip(None);
    /// Zstandard at its default level.
    pub const ZSTD: Self = Self::Zstd(None);

    /// Bytes that are compressed by themselves.
    pub(crate) fn block(self) -> usize {
        match self {
            Self::None | Self::Gzip(_) => 1 << 20,
            Self::Zstd(_) => 4 << 20,
        }
    }
}

/// What Go's gzip writes for the archive of an empty layer; the blob that most registries have already.
const EMPTY_LAYER: [u8; 32] = [
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0x62, 0x18, 0x05, 0xa3, 0x60, 0x14,
    0x8c, 0x58, 0x00, 0x08, 0x00, 0x00, 0xff, 0xff, 0x2e, 0xaf, 0xb5, 0xef, 0x00, 0x04, 0x00, 0x00,
];

/// A compressor of blocks.
pub(crate) enum Codec {
    Plain,
    Gzip {
        inner: Compressor,
        level: Option<u8>,
    },
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Codec {
    pub(crate) fn new(how: Compression) -> io::Result<Self> {
        Ok(match how {
            Compression::None => Self::Plain,
            Compression::Gzip(level) => {
                let effort = CompressionLvl::new(gzip_effort(level))
                    .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
                Self::Gzip {
                    inner: Compressor::new(effort),
                    level,
                }
            }
            Compression::Zstd(None | Some(3)) => Self::Zstd(zstd_as_go()?),
            Compression::Zstd(Some(level)) => {
                Self::Zstd(zstd::bulk::Compressor::new(level.into())?)
            }
        })
    }

    /// Compresses a block; `only` if the whole stream is this block.
    pub(crate) fn compress(&mut self, block: &[u8], only: bool) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain => Ok(block.to_vec()),
            Self::Gzip { level: None, .. } if only && is_empty_layer(block) => {
                Ok(EMPTY_LAYER.to_vec())
            }
            Self::Gzip { inner, .. } => {
                let mut out = vec![0; inner.gzip_compress_bound(block.len())];
                let len = inner
                    .gzip_compress(block, &mut out)
                    .map_err(io::Error::other)?;
                out.truncate(len);
                // The header says nothing of the effort, as Go's default does not.
                out[8] = 0;
                Ok(out)
            }
            Self::Zstd(inner) => inner.compress(block),
        }
    }
}

fn is_empty_layer(block: &[u8]) -> bool {
    block.len() == 1024 && block.iter().all(|b| *b == 0)
}

/// The least effort of libdeflate whose blobs are no larger than those of Go's gzip at that level.
fn gzip_effort(level: Option<u8>) -> i32 {
    match level {
        Some(0) => 0,
        Some(1..=3) => 1,
        None | Some(4..=7) => 2,
        Some(8) => 4,
        Some(_) => 6,
    }
}

/// Zstandard whose blobs are about as large as those of Go's library at its default: 0.5 to 2.5 % larger than those of
/// level 3, in two thirds of its time. In blocks of 4 MiB the simplest search finds nearly as much as a thorough one does
/// in smaller ones, if it remembers more places than that of level 2.
fn zstd_as_go() -> io::Result<zstd::bulk::Compressor<'static>> {
    let mut compressor = zstd::bulk::Compressor::new(2)?;
    for parameter in [
        CParameter::Strategy(Strategy::ZSTD_fast),
        CParameter::WindowLog(22),
        CParameter::HashLog(17),
        CParameter::MinMatch(6),
    ] {
        compressor.set_parameter(parameter)?;
    }
    Ok(compressor)
}

/// Decompresses whatever format the first bytes say; what is none of them is handed on as it is.
pub fn decoder<'a>(from: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut from = BufReader::with_capacity(256 << 10, from);
    let start = from.fill_buf()?;
    Ok(match Format::of(start) {
        Format::Plain => Box::new(from),
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(from)),
        Format::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(from)),
        Format::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(from)),
        Format::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(from)?),
    })
}

/// A format by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Plain,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Format {
    fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}
