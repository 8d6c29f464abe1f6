//! One entry of an archive as plain values, PAX records applied. It judges no name.

use std::io::Read;

use crate::error::{Error, Result};
use crate::layer::Xattr;
use crate::stat::{Kind, Owner, PERMISSIONS, Stat, Time};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// A new inode.
    New(Kind),
    /// Another name of an inode.
    HardLink,
    /// Nothing that is kept (global headers).
    Skip,
}

/// An entry.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    pub(crate) what: What,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: Owner,
    pub(crate) size: u64,
    pub(crate) mtime: Time,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<Xattr>,
}

impl Member {
    /// Reads the header of an entry.
    pub(crate) fn of(entry: &mut tar::Entry<'_, impl Read>) -> Result<Self> {
        let header = entry.header();
        let number = |value: std::io::Result<u64>| -> Result<u32> {
            u32::try_from(value.map_err(Error::Archive)?)
                .map_err(|_| damaged("number out of range"))
        };
        let device = |value: std::io::Result<Option<u32>>| value.ok().flatten().unwrap_or(0);
        let fields = header.as_old();
        let mtime = filled(&fields.mtime, header.mtime());
        let mtime = mtime.map_err(Error::Archive)?.cast_signed();
        let mode = filled(&fields.mode, header.mode().map(u64::from));
        let mut member = Self {
            what: what(header.entry_type(), &entry.path_bytes())?,
            mode: number(mode)? & PERMISSIONS,
            owner: Owner::default(),
            size: entry.size(),
            mtime: Time {
                sec: mtime,
                nsec: 0,
            },
            device: (device(header.device_major()), device(header.device_minor())),
            xattrs: Vec::new(),
            name: entry.path_bytes().into_owned(),
            link: entry
                .link_name_bytes()
                .map(std::borrow::Cow::into_owned)
                .unwrap_or_default(),
        };
        let uid = filled(&fields.uid, header.uid());
        let gid = filled(&fields.gid, header.gid());
        let (uid, gid) = member.records(entry, uid, gid)?;
        member.owner = Owner {
            uid: number(uid)?,
            gid: number(gid)?,
        };
        Ok(member)
    }

    /// Applies the records that stand before an entry; gives the owner, which may come from them.
    fn records(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        mut uid: std::io::Result<u64>,
        mut gid: std::io::Result<u64>,
    ) -> Result<(std::io::Result<u64>, std::io::Result<u64>)> {
        let Some(records) = entry.pax_extensions().map_err(Error::Archive)? else {
            return Ok((uid, gid));
        };
        for record in records {
            let record = record.map_err(Error::Archive)?;
            let value = record.value_bytes();
            let number = || parse(value).ok_or_else(|| damaged("PAX record is no number"));
            match record.key_bytes() {
                b"uid" => uid = Ok(number()?),
                b"gid" => gid = Ok(number()?),
                b"mtime" => self.mtime = time(value).ok_or_else(|| damaged("PAX time"))?,
                key => {
                    let name = key.strip_prefix(b"SCHILY.xattr.");
                    self.xattrs
                        .extend(name.map(|name| (name.to_vec(), value.to_vec())));
                }
            }
        }
        Ok((uid, gid))
    }

    /// As the attributes of an inode of that kind.
    pub(crate) fn stat(&self, kind: Kind) -> Stat {
        Stat {
            kind,
            mode: self.mode,
            uid: self.owner.uid,
            gid: self.owner.gid,
            size: self.size,
            mtime: self.mtime,
            rdev: self.device,
            dev: 0,
            ino: 0,
            nlink: 1,
            blocks: 0,
        }
    }

    /// Its name for messages.
    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }

    /// An error that names it.
    pub(crate) fn error(&self, why: impl Into<String>) -> Error {
        Error::Entry {
            entry: self.shown(),
            why: why.into(),
        }
    }
}

fn damaged(why: &'static str) -> Error {
    Error::Archive(std::io::Error::new(std::io::ErrorKind::InvalidData, why))
}

fn what(entry: tar::EntryType, name: &[u8]) -> Result<What> {
    use tar::EntryType as T;
    Ok(match entry {
        T::Regular if name.ends_with(b"/") => What::New(Kind::Dir),
        T::Regular | T::Continuous | T::GNUSparse => What::New(Kind::File),
        T::Link => What::HardLink,
        T::Symlink => What::New(Kind::Symlink),
        T::Char => What::New(Kind::CharDevice),
        T::Block => What::New(Kind::BlockDevice),
        T::Directory => What::New(Kind::Dir),
        T::Fifo => What::New(Kind::Fifo),
        T::XGlobalHeader => What::Skip,
        other => {
            return Err(Error::Entry {
                entry: String::from_utf8_lossy(name).into_owned(),
                why: format!("unknown type {:?}", char::from(other.as_byte())),
            });
        }
    })
}

/// A number of a header; one that was left empty is 0, as Go's archive/tar and GNU tar read it.
fn filled(field: &[u8], number: std::io::Result<u64>) -> std::io::Result<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(0);
    }
    number
}

fn parse(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with an optional fraction.
fn time(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let sec: i64 = whole.parse().ok()?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nsec: u32 = digits.parse().ok()?;
    Some(match (whole.starts_with('-'), nsec) {
        (true, 1..) => Time {
            sec: sec - 1,
            nsec: 1_000_000_000 - nsec,
        },
        _ => Time { sec, nsec },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_may_have_fractions_and_signs() {
        assert_eq!(
            time(b"12.5"),
            Some(Time {
                sec: 12,
                nsec: 500_000_000
            })
        );
        assert_eq!(
            time(b"-1.25"),
            Some(Time {
                sec: -2,
                nsec: 750_000_000
            })
        );
        assert_eq!(time(b"7"), Some(Time { sec: 7, nsec: 0 }));
        assert_eq!(time(b"x"), None);
    }
}
