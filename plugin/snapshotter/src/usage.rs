//! Disk usage as `du` counts it: allocated blocks, every inode once. Never follows a symbolic link and works on a
//! tree of any depth; several trees may be counted at the same time.

use std::{collections::HashSet, os::fd::OwnedFd, path::Path};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};

use crate::{
    error::{Error, Result},
    model::Usage,
};

/// What a walk shows of one file or directory.
pub(crate) struct Visited<'a> {
    /// The directory that it is in (for the root: itself).
    pub dir: &'a OwnedFd,
    /// Its name there (for the root: `.`).
    pub name: &'a std::ffi::CStr,
    /// Its inode.
    pub stat: &'a Stat,
}

/// Counts what is below `root`, itself included.
pub fn disk_usage(root: &Path) -> Result<Usage> {
    walk(root, |_| Ok(()))
}

/// Visits every file and directory and counts them.
pub(crate) fn walk(root: &Path, mut visit: impl FnMut(Visited<'_>) -> Result<()>) -> Result<Usage> {
    let failed = |e: rustix::io::Errno| Error::io("measuring", root)(e.into());
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let root_dir = openat(CWD, root, DIRECTORY, Mode::empty()).map_err(failed)?;
    let stat = fstat(&root_dir).map_err(failed)?;
    count(&mut usage, &stat);
    visit(Visited {
        dir: &root_dir,
        name: c".",
        stat: &stat,
    })?;
    let mut stack = vec![Open::new(root_dir).map_err(failed)?];
    while let Some(top) = stack.last_mut() {
        let Some(entry) = top.entries.next() else {
            stack.pop();
            continue;
        };
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // A tree that is still written may lose files under the walk.
        let Ok(stat) = statat(&top.dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if directory || stat.st_nlink < 2 || linked.insert((stat.st_dev, stat.st_ino)) {
            count(&mut usage, &stat);
        }
        visit(Visited {
            dir: &top.dir,
            name,
            stat: &stat,
        })?;
        if directory && let Ok(dir) = openat(&top.dir, name, DIRECTORY, Mode::empty()) {
            stack.push(Open::new(dir).map_err(failed)?);
        }
    }
    Ok(usage)
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

struct Open {
    dir: OwnedFd,
    entries: Dir,
}

impl Open {
    fn new(dir: OwnedFd) -> rustix::io::Result<Self> {
        let entries = Dir::read_from(&dir)?;
        Ok(Self { dir, entries })
    }
}

fn count(usage: &mut Usage, stat: &Stat) {
    usage.bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
    usage.inodes += 1;
}
