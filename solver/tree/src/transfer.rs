//! Gives a file's contents a second name or a second copy, the cheapest way that is right: a hard link, else shared
//! extents, else a copy inside the kernel, else one through memory. It decides nothing about metadata.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::layer::{self, Xattr};
use crate::stat::{Kind, Owner, Stat, Time, set_mode, set_mtime, set_owner, times};

const COPY_AT_ONCE: usize = 1 << 30;
/// Files below this size are copied through memory.
const SMALL: usize = 16 << 10;

/// Attributes to give to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Owner.
    pub owner: Owner,
    /// Permission bits.
    pub mode: u32,
    /// Time of last change; `None` leaves it now.
    pub mtime: Option<Time>,
}

impl Attributes {
    /// Those that an entry has.
    #[must_use]
    pub fn of(stat: &Stat) -> Self {
        let owner = Owner {
            uid: stat.uid,
            gid: stat.gid,
        };
        Self {
            owner,
            mode: stat.mode,
            mtime: Some(stat.mtime),
        }
    }
}

/// What became of an attempt to link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linked {
    /// The name exists now.
    Done,
    /// This pair of directories can never be linked (another filesystem or mount).
    Never,
    /// This file cannot (it has too many names, or may not be linked).
    NotThis,
}

/// Links a file under a new name that must be free.
pub fn link(from: impl AsFd, name: &Path, to: impl AsFd, new: &Path) -> Result<Linked> {
    match fs::linkat(from, name, to, new, AtFlags::empty()) {
        Ok(()) => Ok(Linked::Done),
        Err(Errno::XDEV) => Ok(Linked::Never),
        Err(Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP) => Ok(Linked::NotThis),
        Err(e) => Err(e).on("link", new),
    }
}

/// Creates a regular file with the contents of another.
pub fn copy_file(from: &File, to: impl AsFd, new: &Path) -> Result<File> {
    let into = create_file(to, new)?;
    copy_contents(from, &into).on("copy", new)?;
    Ok(into)
}

/// The same with attributes and extended attributes.
pub fn copy_whole(from: &File, to: impl AsFd, new: &Path, attributes: &Attributes) -> Result<()> {
    let into = copy_file(from, to, new)?;
    set_file_attributes(&into, new, attributes, &layer::xattrs_of(from, new)?)
}

/// Creates an empty regular file under a name that must be free.
pub fn create_file(dir: impl AsFd, name: &Path) -> Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(dir, name, flags, Mode::from_raw_mode(0o600)).on("open", name)?;
    Ok(File::from(file))
}

fn copy_contents(mut from: &File, mut into: &File) -> io::Result<()> {
    let mut small = [0; SMALL];
    let got = from.read(&mut small)?;
    if got < SMALL {
        into.write_all(&small[..got])?;
        return if got == 0 {
            Ok(())
        } else {
            copy_rest(from, into, &mut small)
        };
    }
    if fs::ioctl_ficlone(into, from).is_ok() {
        return Ok(());
    }
    into.write_all(&small)?;
    loop {
        match fs::copy_file_range(from, None, into, None, COPY_AT_ONCE) {
            // Some filesystems answer 0 for files that are not empty.
            Ok(0) | Err(_) => return copy_rest(from, into, &mut small),
            Ok(_) => {}
        }
    }
}

/// Copies through memory from where both files are.
fn copy_rest(mut from: &File, mut into: &File, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match from.read(buffer)? {
            0 => return Ok(()),
            got => into.write_all(&buffer[..got])?,
        }
    }
}

/// Creates a device, a pipe or a socket's stand-in under a name that must be free.
pub fn create_node(dir: impl AsFd, name: &Path, stat: &Stat) -> Result<()> {
    let (file_type, device) = match stat.kind {
        Kind::CharDevice => (FileType::CharacterDevice, stat.rdev),
        Kind::BlockDevice => (FileType::BlockDevice, stat.rdev),
        Kind::Fifo => (FileType::Fifo, (0, 0)),
        // A socket without its process is an empty file.
        _ => (FileType::RegularFile, (0, 0)),
    };
    let device = fs::makedev(device.0, device.1);
    fs::mknodat(dir, name, file_type, Mode::from_raw_mode(stat.mode), device).on("mknod", name)
}

/// Sets owner, mode, extended attributes and time, in the order in which none undoes another.
pub fn set_attributes(
    dir: impl AsFd,
    name: &Path,
    kind: Kind,
    attributes: &Attributes,
    xattrs: &[Xattr],
) -> Result<()> {
    set_owner(dir.as_fd(), name, attributes.owner)?;
    if kind != Kind::Symlink {
        set_mode(dir.as_fd(), name, attributes.mode)?;
    }
    set_xattrs(dir.as_fd(), name, xattrs);
    match attributes.mtime {
        Some(mtime) => set_mtime(dir, name, mtime),
        None => Ok(()),
    }
}

/// The same for a regular file that is open.
pub fn set_file_attributes(
    file: &File,
    name: &Path,
    attributes: &Attributes,
    xattrs: &[Xattr],
) -> Result<()> {
    let owner = attributes.owner;
    let (uid, gid) = (fs::Uid::from_raw(owner.uid), fs::Gid::from_raw(owner.gid));
    fs::fchown(file, Some(uid), Some(gid)).on("chown", name)?;
    fs::fchmod(file, Mode::from_raw_mode(attributes.mode)).on("chmod", name)?;
    for (attr, value) in xattrs.iter().filter(|(attr, _)| !is_overlay(attr)) {
        if let Err(e) = fs::fsetxattr(file, attr, value, fs::XattrFlags::empty()) {
            let attr = String::from_utf8_lossy(attr);
            tracing::debug!(path = %name.display(), %attr, error = %e, "extended attribute left out");
        }
    }
    match attributes.mtime {
        Some(mtime) => fs::futimens(file, &times(mtime)).on("utimes", name),
        None => Ok(()),
    }
}

/// Sets extended attributes; one that the filesystem refuses is logged and left out, as BuildKit does.
pub fn set_xattrs(dir: impl AsFd, name: &Path, xattrs: &[Xattr]) {
    if xattrs.is_empty() {
        return;
    }
    let path = layer::proc_path(dir, name);
    for (attr, value) in xattrs.iter().filter(|(attr, _)| !is_overlay(attr)) {
        if let Err(e) = fs::lsetxattr(&path, attr, value, fs::XattrFlags::empty()) {
            let attr = String::from_utf8_lossy(attr);
            tracing::debug!(path = %name.display(), %attr, error = %e, "extended attribute left out");
        }
    }
}

/// Whether an attribute is overlayfs's own bookkeeping, which belongs to one layer.
pub(crate) fn is_overlay(attr: &[u8]) -> bool {
    attr.starts_with(b"trusted.overlay.")
}

/// Removes a name and, if it is a directory, everything below it.
pub fn remove_all(dir: impl AsFd, name: &Path) -> Result<()> {
    match fs::unlinkat(dir.as_fd(), name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e).on("remove", name),
    }
    let inner = open_dir(dir.as_fd(), name)?;
    for entry in layer::entries(&inner, name)? {
        remove_all(&inner, Path::new(&entry.name))?;
    }
    fs::unlinkat(dir, name, AtFlags::REMOVEDIR).on("remove", name)
}

/// Opens a directory below another.
pub(crate) fn open_dir(dir: impl AsFd, name: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(dir, layer::dot(name), flags, Mode::empty()).map_err(|e| Error::io("open", name, e))
}
