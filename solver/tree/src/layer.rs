//! One layer directory and reading it: every path is relative to its root, and no call follows a symbolic link
//! in the last component. Callers give only paths whose parents they have seen to be directories. It never
//! writes.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{self, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::stat::{Kind, Stat};

/// Marks a directory that hides those of lower layers.
pub const OPAQUE: &str = "trusted.overlay.opaque";

/// How files are opened for reading.
pub(crate) const READ: OFlags = OFlags::NOFOLLOW
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

const LARGEST_XATTR: usize = 64 << 10;

/// Name and value of an extended attribute.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// An open layer directory.
#[derive(Debug)]
pub struct Layer {
    path: PathBuf,
    fd: OwnedFd,
    dev: u64,
}

/// One name of a layer's directory.
#[derive(Debug, Clone)]
pub struct RawEntry {
    /// Name.
    pub name: OsString,
    /// Kind; of a whiteout, a character device.
    pub kind: Kind,
    /// Inode.
    pub ino: u64,
}

impl Layer {
    /// Opens the directory at `path`.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(&path, flags, Mode::empty())
            .map_err(|e| Error::io("opening layer", &path, e))?;
        let dev = fs::fstat(&fd).map_err(|e| Error::io("opening layer", &path, e))?;
        let dev = Stat::from(&dev).dev;
        Ok(Self { path, fd, dev })
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device of the directory.
    #[must_use]
    pub fn dev(&self) -> u64 {
        self.dev
    }

    /// Attributes; `None` where nothing has that name.
    pub fn stat(&self, rel: &Path) -> Result<Option<Stat>> {
        match Stat::at(&self.fd, dot(rel)) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e).on("lstat", rel),
        }
    }

    /// Opens a directory.
    pub fn open_dir(&self, rel: &Path) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.open_with(rel, flags).on("open", rel)
    }

    /// Opens a regular file for reading.
    pub fn open_file(&self, rel: &Path) -> Result<File> {
        self.open_with(rel, READ).map(File::from).on("open", rel)
    }

    fn open_with(&self, rel: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        fs::openat2(&self.fd, dot(rel), flags, Mode::empty(), within)
    }

    /// Target of a symbolic link.
    pub fn read_link(&self, rel: &Path) -> Result<Vec<u8>> {
        read_link(&self.fd, rel)
    }

    /// Names of a directory, in no order, without `.` and `..`.
    pub fn entries(&self, rel: &Path) -> Result<Vec<RawEntry>> {
        entries(&self.open_dir(rel)?, rel)
    }

    /// Value of an extended attribute.
    pub fn xattr(&self, rel: &Path, name: &str) -> Result<Option<Vec<u8>>> {
        xattr_at(&self.fd, rel, name.as_bytes())
    }

    /// All extended attributes, sorted by name.
    pub fn xattrs(&self, rel: &Path) -> Result<Vec<Xattr>> {
        xattrs_at(&self.fd, rel)
    }

    /// Whether a directory hides those of lower layers.
    pub fn is_opaque(&self, rel: &Path) -> Result<bool> {
        Ok(self.xattr(rel, OPAQUE)?.as_deref() == Some(b"y"))
    }
}

impl AsFd for Layer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A path that system calls accept for the root too.
pub(crate) fn dot(rel: &Path) -> &Path {
    if rel.as_os_str().is_empty() {
        Path::new(".")
    } else {
        rel
    }
}

/// Target of a symbolic link below a directory.
pub(crate) fn read_link(dir: impl AsFd, name: &Path) -> Result<Vec<u8>> {
    fs::readlinkat(dir, name, Vec::new())
        .map(std::ffi::CString::into_bytes)
        .on("readlink", name)
}

/// Names of an open directory, in no order, without `.` and `..`.
pub(crate) fn entries(dir: &OwnedFd, rel: &Path) -> Result<Vec<RawEntry>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir).on("open", rel)? {
        let entry = entry.on("readdir", rel)?;
        if is_dot(entry.file_name()) {
            continue;
        }
        let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_os_string();
        let kind = match Kind::from_file_type(entry.file_type()) {
            Some(kind) => kind,
            None => {
                Stat::at(dir, Path::new(&name))
                    .on("lstat", &rel.join(&name))?
                    .kind
            }
        };
        found.push(RawEntry {
            name,
            kind,
            ino: entry.ino(),
        });
    }
    Ok(found)
}

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// A path that leads to a name below an open directory: the calls for extended attributes take only paths.
pub(crate) fn proc_path(dir: impl AsFd, name: &Path) -> PathBuf {
    let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(dot(name).as_os_str().as_bytes());
    PathBuf::from(OsString::from_vec(path))
}

/// Value of an extended attribute of a name below a directory.
pub(crate) fn xattr_at(dir: impl AsFd, name: &Path, attr: &[u8]) -> Result<Option<Vec<u8>>> {
    let path = proc_path(dir, name);
    value(name, |buffer| fs::lgetxattr(&path, attr, buffer))
}

/// All extended attributes of a name below a directory, sorted by name.
pub(crate) fn xattrs_at(dir: impl AsFd, name: &Path) -> Result<Vec<Xattr>> {
    let path = proc_path(dir, name);
    all(
        name,
        |buffer| fs::llistxattr(&path, buffer),
        |attr, buffer| fs::lgetxattr(&path, attr, buffer),
    )
}

/// Value of an extended attribute of an open file.
pub(crate) fn xattr_of(file: impl AsFd, name: &Path, attr: &str) -> Result<Option<Vec<u8>>> {
    let file = file.as_fd();
    value(name, |buffer| fs::fgetxattr(file, attr, buffer))
}

/// All extended attributes of an open file, sorted by name.
pub(crate) fn xattrs_of(file: impl AsFd, name: &Path) -> Result<Vec<Xattr>> {
    let file = file.as_fd();
    all(
        name,
        |buffer| fs::flistxattr(file, buffer),
        |attr, buffer| fs::fgetxattr(file, attr, buffer),
    )
}

/// Asks with a small buffer first and with the largest that can be needed if that is too short.
fn grown(ask: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0_u8; 256];
    match ask(&mut small) {
        Ok(len) => return Ok(small[..len].to_vec()),
        Err(Errno::RANGE) => {}
        Err(e) => return Err(e),
    }
    let mut large = vec![0; LARGEST_XATTR];
    let len = ask(&mut large)?;
    large.truncate(len);
    Ok(large)
}

fn value(
    name: &Path,
    ask: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
) -> Result<Option<Vec<u8>>> {
    match grown(ask) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(e) => Err(e).on("getxattr", name),
    }
}

fn all(
    name: &Path,
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    ask: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> Result<Vec<Xattr>> {
    let names = match grown(list) {
        Ok(names) => names,
        Err(Errno::NOTSUP) => Vec::new(),
        Err(e) => return Err(e).on("listxattr", name),
    };
    let mut found = Vec::new();
    for attr in names.split(|b| *b == 0).filter(|attr| !attr.is_empty()) {
        if let Some(value) = value(name, |buffer| ask(attr, buffer))? {
            found.push((attr.to_vec(), value));
        }
    }
    found.sort();
    Ok(found)
}
