//! A mirror's index as one file, replaced as a whole. It decides nothing about its meaning.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use super::entry::{Entry, FileStat};
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"SWMIRRO1";

/// Reads an index; `None` where there is none, or none that can be read.
pub(super) fn read(path: &Path) -> Result<Option<Vec<Entry>>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", path, e)),
    };
    let entries = decode(&bytes);
    if entries.is_none() {
        tracing::warn!(path = %path.display(), "damaged index of a mirror: starting anew");
    }
    Ok(entries)
}

/// Writes an index beside its place and renames it there.
pub(super) fn write(dir: &Path, name: &str, entries: &[Entry]) -> Result<()> {
    let new = dir.join(format!("{name}.new"));
    let done = File::create(&new)
        .and_then(|mut file| file.write_all(&encode(entries)))
        .and_then(|()| fs::rename(&new, dir.join(name)));
    done.map_err(|e| Error::io("write", dir.join(name), e))
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * 128);
    out.extend_from_slice(MAGIC);
    put(&mut out, entries.len());
    for Entry { stat, sum } in entries {
        put_bytes(&mut out, stat.path.as_bytes());
        put_bytes(&mut out, stat.link.as_bytes());
        for value in [stat.mode, stat.uid, stat.gid, stat.device.0, stat.device.1] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&stat.size.to_le_bytes());
        out.extend_from_slice(&stat.mtime.to_le_bytes());
        out.extend_from_slice(sum);
        put(&mut out, stat.xattrs.len());
        for (name, value) in &stat.xattrs {
            put_bytes(&mut out, name);
            put_bytes(&mut out, value);
        }
    }
    out
}

fn put(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn decode(bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut input = Input(bytes.strip_prefix(MAGIC)?);
    let count = input.number()?;
    let mut entries = Vec::with_capacity(bytes.len() / 96);
    for _ in 0..count {
        let (path, link) = (input.text()?, input.text()?);
        let mut numbers = [0; 5];
        for number in &mut numbers {
            *number = input.number()?;
        }
        let [mode, uid, gid, major, minor] = numbers;
        let size = u64::from_le_bytes(input.array()?);
        let mtime = i64::from_le_bytes(input.array()?);
        let sum = input.array()?;
        let xattrs = (0..input.number()?).map(|_| Some((input.bytes()?, input.bytes()?)));
        let xattrs = xattrs.collect::<Option<_>>()?;
        let device = (major, minor);
        let stat = FileStat {
            path,
            mode,
            uid,
            gid,
            size,
            mtime,
            link,
            device,
            xattrs,
        };
        entries.push(Entry { stat, sum });
    }
    input.0.is_empty().then_some(entries)
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn number(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let len = self.number()? as usize;
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken.to_vec())
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_reads_back_and_damage_is_seen() {
        let stat = FileStat {
            path: "a/b".into(),
            mode: 0o644,
            size: 9,
            mtime: -5,
            xattrs: vec![(b"user.x".to_vec(), b"y".to_vec())],
            ..FileStat::default()
        };
        let entries = vec![Entry { stat, sum: [7; 32] }];
        let bytes = encode(&entries);
        assert_eq!(decode(&bytes), Some(entries));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None);
        }
    }
}
