//! Layers that lie outside of the store, such as a base image that another snapshotter has unpacked. Decides whether
//! a directory is a complete layer: overlayfs can leave parts of a file or the origin of a directory to extended
//! attributes that mean nothing in another stack. Never writes there, never deletes there.

use std::{
    ffi::{CStr, OsStr},
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::{
    fs::{FileType, lgetxattr_query},
    io::Errno,
};

use crate::{
    error::{Error, Result},
    model::{LayerId, Usage},
    state::{Change, LayerRecord, State},
    store::LayerStore,
    usage::{Visited, walk},
};

impl LayerStore {
    /// Makes a directory outside of the store usable as a layer, after checking that it is a complete one. The caller
    /// keeps it alive and unchanged. The same directory gets the same layer for as long as that lives.
    pub fn adopt_foreign(&self, dir: &Path, owner: &str) -> Result<LayerId> {
        let dir = std::fs::canonicalize(dir).map_err(Error::io("resolving", dir))?;
        let first = known(&self.core.lock().state, &dir);
        if let Some(id) = first {
            self.own(&[id], owner)?;
            return Ok(id);
        }
        let usage = inspect(&dir)?;
        let id = self.core.allocate()?;
        self.core.layout.link_foreign(id, &dir)?;
        let adopted = self.core.transact(|inner| {
            // Somebody may have adopted it while this call looked at it.
            let (id, mut changes) = match known(&inner.state, &dir) {
                Some(first) => (first, vec![]),
                None => (id, vec![new_layer(id, dir.clone(), usage)]),
            };
            changes.push(Change::Own(owner.into(), id));
            Ok((id, changes))
        });
        if !matches!(adopted, Ok(used) if used == id) {
            self.core.trash(id);
        }
        adopted
    }
}

fn known(state: &State, dir: &Path) -> Option<LayerId> {
    let mut layers = state.layers.iter();
    layers
        .find(|(_, l)| l.foreign.as_deref() == Some(dir))
        .map(|(id, _)| *id)
}

fn new_layer(id: LayerId, dir: PathBuf, usage: Usage) -> Change {
    let mut record = LayerRecord::new(None, SystemTime::now());
    record.usage = Some(usage);
    record.foreign = Some(dir);
    Change::PutLayer(id, record)
}

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
