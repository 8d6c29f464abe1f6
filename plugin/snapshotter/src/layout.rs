//! Where things are on disk, and the only code that makes, renames or deletes directories of the store.
//!
//! ```text
//! <root>/metadata.db      records (journal)
//! <root>/layers/<id>      a layer's changes; for a foreign layer a symbolic link to its directory
//! <root>/work/<id>        overlay's work directory of a layer that is still written
//! <root>/trash/<name>     renamed here in O(1), deleted later
//! <root>/scratch/<name>   directories for the daemon's other parts (context mirrors, cache mounts)
//! <root>/empty            what a view without parent shows
//! ```
//!
//! A layer's directory is not `<id>/fs`: with names this short a chain of 500 layers fits the page that mount(2) takes,
//! because containerd mounts relative to the directory that all lower directories share. Everything is mode 0700: a
//! setuid file in a layer must not be reachable for the host's users.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::{
    error::{Error, Result},
    model::{LayerId, parse_short_name, short_name},
    trash::delete_tree,
};

/// Paths below one root.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Checks the path and makes the directories.
    pub(crate) fn create(root: &Path) -> Result<Self> {
        mountable(root)?;
        fs::create_dir_all(root).map_err(Error::io("creating", root))?;
        let root = fs::canonicalize(root).map_err(Error::io("resolving", root))?;
        mountable(&root)?;
        let layout = Self { root };
        private(&layout.root)?;
        for dir in [
            layout.layers(),
            layout.root.join("work"),
            layout.trash(),
            layout.empty(),
        ] {
            mkdir(&dir, 0o700)?;
        }
        chmod(&layout.empty(), 0o755)?;
        if let Err(error) = spread(&layout.layers()) {
            tracing::debug!(%error, "layers lie wherever the filesystem puts them");
        }
        Ok(layout)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("metadata.db")
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    pub(crate) fn empty(&self) -> PathBuf {
        self.root.join("empty")
    }

    pub(crate) fn fs(&self, id: LayerId) -> PathBuf {
        self.layers().join(short_name(id))
    }

    pub(crate) fn work(&self, id: LayerId) -> PathBuf {
        self.root.join("work").join(short_name(id))
    }

    /// A directory for the daemon's other parts.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf> {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(Error::Invalid(format!(
                "{name:?} cannot name a scratch directory"
            )));
        }
        let parent = self.root.join("scratch");
        mkdir(&parent, 0o700)?;
        let dir = parent.join(name);
        mkdir(&dir, 0o700)?;
        Ok(dir)
    }

    /// Makes a layer's directories. `like` is the directory whose owner and mode the new root takes over, so that a
    /// layer does not change its parent's root directory.
    pub(crate) fn make_layer(&self, id: LayerId, like: Option<&Path>) -> Result<()> {
        let (dir, work) = (self.fs(id), self.work(id));
        mkdir(&work, 0o711)?;
        mkdir(&dir, 0o755)?;
        match like {
            None => chmod(&dir, 0o755),
            Some(like) => {
                let meta = fs::metadata(like).map_err(Error::io("reading", like))?;
                chown(&dir, Some(meta.uid()), Some(meta.gid()))
                    .map_err(Error::io("changing owner of", &dir))?;
                chmod(&dir, meta.mode() & 0o7777)
            }
        }
    }

    /// Links a foreign directory in.
    pub(crate) fn link_foreign(&self, id: LayerId, target: &Path) -> Result<()> {
        let link = self.fs(id);
        symlink(target, &link).map_err(Error::io("linking", link))
    }

    /// Takes a layer out of sight in O(1). A layer that is gone already is none the worse.
    pub(crate) fn trash_layer(&self, id: LayerId) -> Result<()> {
        let dir = self.fs(id);
        match fs::symlink_metadata(&dir) {
            Ok(meta) if meta.is_symlink() => {
                absent_is_fine(fs::remove_file(&dir)).map_err(Error::io("unlinking", &dir))?;
            }
            Ok(_) => {
                let to = self.trash().join(short_name(id));
                absent_is_fine(fs::rename(&dir, to)).map_err(Error::io("discarding", &dir))?;
            }
            Err(e) => absent_is_fine(Err(e)).map_err(Error::io("reading", &dir))?,
        }
        self.trash_work(id)
    }

    /// Takes a layer's work directory out of sight.
    pub(crate) fn trash_work(&self, id: LayerId) -> Result<()> {
        let work = self.work(id);
        let to = self.trash().join(format!("{}.work", short_name(id)));
        absent_is_fine(fs::rename(&work, to)).map_err(Error::io("discarding", work))
    }

    /// Whether a layer's directory (for a foreign one: its target) is there.
    pub(crate) fn has_layer(&self, id: LayerId) -> bool {
        fs::metadata(self.fs(id)).is_ok_and(|m| m.is_dir())
    }

    /// Ids that have a directory under `layers/` or `work/`. Names that no id has are left alone.
    pub(crate) fn present(&self) -> Result<Vec<LayerId>> {
        let mut ids = Vec::new();
        for dir in [self.layers(), self.root.join("work")] {
            for entry in fs::read_dir(&dir).map_err(Error::io("reading", &dir))? {
                let entry = entry.map_err(Error::io("reading", &dir))?;
                ids.extend(entry.file_name().to_str().and_then(parse_short_name));
            }
        }
        Ok(ids)
    }

    /// Deletes what lies in the trash, asking before each file whether to go on. Returns the first failure after
    /// having tried everything.
    pub(crate) fn empty_trash(&self, mut go_on: impl FnMut() -> bool) -> Result<()> {
        let trash = self.trash();
        let mut outcome = Ok(());
        for entry in fs::read_dir(&trash).map_err(Error::io("reading", &trash))? {
            let path = entry.map_err(Error::io("reading", &trash))?.path();
            match delete_tree(&path, &mut go_on) {
                Ok(true) => {}
                Ok(false) => break,
                // What is left is tried again with the next call.
                Err(e) => outcome = outcome.and(Err(e)),
            }
        }
        outcome
    }
}

/// Refuses paths that overlay's mount options cannot express.
fn mountable(path: &Path) -> Result<()> {
    if path
        .to_str()
        .is_some_and(|text| !text.contains([',', ':', '\\']))
    {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "the path {} cannot appear in overlay mount options (no comma, colon, backslash or non-UTF-8)",
        path.display()
    )))
}

fn private(dir: &Path) -> Result<()> {
    chmod(dir, 0o700)
}

fn mkdir(dir: &Path, mode: u32) -> Result<()> {
    match DirBuilder::new().mode(mode).create(dir) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        other => other.map_err(Error::io("creating", dir)),
    }
}

/// Tells ext4 that the directories in `dir` have nothing to do with each other (`chattr +T`), so that it puts each where
/// there is room. Otherwise a new layer gets its inodes beside those of a layer that was just deleted, and ext4 without a
/// journal passes over each of these, for minutes, whenever it creates a file.
fn spread(dir: &Path) -> io::Result<()> {
    let dir = fs::File::open(dir)?;
    let flags = ioctl_getflags(&dir)?;
    Ok(ioctl_setflags(&dir, flags | IFlags::TOPDIR)?)
}

fn chmod(dir: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(dir, Permissions::from_mode(mode))
        .map_err(Error::io("changing mode of", dir))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_spread_where_the_filesystem_can() {
        let root = tempfile::tempdir().unwrap();
        let layers = Layout::create(root.path()).unwrap().layers();
        let other = tempfile::tempdir_in(root.path()).unwrap();
        let can_be = spread(other.path()).is_ok();
        let flags = ioctl_getflags(fs::File::open(layers).unwrap());
        let are = flags.is_ok_and(|flags| flags.contains(IFlags::TOPDIR));
        assert_eq!(are, can_be);
    }
}
