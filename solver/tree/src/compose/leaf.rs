//! Copies one entry that is no directory: by a hard link if it keeps all its attributes and that is safe, else
//! anew. Names of one inode within a source layer stay names of one inode.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs;

use super::levels::Copier;
use crate::error::{Context, Result};
use crate::fill::is_cron;
use crate::layer;
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

impl Copier<'_> {
    /// Creates the copy.
    pub(super) fn leaf(&mut self, leaf: &Leaf<'_>, target: &Target<'_>) -> Result<()> {
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

    fn file(
        &mut self,
        leaf: &Leaf<'_>,
        attributes: &Attributes,
        target: &Target<'_>,
    ) -> Result<()> {
        if leaf.stat.nlink > 1 {
            let inode = (leaf.layer, leaf.stat.ino);
            if let Some(first) = self.inodes.get(&inode) {
                return self.second_name(first, target);
            }
            self.inodes.insert(inode, target.rel.to_path_buf());
        }
        if self.link(leaf, attributes, target)? {
            return Ok(());
        }
        let name = Path::new(leaf.name);
        let from = fs::openat(leaf.fd, name, layer::READ, fs::Mode::empty()).on("open", name)?;
        transfer::copy_whole(&from.into(), target.dir, target.name, attributes)
    }

    fn second_name(&self, first: &Path, target: &Target<'_>) -> Result<()> {
        let upper = self.to.upper();
        if transfer::link(&**upper, first, target.dir, target.name)? == Linked::Done {
            return Ok(());
        }
        let from = upper.open_file(first)?;
        let stat = Stat::from(&fs::fstat(&from).on("stat", first)?);
        transfer::copy_whole(&from, target.dir, target.name, &Attributes::of(&stat))
    }

    /// Links a file that keeps its attributes, if it may be.
    fn link(
        &mut self,
        leaf: &Leaf<'_>,
        attributes: &Attributes,
        target: &Target<'_>,
    ) -> Result<bool> {
        // A second name in the same layer would be a hard link in its archive.
        let inode = (leaf.stat.dev, leaf.stat.ino);
        let may = self.from.linkable
            && *attributes == Attributes::of(&leaf.stat)
            && !self.unlinkable.contains(&leaf.layer)
            && !self.to.linked.contains(&inode)
            && !is_cron(target.rel);
        if !may {
            return Ok(false);
        }
        match transfer::link(leaf.fd, Path::new(leaf.name), target.dir, target.name)? {
            Linked::Done => {
                self.to.linked.insert(inode);
                return Ok(true);
            }
            Linked::Never => self.unlinkable.push(leaf.layer),
            Linked::NotThis => {}
        }
        Ok(false)
    }
}
