//! Changes an overlay upper directory as if it were mounted over its lower layers, without mounting it: directories
//! that exist below are copied up with their attributes, removals become whiteouts, a directory that replaces
//! something hides it. The result is what the same operations through a mount would leave. Nobody else may use the
//! upper meanwhile, and the lower layers never change. An inode with several names is never changed in place.

mod bulk;
mod copy;
mod leaf;
mod levels;
mod links;
mod ops;
mod unpack;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, Mode, XattrFlags};
use rustix::io::Errno;

pub use copy::{CopyOptions, Origin};
use links::Links;
pub(crate) use ops::clean;

use crate::error::{Context, Error, Result, shown};
use crate::layer::{self, Layer, OPAQUE};
use crate::stack::{Entry, Last, MergedDir, Stack};
use crate::stat::{Kind, Owner, Stat, Time, set_mtime};
use crate::transfer::{self, Attributes};

/// Attributes of directories that nobody asked for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewDir {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub owner: Owner,
    /// Time; `None` is now.
    pub mtime: Option<Time>,
}

impl Default for NewDir {
    fn default() -> Self {
        Self {
            mode: 0o755,
            owner: Owner::default(),
            mtime: None,
        }
    }
}

/// An upper directory under change.
#[derive(Debug)]
pub struct Composer {
    /// Lower layers and, on top, the upper.
    stack: Stack,
    upper: Arc<Layer>,
    top: usize,
    /// Directories known to exist in the upper.
    ready: HashSet<PathBuf>,
    /// Inodes of other layers that have a name in the upper already.
    links: Arc<Links>,
}

/// A name in the merged view, with what is there now.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) parent: MergedDir,
    pub(crate) rel: PathBuf,
    pub(crate) entry: Option<Entry>,
}

impl Composer {
    /// Takes the upper directory at `path` over `lower`. An upper that is still empty gets the root's attributes.
    pub fn open(path: impl Into<PathBuf>, lower: &Stack) -> Result<Self> {
        let upper = Arc::new(Layer::open(path)?);
        let root = Path::new("");
        if let Some(entry) = lower.root_entry()?
            && upper.entries(root)?.is_empty()
        {
            let from = &lower.layers()[entry.layer];
            let attributes = Attributes::of(&entry.stat);
            let xattrs = from.xattrs(root)?;
            let dot = Path::new(".");
            transfer::set_attributes(&*upper, dot, Kind::Dir, &attributes, &xattrs)?;
        }
        let stack = lower.with(Arc::clone(&upper));
        Ok(Self {
            top: stack.layers().len() - 1,
            stack,
            upper,
            ready: HashSet::from([PathBuf::new()]),
            links: Arc::default(),
        })
    }

    /// The merged view as it is now.
    #[must_use]
    pub fn view(&self) -> &Stack {
        &self.stack
    }

    /// The upper directory.
    #[must_use]
    pub fn upper(&self) -> &Arc<Layer> {
        &self.upper
    }

    /// The place that a clean path without links names; its parent must be a directory.
    fn place(&self, rel: &Path) -> Result<Place> {
        let parent = rel.parent().unwrap_or(Path::new(""));
        let found = self.stack.resolve(parent, Last::Keep)?.entry;
        let Some(parent) = found.as_ref().and_then(|entry| entry.dir.clone()) else {
            let errno = if found.is_some() {
                Errno::NOTDIR
            } else {
                Errno::NOENT
            };
            return Err(Error::io("lstat", shown(rel), errno));
        };
        self.place_in(&parent, rel.file_name().unwrap_or_default())
    }

    pub(crate) fn place_in(&self, parent: &MergedDir, name: &OsStr) -> Result<Place> {
        let entry = self.stack.lookup(parent, name)?;
        Ok(Place {
            parent: parent.clone(),
            rel: parent.rel.join(name),
            entry,
        })
    }

    /// Makes sure that a directory of the merged view exists in the upper, and gives what it merges then.
    pub(crate) fn copy_up_dir(&mut self, dir: &MergedDir) -> Result<MergedDir> {
        if !dir.layers.contains(&self.top) && !self.ready.contains(&dir.rel) {
            if let Some(parent) = dir.rel.parent() {
                self.copy_up_path(parent)?;
            }
            self.copy_up_one(dir)?;
        }
        self.ready.insert(dir.rel.clone());
        let mut dir = dir.clone();
        if !dir.layers.contains(&self.top) {
            dir.layers.insert(0, self.top);
        }
        Ok(dir)
    }

    /// The same for a path whose components are all directories.
    fn copy_up_path(&mut self, rel: &Path) -> Result<()> {
        if self.ready.contains(rel) {
            return Ok(());
        }
        let entry = self.stack.resolve(rel, Last::Keep)?.entry;
        match entry.and_then(|entry| entry.dir) {
            Some(dir) => self.copy_up_dir(&dir).map(drop),
            None => Err(Error::io("open", shown(rel), Errno::NOTDIR)),
        }
    }

    fn copy_up_one(&self, dir: &MergedDir) -> Result<()> {
        let layer = dir.layers.first().copied().unwrap_or(self.top);
        let from = &self.stack.layers()[layer];
        let Some(stat) = from.stat(&dir.rel)? else {
            return Err(Error::io("lstat", shown(&dir.rel), Errno::NOENT));
        };
        let xattrs = from.xattrs(&dir.rel)?;
        self.keeping_time_of_parent(&dir.rel, || {
            self.new_dir(&dir.rel)?;
            transfer::set_attributes(
                &*self.upper,
                &dir.rel,
                Kind::Dir,
                &Attributes::of(&stat),
                &xattrs,
            )
        })
    }

    /// Makes sure that an entry that is no directory is in the upper.
    pub(crate) fn copy_up_leaf(&mut self, place: &Place) -> Result<()> {
        let Some(entry) = place.entry.as_ref().filter(|entry| entry.layer != self.top) else {
            return Ok(());
        };
        self.copy_up_dir(&place.parent)?;
        let (from, rel) = (&self.stack.layers()[entry.layer], &place.rel);
        let xattrs = from.xattrs(rel)?;
        self.keeping_time_of_parent(rel, || {
            match entry.stat.kind {
                Kind::File => drop(transfer::copy_file(
                    &from.open_file(rel)?,
                    &*self.upper,
                    rel,
                )?),
                Kind::Symlink => {
                    let target = from.read_link(rel)?;
                    fs::symlinkat(&target[..], &*self.upper, rel).on("symlink", rel)?;
                }
                _ => transfer::create_node(&*self.upper, rel, &entry.stat)?,
            }
            let attributes = Attributes::of(&entry.stat);
            transfer::set_attributes(&*self.upper, rel, entry.stat.kind, &attributes, &xattrs)
        })
    }

    /// Makes a directory hide what lower layers have in it.
    pub(crate) fn make_opaque(&mut self, dir: &MergedDir) -> Result<()> {
        self.copy_up_dir(dir)?;
        let path = layer::proc_path(self.upper.as_fd(), &dir.rel);
        fs::lsetxattr(&path, OPAQUE, b"y", XattrFlags::empty()).on("setxattr", &dir.rel)
    }

    /// Runs something that changes the directory of `rel` in the upper but not in the merged view.
    fn keeping_time_of_parent<T>(&self, rel: &Path, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let parent = rel.parent().unwrap_or(Path::new(""));
        let before = self.upper.stat(parent)?;
        let done = run()?;
        if let Some(before) = before {
            set_mtime(&*self.upper, layer::dot(parent), before.mtime)?;
        }
        Ok(done)
    }

    fn new_dir(&self, rel: &Path) -> Result<()> {
        fs::mkdirat(&*self.upper, rel, Mode::from_raw_mode(0o700)).on("mkdir", rel)
    }

    /// Frees a name for something new. What the upper has there goes; what lower layers have stays hidden by the
    /// new entry. Gives whether a directory put there must be opaque.
    pub(crate) fn vacate(&mut self, place: &Place) -> Result<bool> {
        if !place.parent.layers.contains(&self.top) {
            self.copy_up_dir(&place.parent)?;
        }
        if let Some(stat) = self.upper.stat(&place.rel)? {
            self.forget(&place.rel, &stat);
            transfer::remove_all(&*self.upper, &place.rel)?;
        }
        self.is_below(place)
    }

    fn forget(&mut self, rel: &Path, stat: &Stat) {
        if stat.is_dir() {
            self.ready.retain(|ready| !ready.starts_with(rel));
        }
    }

    /// Whether lower layers show something under that name.
    fn is_below(&self, place: &Place) -> Result<bool> {
        let mut lower = place.parent.clone();
        lower.layers.retain(|layer| *layer != self.top);
        if lower.layers.is_empty() {
            return Ok(false);
        }
        Ok(self
            .stack
            .lookup(&lower, place.rel.file_name().unwrap_or_default())?
            .is_some())
    }

    /// Removes an entry with everything below it.
    pub(crate) fn remove(&mut self, place: &Place) -> Result<()> {
        if self.vacate(place)? {
            let (upper, rel) = (&*self.upper, &place.rel);
            let mode = Mode::from_raw_mode(0);
            fs::mknodat(upper, rel, fs::FileType::CharacterDevice, mode, 0).on("whiteout", rel)?;
        }
        Ok(())
    }

    /// Makes a directory at a place where the merged view has nothing.
    pub(crate) fn make_dir(&mut self, place: &Place, attributes: &NewDir) -> Result<MergedDir> {
        let hide = self.vacate(place)?;
        self.new_dir(&place.rel)?;
        let dir = MergedDir {
            rel: place.rel.clone(),
            layers: vec![self.top],
        };
        if hide {
            self.make_opaque(&dir)?;
        }
        let NewDir { mode, owner, mtime } = *attributes;
        let attributes = Attributes { owner, mode, mtime };
        transfer::set_attributes(&*self.upper, &place.rel, Kind::Dir, &attributes, &[])?;
        self.ready.insert(place.rel.clone());
        Ok(dir)
    }

    /// Makes a directory and what is missing above it; gives it and those that were made, the outermost first.
    pub(crate) fn make_dirs(
        &mut self,
        rel: &Path,
        attributes: &NewDir,
    ) -> Result<(MergedDir, Vec<PathBuf>)> {
        if let Some(entry) = self.stack.resolve(rel, Last::Keep)?.entry {
            return match entry.dir {
                Some(dir) => Ok((dir, Vec::new())),
                None => Err(Error::io("mkdir", shown(rel), Errno::NOTDIR)),
            };
        }
        let (parent, mut made) = match rel.parent() {
            Some(parent) => self.make_dirs(parent, attributes)?,
            None => (self.stack.root(), Vec::new()),
        };
        let place = self.place_in(&parent, rel.file_name().unwrap_or_default())?;
        let dir = self.make_dir(&place, attributes)?;
        made.push(rel.to_path_buf());
        Ok((dir, made))
    }
}

#[cfg(test)]
mod tests;
