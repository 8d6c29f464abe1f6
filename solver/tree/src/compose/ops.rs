//! The file operations of LLB other than copying: making directories, files and links, and removing. Their
//! meaning and their errors are BuildKit's.

use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs;
use rustix::io::Errno;

use super::{Composer, NewDir, Place};
use crate::error::{Context, Error, Result, shown};
use crate::glob::{Glob, split_pattern};
use crate::stack::{Last, MergedDir};
use crate::stat::{Kind, Owner, Time};
use crate::transfer::{self, Attributes};

/// Permission bits that these operations take.
const PLAIN: u32 = 0o777;

impl Composer {
    /// Makes a directory. One that exists is left as it is.
    pub fn mkdir(&mut self, path: &str, parents: bool, attributes: &NewDir) -> Result<()> {
        let attributes = NewDir {
            mode: attributes.mode & PLAIN,
            ..*attributes
        };
        let found = self.view().resolve(Path::new(path), Last::Follow)?;
        if parents {
            return self.make_dirs(&found.rel, &attributes).map(drop);
        }
        if found.entry.is_some() {
            return Ok(());
        }
        let place = self.slot("mkdir", &found.rel)?;
        self.make_dir(&place, &attributes).map(drop)
    }

    /// Writes a file; what is there and no directory is replaced.
    pub fn mkfile(&mut self, path: &str, data: &[u8], attributes: &NewDir) -> Result<()> {
        let found = self.view().resolve(Path::new(path), Last::Follow)?;
        let is_dir = found
            .entry
            .as_ref()
            .is_some_and(|entry| entry.dir.is_some());
        if found.rel.as_os_str().is_empty() || is_dir {
            let op = if is_dir && !found.rel.as_os_str().is_empty() {
                "rename"
            } else {
                "mkfile"
            };
            let errno = if op == "rename" {
                Errno::EXIST
            } else {
                Errno::ISDIR
            };
            return Err(Error::io(op, shown(&found.rel), errno));
        }
        let place = self.slot("open", &found.rel)?;
        self.vacate(&place)?;
        let mut file = transfer::create_file(&**self.upper(), &place.rel)?;
        file.write_all(data).on("write", &place.rel)?;
        self.finish(&place.rel, Kind::File, attributes)
    }

    /// Makes a symbolic link; it is an error if something is there.
    pub fn symlink(
        &mut self,
        target: &str,
        path: &str,
        owner: Owner,
        mtime: Option<Time>,
    ) -> Result<()> {
        let found = self.view().resolve(Path::new(path), Last::Follow)?;
        if found.entry.is_some() {
            return Err(Error::io("symlink", shown(&found.rel), Errno::EXIST));
        }
        let place = self.slot("symlink", &found.rel)?;
        self.vacate(&place)?;
        fs::symlinkat(target, &**self.upper(), &place.rel).on("symlink", &place.rel)?;
        let attributes = NewDir {
            mode: PLAIN,
            owner,
            mtime,
        };
        self.finish(&place.rel, Kind::Symlink, &attributes)
    }

    /// Removes a path, or with `wildcard` everything that it matches.
    pub fn rm(&mut self, path: &str, allow_not_found: bool, wildcard: bool) -> Result<()> {
        let paths = if wildcard {
            matches(self.view(), path, Last::Keep)?
        } else {
            vec![PathBuf::from(path)]
        };
        paths
            .iter()
            .try_for_each(|path| self.rm_one(path, allow_not_found))
    }

    fn rm_one(&mut self, path: &Path, allow_not_found: bool) -> Result<()> {
        let clean = clean(path);
        let Some(name) = clean.file_name() else {
            let why = "the root cannot be removed";
            return Err(Error::Refused {
                op: "rm",
                path: PathBuf::from("/"),
                why,
            });
        };
        let parent = clean.parent().unwrap_or(Path::new(""));
        let parent = self.view().resolve(parent, Last::Follow)?;
        let rel = parent.rel.join(name);
        let missing = || Error::io("stat", shown(&rel), Errno::NOENT);
        let place = match parent.entry.and_then(|entry| entry.dir) {
            Some(dir) => self.place_in(&dir, name)?,
            None if allow_not_found => return Ok(()),
            None => return Err(missing()),
        };
        match &place.entry {
            Some(_) => self.remove(&place),
            None if allow_not_found => Ok(()),
            None => Err(missing()),
        }
    }

    /// The place of a new entry, whose parent must exist.
    fn slot(&self, op: &'static str, rel: &Path) -> Result<Place> {
        self.place(rel).map_err(|error| match error {
            Error::Io { path, cause, .. } => Error::Io { op, path, cause },
            other => other,
        })
    }

    fn finish(&self, rel: &Path, kind: Kind, attributes: &NewDir) -> Result<()> {
        let NewDir { mode, owner, mtime } = *attributes;
        let attributes = Attributes {
            owner,
            mode: mode & PLAIN,
            mtime,
        };
        transfer::set_attributes(&**self.upper(), rel, kind, &attributes, &[])
    }
}

/// A path below the root without `.`, `..` and doubled slashes, taken lexically.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => out.push(name),
            std::path::Component::ParentDir => drop(out.pop()),
            _ => {}
        }
    }
    out
}

/// Paths that a pattern matches, in the order of a walk; links in what stands before the pattern are followed, its
/// last component as `last` says. A matched directory is not searched further.
pub(super) fn matches(tree: &crate::Stack, path: &str, last: Last) -> Result<Vec<PathBuf>> {
    let path = clean(Path::new(path));
    let (literal, pattern) = split_pattern(&path.to_string_lossy());
    if pattern.is_empty() {
        return Ok(vec![PathBuf::from(literal)]);
    }
    let (rel, entry) = tree.find(Path::new(&literal), last)?;
    let mut found = Vec::new();
    if let Some(dir) = entry.dir {
        let search = Search {
            tree,
            base: &rel,
            glob: Glob::new(pattern.as_bytes())?,
        };
        search.dir(&dir, &mut found)?;
    }
    Ok(found)
}

struct Search<'a> {
    tree: &'a crate::Stack,
    base: &'a Path,
    glob: Glob,
}

impl Search<'_> {
    fn dir(&self, dir: &MergedDir, found: &mut Vec<PathBuf>) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        for item in self.tree.list(dir)? {
            let rel = dir.rel.join(&item.name);
            let below = rel.strip_prefix(self.base).unwrap_or(&rel);
            if self.glob.matches(below.as_os_str().as_bytes()) {
                found.push(rel);
            } else if item.kind == Kind::Dir {
                self.dir(&dir.child(&item), found)?;
            }
        }
        Ok(())
    }
}
