//! Decides whether a directory outside of the store is a complete layer: overlayfs can leave parts of a file or the
//! origin of a directory to extended attributes that mean nothing in another stack.

use std::{
    ffi::{CStr, OsStr},
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FileType, lgetxattr_query},
    io::Errno,
};

use crate::{
    error::{Error, Result},
    model::Usage,
    usage::{Visited, walk},
};

/// Walks the directory: its usage, or the first reason why it cannot be used in place.
pub(crate) fn inspect(dir: &Path) -> Result<Usage> {
    walk(dir, |visited| {
        let why = match FileType::from_raw_mode(visited.stat.st_mode) {
            FileType::Directory if has(&visited, c"trusted.overlay.redirect")? => {
                "a directory is a redirect of overlayfs"
            }
            FileType::RegularFile if has(&visited, c"trusted.overlay.metacopy")? => {
                "a file holds only metadata (overlayfs metacopy)"
            }
            _ => return Ok(()),
        };
        Err(Error::UnusableForeign {
            path: path_of(&visited),
            why,
        })
    })
}

fn has(visited: &Visited<'_>, attribute: &CStr) -> Result<bool> {
    // No xattr call takes a directory descriptor and a name, so the descriptor becomes part of the path.
    let path = Path::new("/proc/self/fd")
        .join(visited.dir.as_raw_fd().to_string())
        .join(OsStr::from_bytes(visited.name.to_bytes()));
    match lgetxattr_query(&path, attribute) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT) => Ok(false),
        Err(e) => Err(Error::io("reading attributes of", path_of(visited))(
            e.into(),
        )),
    }
}

fn path_of(visited: &Visited<'_>) -> PathBuf {
    let dir = Path::new("/proc/self/fd").join(visited.dir.as_raw_fd().to_string());
    let dir = std::fs::read_link(dir).unwrap_or_default();
    dir.join(OsStr::from_bytes(visited.name.to_bytes()))
}
