//! Copies one entry that is no directory: by a hard link if it keeps all its attributes and that is safe, else
//! anew. Names of one inode within a source layer stay names of one inode. Several threads may copy at once.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs;

use super::levels::Source;
use super::{Composer, CopyOptions, Links, Origin};
use crate::error::{Context, Result};
use crate::fill::is_cron;
use crate::layer::{self, Layer};
use crate::stat::{Kind, Stat};
use crate::transfer::{self, Attributes, Linked};

/// Anything but a directory, to be copied.
pub(super) struct Leaf<'a> {
    /// Directory that holds it, in its layer.
    pub(super) fd: &'a OwnedFd,
    /// Name there.
    pub(super) name: &'a OsStr,
    /// Layer that it is seen from.
    pub(super) layer: usize,
    /// Attributes there.
    pub(super) stat: Stat,
}

/// A name in the upper that is free.
pub(super) struct Target<'a> {
    /// Directory.
    pub(super) dir: &'a OwnedFd,
    /// Name in it.
    pub(super) name: &'a Path,
    /// Path below the root.
    pub(super) rel: &'a Path,
}

/// Where the first copy of an inode is, once there is one.
type First = Arc<Mutex<Option<PathBuf>>>;

/// Copies entries of one origin to one upper.
pub(super) struct Files<'a> {
    pub(super) from: &'a Origin,
    pub(super) options: &'a CopyOptions,
    pub(super) upper: Arc<Layer>,
    links: Arc<Links>,
    /// Number of this copy among those of its composer.
    copy: u32,
    /// Inodes of a source layer that have several names.
    inodes: Mutex<HashMap<(usize, u64), First>>,
    /// Layers whose files cannot be linked to the upper.
    unlinkable: Vec<AtomicBool>,
}

impl<'a> Files<'a> {
    pub(super) fn new(to: &Composer, from: &'a Origin, options: &'a CopyOptions) -> Self {
        let upper = Arc::clone(to.upper());
        // A second name in the upper itself would be a hard link in its archive.
        let own = |layer: &Arc<Layer>| AtomicBool::new(layer.path() == upper.path());
        Self {
            from,
            options,
            links: Arc::clone(&to.links),
            copy: to.links.next_copy(),
            inodes: Mutex::default(),
            unlinkable: from.tree.layers().iter().map(own).collect(),
            upper,
        }
    }

    /// Creates the copy.
    pub(super) fn copy(&self, leaf: &Leaf<'_>, target: &Target<'_>) -> Result<()> {
        let attributes = self.options.attributes(&leaf.stat);
        if leaf.stat.kind == Kind::File {
            return self.file(leaf, &attributes, target);
        }
        let (name, dir) = (Path::new(leaf.name), leaf.fd.as_fd());
        if leaf.stat.kind == Kind::Symlink {
            let points_to = layer::read_link(dir, name)?;
            fs::symlinkat(&points_to[..], target.dir, target.name).on("symlink", target.rel)?;
        } else {
            transfer::create_node(target.dir, target.name, &leaf.stat)?;
        }
        let xattrs = layer::xattrs_at(dir, name)?;
        transfer::set_attributes(
            target.dir,
            target.name,
            leaf.stat.kind,
            &attributes,
            &xattrs,
        )
    }

    /// Gives a directory of the upper the metadata of its source.
    pub(super) fn dir_attributes(&self, upper: &OwnedFd, source: &Source) -> Result<()> {
        let xattrs = self.from.tree.layers()[source.layer].xattrs(&source.dir.rel)?;
        let attributes = self.options.attributes(&source.stat);
        transfer::set_attributes(upper, Path::new("."), Kind::Dir, &attributes, &xattrs)
    }

    fn file(&self, leaf: &Leaf<'_>, attributes: &Attributes, target: &Target<'_>) -> Result<()> {
        if self.link(leaf, attributes, target)? {
            return Ok(());
        }
        let copy = || {
            let name = Path::new(leaf.name);
            let from =
                fs::openat(leaf.fd, name, layer::READ, fs::Mode::empty()).on("open", name)?;
            transfer::copy_whole(&from.into(), target.dir, target.name, attributes)
        };
        if leaf.stat.nlink < 2 {
            return copy();
        }
        let first = self.first(leaf);
        let mut first = lock(&first);
        if let Some(first) = &*first
            && transfer::link(&*self.upper, first, target.dir, target.name)? == Linked::Done
        {
            return Ok(());
        }
        copy()?;
        *first = Some(target.rel.to_path_buf());
        Ok(())
    }

    fn first(&self, leaf: &Leaf<'_>) -> First {
        let inode = (leaf.layer, leaf.stat.ino);
        Arc::clone(lock(&self.inodes).entry(inode).or_default())
    }

    /// Links a file that keeps its attributes, if it may be.
    fn link(&self, leaf: &Leaf<'_>, attributes: &Attributes, target: &Target<'_>) -> Result<bool> {
        let unlinkable = &self.unlinkable[leaf.layer];
        let may = self.from.linkable
            && *attributes == Attributes::of(&leaf.stat)
            && !unlinkable.load(Ordering::Relaxed)
            && !is_cron(target.rel);
        if !may
            || !self
                .links
                .claim((leaf.stat.dev, leaf.stat.ino), (self.copy, leaf.layer))
        {
            return Ok(false);
        }
        match transfer::link(leaf.fd, Path::new(leaf.name), target.dir, target.name)? {
            Linked::Done => return Ok(true),
            Linked::Never => unlinkable.store(true, Ordering::Relaxed),
            Linked::NotThis => {}
        }
        Ok(false)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
