//! Copies files from another tree into an upper directory, with the rules of BuildKit's `COPY`: what becomes of
//! destinations that exist, of owners, modes and times. Here: what is copied and where it goes; `levels` walks it.
//! It never looks at a file's contents.

use std::path::{Path, PathBuf};

use shipway_model::op::FileCopy;

use super::levels::Copier;
use super::ops::{clean, matches};
use super::{Composer, NewDir};
use crate::chmod;
use crate::error::{Error, Result, shown};
use crate::stack::{Entry, Last, Stack};
use crate::stat::{Kind, Owner, Stat, Time, set_mtime};
use crate::transfer::Attributes;

/// Where files come from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The tree.
    pub tree: Stack,
    /// Its files never change and the destination's never will (a cache mount's do), so that they may be linked.
    pub linkable: bool,
}

/// What a copy changes of each entry.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// New owner.
    pub owner: Option<Owner>,
    /// New time.
    pub mtime: Option<Time>,
    mode: Option<u32>,
    change: Option<chmod::Change>,
}

impl CopyOptions {
    /// Those of an action, with its owner as numbers.
    pub fn new(action: &FileCopy, owner: Option<Owner>) -> Result<Self> {
        let change = match action.mode_str.as_str() {
            "" => None,
            text => Some(chmod::Change::parse(text)?),
        };
        let mode = u32::try_from(action.mode).ok().filter(|_| change.is_none());
        let mtime = (action.timestamp != -1).then(|| Time::from_nanos(action.timestamp));
        Ok(Self {
            owner,
            mtime,
            mode: mode.map(|mode| mode & 0o7777),
            change,
        })
    }

    /// Attributes of directories that are made to hold the copy.
    pub(super) fn new_dir(&self) -> NewDir {
        let owner = self.owner.unwrap_or_default();
        NewDir {
            mode: self.mode.unwrap_or(0o755),
            owner,
            mtime: self.mtime,
        }
    }

    pub(super) fn attributes(&self, stat: &Stat) -> Attributes {
        let kept = Attributes::of(stat);
        let mode = match (&self.change, self.mode) {
            _ if stat.kind == Kind::Symlink => kept.mode,
            (Some(change), _) => change.apply(stat.mode, stat.is_dir()),
            (None, mode) => mode.unwrap_or(kept.mode),
        };
        Attributes {
            owner: self.owner.unwrap_or(kept.owner),
            mode,
            mtime: self.mtime.or(kept.mtime),
        }
    }
}

impl Composer {
    /// Copies what `action` names from `origin`; `owner` is the action's owner as numbers.
    pub fn copy(&mut self, origin: &Origin, action: &FileCopy, owner: Option<Owner>) -> Result<()> {
        let options = CopyOptions::new(action, owner)?;
        if !action.create_dest_path {
            let found = self.view().resolve(Path::new(&action.dest), Last::Follow)?;
            self.view()
                .find(found.rel.parent().unwrap_or(Path::new("")), Last::Keep)?;
        }
        let last = if action.follow_symlink {
            Last::Follow
        } else {
            Last::Keep
        };
        let sources = if action.allow_wildcard {
            matches(&origin.tree, &action.src, last)?
        } else {
            vec![PathBuf::from(&action.src)]
        };
        if sources.is_empty() && !action.allow_empty_wildcard {
            let source = shown(&clean(Path::new(&action.src)));
            return Err(Error::NoMatch(source.display().to_string()));
        }
        for source in sources {
            if action.attempt_unpack && self.unpack(origin, &source, &action.dest, &options)? {
                continue;
            }
            self.copy_one(origin, &source, action, &options)?;
        }
        Ok(())
    }

    fn copy_one(
        &mut self,
        origin: &Origin,
        source: &Path,
        action: &FileCopy,
        options: &CopyOptions,
    ) -> Result<()> {
        let dest = Path::new(&action.dest);
        let holder = if ends_in_slash(&action.dest) || dest.file_name().is_none() {
            dest
        } else {
            dest.parent().unwrap_or(Path::new("/"))
        };
        let holder = self.view().resolve(holder, Last::Follow)?.rel;
        let (_, mut made) = self.make_dirs(&holder, &options.new_dir())?;
        let last = if action.follow_symlink {
            Last::Follow
        } else {
            Last::Keep
        };
        let (rel, entry) = origin.tree.find(source, last)?;
        let (target, holder) = self.target(dest, source, &entry, action.dir_copy_contents)?;
        made.extend(self.make_dirs(&holder, &options.new_dir())?.1);
        Copier::new(self, origin, action, options)?.top(&rel, entry, &target)?;
        if let Some(mtime) = options.mtime {
            for dir in made.iter().rev() {
                set_mtime(&**self.upper(), dir, mtime)?;
            }
        }
        Ok(())
    }

    /// Where the source goes, and the directory that must be there before.
    fn target(
        &self,
        dest: &Path,
        source: &Path,
        entry: &Entry,
        contents: bool,
    ) -> Result<(PathBuf, PathBuf)> {
        let found = self.view().resolve(&shown(&clean(dest)), Last::Follow)?;
        let is_dir = entry.stat.is_dir();
        let inside = match &found.entry {
            None => false,
            Some(_) if is_dir => !contents,
            Some(there) => there.stat.is_dir(),
        };
        let mut target = found.rel;
        if inside && !source.to_string_lossy().ends_with("/.") {
            target.extend(source.file_name());
        }
        let itself = contents && is_dir && found.entry.is_none();
        let holder = if itself {
            &target
        } else {
            target.parent().unwrap_or(Path::new(""))
        };
        let holder = holder.to_path_buf();
        Ok((target, holder))
    }
}

/// Whether a path as written says that it is a directory.
fn ends_in_slash(path: &str) -> bool {
    path.ends_with('/') || path.ends_with("/.")
}
