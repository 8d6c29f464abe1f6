//! What a client says of one entry of its directory, and what a mirror keeps of it. Checks names; reads nothing.

use std::cmp::Ordering;

use crate::error::{Error, Result};
use crate::hash::index::Sum;
use crate::layer::Xattr;
use crate::stat::{Kind, Stat, Time};

const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const PIPE: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SETUID: u32 = 1 << 23;
const SETGID: u32 = 1 << 22;
const CHAR: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;

/// Attributes of an entry as the client's protocol has them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileStat {
    /// Path relative to the directory, with slashes.
    pub path: String,
    /// Kind and permissions as Go's `fs.FileMode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub mtime: i64,
    /// Target of a symbolic link; of a regular file, the earlier path that is the same inode.
    pub link: String,
    /// Device numbers.
    pub device: (u32, u32),
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
}

impl FileStat {
    /// Kind. A socket is an empty file.
    #[must_use]
    pub fn kind(&self) -> Kind {
        let has = |bit| self.mode & bit != 0;
        match () {
            () if has(DIR) => Kind::Dir,
            () if has(SYMLINK) => Kind::Symlink,
            () if has(DEVICE) && has(CHAR) => Kind::CharDevice,
            () if has(DEVICE) => Kind::BlockDevice,
            () if has(PIPE) => Kind::Fifo,
            () => Kind::File,
        }
    }

    /// Whether it is another name of an earlier entry.
    #[must_use]
    pub fn is_hard_link(&self) -> bool {
        self.kind() == Kind::File && !self.link.is_empty()
    }

    /// Permission bits as system calls take them.
    #[must_use]
    pub fn permissions(&self) -> u32 {
        let bit = |go: u32, unix: u32| if self.mode & go != 0 { unix } else { 0 };
        self.mode & 0o777 | bit(SETUID, 0o4000) | bit(SETGID, 0o2000) | bit(STICKY, 0o1000)
    }

    /// As the attributes of a file.
    #[must_use]
    pub fn stat(&self) -> Stat {
        let is_socket = self.mode & SOCKET != 0;
        Stat {
            kind: self.kind(),
            mode: self.permissions(),
            uid: self.uid,
            gid: self.gid,
            size: if is_socket { 0 } else { self.size },
            mtime: Time::from_nanos(self.mtime),
            rdev: self.device,
            dev: 0,
            ino: 0,
            nlink: 1,
            blocks: 0,
        }
    }

    /// Refuses names that are not those of a walk below one directory.
    pub fn check(&self) -> Result<()> {
        let bad = |part: &str| matches!(part, "" | "." | "..") || part.contains('\0');
        if self.path.split('/').any(bad) {
            return Err(self.refused("its name leads out of the directory"));
        }
        if self.is_hard_link() && self.link.split('/').any(bad) {
            return Err(self.refused("its link leads out of the directory"));
        }
        Ok(())
    }

    pub(super) fn refused(&self, why: &'static str) -> Error {
        Error::Transfer {
            path: self.path.clone().into(),
            why,
        }
    }

    /// Whether two files can be expected to have the same contents.
    pub(super) fn same_contents(&self, other: &Self) -> bool {
        self.kind() == Kind::File
            && other.kind() == Kind::File
            && (self.size, self.mtime, &self.link) == (other.size, other.mtime, &other.link)
    }

    /// Whether nothing needs to be done for it; a directory's time is looked at apart.
    pub(super) fn same(&self, other: &Self) -> bool {
        let is_dir = self.kind() == Kind::Dir;
        let times = is_dir || (self.size, self.mtime) == (other.size, other.mtime);
        let fixed = |s: &Self| (s.mode, s.uid, s.gid, s.device);
        times
            && fixed(self) == fixed(other)
            && self.link == other.link
            && self.xattrs == other.xattrs
    }
}

/// An entry of a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Attributes.
    pub stat: FileStat,
    /// Checksum of attributes and contents.
    pub sum: Sum,
}

/// The order of a walk: names bytewise, a directory's contents right after it.
#[must_use]
pub fn order(a: &str, b: &str) -> Ordering {
    let (x, y) = (a.as_bytes(), b.as_bytes());
    let common = x.iter().zip(y).take_while(|(a, b)| a == b).count();
    match (x.get(common), y.get(common)) {
        (Some(b'/'), Some(_)) => Ordering::Less,
        (Some(_), Some(b'/')) => Ordering::Greater,
        (a, b) => a.cmp(&b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_that_of_a_walk() {
        let sorted = ["a", "a/b", "a/b/c", "a/z", "a.b", "a0", "b"];
        for (at, a) in sorted.iter().enumerate() {
            for (other, b) in sorted.iter().enumerate() {
                assert_eq!(order(a, b), at.cmp(&other), "{a} {b}");
            }
        }
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for path in ["", "/a", "a/", "a//b", "../a", "a/../b", ".", "a\0b"] {
            let stat = FileStat {
                path: path.into(),
                ..FileStat::default()
            };
            assert!(stat.check().is_err(), "{path:?}");
        }
        let link = FileStat {
            path: "a".into(),
            link: "../x".into(),
            ..FileStat::default()
        };
        assert!(link.check().is_err());
    }

    #[test]
    fn modes_are_those_of_go() {
        let cases = [
            (0o755 | DIR, Kind::Dir, 0o755),
            (0o777 | SYMLINK, Kind::Symlink, 0o777),
            (0o600 | DEVICE | CHAR, Kind::CharDevice, 0o600),
            (0o755 | SOCKET, Kind::File, 0o755),
            (0o755 | SETUID | STICKY, Kind::File, 0o5755),
        ];
        for (mode, kind, permissions) in cases {
            let stat = FileStat {
                mode,
                ..FileStat::default()
            };
            assert_eq!((stat.kind(), stat.permissions()), (kind, permissions));
        }
    }
}
