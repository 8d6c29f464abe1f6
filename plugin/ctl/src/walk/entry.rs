//! One entry's attributes, as they cross the wire. Decides the mode bits; never looks at patterns.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt as _;

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};
use rustix::io::Errno;
use shipway_proto::fsutil::Stat;

/// Bits of Go's `os.FileMode`, which the wire carries.
mod go {
    pub(super) const DIR: u32 = 1 << 31;
    pub(super) const SYMLINK: u32 = 1 << 27;
    pub(super) const DEVICE: u32 = 1 << 26;
    pub(super) const NAMED_PIPE: u32 = 1 << 25;
    pub(super) const SETUID: u32 = 1 << 23;
    pub(super) const SETGID: u32 = 1 << 22;
    pub(super) const CHAR_DEVICE: u32 = 1 << 21;
    pub(super) const STICKY: u32 = 1 << 20;
    /// Everything but regular files has one of these.
    pub(super) const TYPE: u32 =
        DIR | SYMLINK | DEVICE | NAMED_PIPE | CHAR_DEVICE | (1 << 24) | (1 << 19);
}

/// Whether the wire's mode is a regular file's, whose content may be asked for. A socket counts as one.
pub(crate) fn is_regular(mode: u32) -> bool {
    mode & go::TYPE == 0
}

/// Whether the wire's mode is a directory's.
pub(crate) fn is_dir(mode: u32) -> bool {
    mode & go::DIR != 0
}

/// Whether the wire's mode is a symbolic link's.
pub(crate) fn is_symlink(mode: u32) -> bool {
    mode & go::SYMLINK != 0
}

/// What a directory reader found out about one name.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) stat: Stat,
    /// Device and inode, if the inode has other names.
    pub(super) linked: Option<(u32, u32, u64)>,
}

/// Looks at `name` in the open directory `dir`; `path` is relative to the walk's root, `full` from here. Vanished names
/// are none.
pub(super) fn look(
    dir: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    path: String,
    full: &std::path::Path,
) -> Result<Option<Found>, Errno> {
    let wanted = StatxFlags::TYPE
        | StatxFlags::MODE
        | StatxFlags::NLINK
        | StatxFlags::INO
        | StatxFlags::SIZE
        | StatxFlags::MTIME;
    let found = match rustix::fs::statx(
        dir,
        name,
        AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
        wanted,
    ) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        other => other?,
    };
    let kind = FileType::from_raw_mode(found.stx_mode.into());
    let mut stat = Stat {
        path,
        mode: mode(found.stx_mode, kind),
        mod_time: found.stx_mtime.tv_sec * 1_000_000_000 + i64::from(found.stx_mtime.tv_nsec),
        devmajor: found.stx_rdev_major.into(),
        devminor: found.stx_rdev_minor.into(),
        xattrs: xattrs(full)?,
        ..Stat::default()
    };
    if kind != FileType::Directory {
        stat.size = found.stx_size.cast_signed();
    }
    if kind == FileType::Symlink {
        match rustix::fs::readlinkat(dir, name, Vec::new()) {
            Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
            target => stat.linkname = text(target?),
        }
    }
    let linked = linked(&found, kind);
    Ok(Some(Found { stat, linked }))
}

fn linked(found: &Statx, kind: FileType) -> Option<(u32, u32, u64)> {
    let may_link = !matches!(kind, FileType::Directory | FileType::Symlink);
    (may_link && found.stx_nlink > 1).then_some((
        found.stx_dev_major,
        found.stx_dev_minor,
        found.stx_ino,
    ))
}

/// The wire carries text; a name that is none loses the bytes that are not.
fn text(name: CString) -> String {
    name.into_string().unwrap_or_else(|error| {
        String::from_utf8_lossy(error.into_cstring().as_bytes()).into_owned()
    })
}

fn mode(raw: u16, kind: FileType) -> u32 {
    let raw = u32::from(raw);
    let mut mode = raw & 0o777;
    // Sockets have no type of their own: the archive format that follows can't hold one.
    mode |= match kind {
        FileType::Directory => go::DIR,
        FileType::Symlink => go::SYMLINK,
        FileType::BlockDevice => go::DEVICE,
        FileType::CharacterDevice => go::DEVICE | go::CHAR_DEVICE,
        FileType::Fifo => go::NAMED_PIPE,
        _ => 0,
    };
    for (bit, wire) in [
        (0o4000, go::SETUID),
        (0o2000, go::SETGID),
        (0o1000, go::STICKY),
    ] {
        if raw & bit != 0 {
            mode |= wire;
        }
    }
    mode
}

/// The permission bits of the wire's mode, with set-user-id and its like, as the system has them.
pub(crate) fn permissions(mode: u32) -> u32 {
    let mut raw = mode & 0o777;
    for (bit, wire) in [
        (0o4000, go::SETUID),
        (0o2000, go::SETGID),
        (0o1000, go::STICKY),
    ] {
        if mode & wire != 0 {
            raw |= bit;
        }
    }
    raw
}

fn xattrs(full: &std::path::Path) -> Result<BTreeMap<String, Bytes>, Errno> {
    let mut names = [0_u8; 1024];
    let listed = match rustix::fs::llistxattr(full, &mut names) {
        Ok(0) | Err(Errno::NOTSUP | Errno::NOENT) => return Ok(BTreeMap::new()),
        Ok(n) => names[..n].to_vec(),
        Err(Errno::RANGE) => long_list(full)?,
        Err(error) => return Err(error),
    };
    let mut found = BTreeMap::new();
    for name in listed
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        if name.starts_with("com.apple.") {
            continue;
        }
        if let Some(value) = xattr(full, name) {
            found.insert(name.to_owned(), value);
        }
    }
    Ok(found)
}

fn long_list(full: &std::path::Path) -> Result<Vec<u8>, Errno> {
    let mut names = vec![0_u8; 64 << 10];
    let n = rustix::fs::llistxattr(full, &mut names[..])?;
    names.truncate(n);
    Ok(names)
}

/// A value that can't be read is left out, as BuildKit's own client does.
fn xattr(full: &std::path::Path, name: &str) -> Option<Bytes> {
    let mut value = vec![0_u8; 64 << 10];
    let n = rustix::fs::lgetxattr(full, name, &mut value[..]).ok()?;
    value.truncate(n);
    Some(value.into())
}

/// A file name as text.
pub(super) fn name_text(name: &std::ffi::CStr) -> String {
    String::from_utf8_lossy(name.to_bytes()).into_owned()
}

/// A file name as a path element.
pub(super) fn name_path(name: &std::ffi::CStr) -> std::ffi::OsString {
    std::ffi::OsString::from_vec(name.to_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_go() {
        assert_eq!(mode(0o40755, FileType::Directory), (1 << 31) | 0o755);
        assert_eq!(mode(0o120_777, FileType::Symlink), (1 << 27) | 0o777);
        assert_eq!(mode(0o104_755, FileType::RegularFile), (1 << 23) | 0o755);
        assert_eq!(mode(0o140_644, FileType::Socket), 0o644);
        assert_eq!(permissions(mode(0o101_777, FileType::RegularFile)), 0o1777);
        assert!(
            is_regular(0o644) && !is_regular(1 << 25) && is_dir(1 << 31) && is_symlink(1 << 27)
        );
    }
}
