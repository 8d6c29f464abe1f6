//! What a tree knows of one entry: kind, permissions, owner, size, time, identity; and setting them again.
//! It never follows a symbolic link.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid};

use crate::error::{Context, Result};

/// Permission bits with setuid, setgid and sticky.
pub const PERMISSIONS: u32 = 0o7777;

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since 1970.
    pub sec: i64,
    /// Nanoseconds within the second.
    pub nsec: u32,
}

impl Time {
    /// From nanoseconds since 1970.
    #[must_use]
    pub fn from_nanos(nanos: i64) -> Self {
        Self {
            sec: nanos.div_euclid(1_000_000_000),
            nsec: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
        }
    }

    /// Nanoseconds since 1970, at the ends of the range where it does not fit.
    #[must_use]
    pub fn nanos(self) -> i64 {
        self.sec
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(self.nsec))
    }
}

/// Kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Character device; 0:0 is a whiteout.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

impl Kind {
    /// From a directory entry's type; `None` where the filesystem does not tell.
    #[must_use]
    pub fn from_file_type(file_type: FileType) -> Option<Self> {
        Some(match file_type {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Dir,
            FileType::Symlink => Self::Symlink,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::Unknown => return None,
        })
    }

    /// The bits of `st_mode` that say this.
    #[must_use]
    pub fn bits(self) -> u32 {
        match self {
            Self::File => 0o100_000,
            Self::Dir => 0o040_000,
            Self::Symlink => 0o120_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
        }
    }
}

/// Attributes of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Kind.
    pub kind: Kind,
    /// Permission bits, [`PERMISSIONS`] only.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Last change of the contents.
    pub mtime: Time,
    /// Major and minor number of a device.
    pub rdev: (u32, u32),
    /// Device that holds the inode.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Names of the inode.
    pub nlink: u64,
    /// Units of 512 bytes on disk.
    pub blocks: u64,
}

impl Stat {
    /// Whether it is overlayfs's mark of a removed entry.
    #[must_use]
    pub fn is_whiteout(&self) -> bool {
        self.kind == Kind::CharDevice && self.rdev == (0, 0)
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// Of a name below a directory, not following a link.
    pub fn at(dir: impl AsFd, name: &Path) -> rustix::io::Result<Self> {
        fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|raw| Self::from(&raw))
    }
}

impl From<&fs::Stat> for Stat {
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        clippy::unnecessary_cast,
        reason = "field types differ between architectures; sizes and counts are never negative"
    )]
    fn from(raw: &fs::Stat) -> Self {
        let kind = Kind::from_file_type(FileType::from_raw_mode(raw.st_mode));
        Self {
            kind: kind.unwrap_or(Kind::File),
            mode: raw.st_mode & PERMISSIONS,
            uid: raw.st_uid,
            gid: raw.st_gid,
            size: raw.st_size as u64,
            mtime: Time {
                sec: raw.st_mtime as i64,
                nsec: raw.st_mtime_nsec as u32,
            },
            rdev: (fs::major(raw.st_rdev), fs::minor(raw.st_rdev)),
            dev: raw.st_dev as u64,
            ino: raw.st_ino as u64,
            nlink: raw.st_nlink as u64,
            blocks: raw.st_blocks as u64,
        }
    }
}

/// A user and a group by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Times for `utimensat`: the last modification is set, the last access kept.
pub(crate) fn times(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.sec,
            tv_nsec: mtime.nsec.into(),
        },
    }
}

/// Sets the modification time of a name below a directory.
pub(crate) fn set_mtime(dir: impl AsFd, name: &Path, mtime: Time) -> Result<()> {
    fs::utimensat(dir, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW).on("utimes", name)
}

/// Sets the owner of a name below a directory.
pub(crate) fn set_owner(dir: impl AsFd, name: &Path, owner: Owner) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).on("lchown", name)
}

/// Sets the permission bits of a name below a directory, which must not be a symbolic link.
pub(crate) fn set_mode(dir: impl AsFd, name: &Path, mode: u32) -> Result<()> {
    fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty()).on("chmod", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_positive_nanoseconds() {
        let time = Time::from_nanos(-1);
        assert_eq!((time.sec, time.nsec), (-1, 999_999_999));
        assert_eq!(time.nanos(), -1);
    }
}
