//! What an overlay upper directory changes against the layers below it, in the order of a layer archive:
//! directories before what they hold, names bytewise, a removal where the removed name stands. An opaque directory
//! is compared with the one that it hides, so that archives hold no opaque marks. The upper is not interpreted
//! further; nothing is written.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result, shown};
use crate::layer::{Layer, RawEntry};
use crate::stack::{Entry, MergedDir, Stack};
use crate::stat::{Kind, Stat};

/// The extended attribute that layers carry.
pub const CAPABILITY: &str = "security.capability";

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing has this path any more.
    Removed(PathBuf),
    /// The entry is new or differs. A directory is also reported when only something in it does.
    Present {
        /// Path below the root.
        path: PathBuf,
        /// Attributes.
        stat: Stat,
        /// An earlier path of the same change list that is the same inode.
        same_as: Option<PathBuf>,
    },
}

/// Reports every change that `upper` makes to `lower`, in order. Sockets are left out.
pub fn changes(
    upper: &Layer,
    lower: &Stack,
    report: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    let mut differ = Differ {
        upper,
        lower,
        report,
        parents: Vec::new(),
        names: HashMap::new(),
        unchanged: HashMap::new(),
    };
    let root = lower.root();
    let below = (!root.layers.is_empty()).then_some(root);
    let hides = upper.is_opaque(Path::new(""))?;
    differ.dir(Path::new(""), below.as_ref(), hides)
}

struct Differ<'a> {
    upper: &'a Layer,
    lower: &'a Stack,
    report: &'a mut dyn FnMut(Change) -> Result<()>,
    /// Directories from the root to here, and whether each has been reported.
    parents: Vec<(PathBuf, Stat, bool)>,
    /// First path of each inode with several names.
    names: HashMap<u64, PathBuf>,
    /// Unchanged names of such inodes below opaque directories, in case another name of theirs is reported.
    unchanged: HashMap<u64, Vec<(PathBuf, Stat)>>,
}

/// A name of the upper directory, of the lower one, or of both.
enum Pair {
    Upper(RawEntry),
    Lower(OsString),
}

impl Differ<'_> {
    /// Walks a directory; `below` is what lower layers have under the same path, which `hides` says is not merged.
    fn dir(&mut self, rel: &Path, below: Option<&MergedDir>, hides: bool) -> Result<()> {
        for pair in self.pairs(rel, below, hides)? {
            match pair {
                Pair::Lower(name) => self.removed(rel.join(name))?,
                Pair::Upper(entry) => {
                    let path = rel.join(&entry.name);
                    let was = match below {
                        Some(below) => self.lower.lookup(below, &entry.name)?,
                        None => None,
                    };
                    self.entry(path, was.as_ref(), hides)?;
                }
            }
        }
        Ok(())
    }

    /// The names to look at, sorted; the lower directory's only where the upper one hides it.
    fn pairs(&self, rel: &Path, below: Option<&MergedDir>, hides: bool) -> Result<Vec<Pair>> {
        let mut upper = self.upper.entries(rel)?;
        upper.sort_by(|a, b| a.name.cmp(&b.name));
        let Some(below) = below.filter(|_| hides) else {
            return Ok(upper.into_iter().map(Pair::Upper).collect());
        };
        let mut lower = self
            .lower
            .list(below)?
            .into_iter()
            .map(|item| item.name)
            .peekable();
        let mut pairs = Vec::new();
        for entry in upper {
            while let Some(name) = lower.next_if(|name| name.as_os_str() < entry.name.as_os_str()) {
                pairs.push(Pair::Lower(name));
            }
            lower.next_if(|name| *name == entry.name);
            pairs.push(Pair::Upper(entry));
        }
        pairs.extend(lower.map(Pair::Lower));
        Ok(pairs)
    }

    fn entry(&mut self, path: PathBuf, was: Option<&Entry>, hides: bool) -> Result<()> {
        let Some(stat) = self.upper.stat(&path)? else {
            return Err(Error::io("lstat", shown(&path), rustix::io::Errno::NOENT));
        };
        if stat.is_whiteout() {
            return if was.is_some() {
                self.removed(path)
            } else {
                Ok(())
            };
        }
        let changed = match was {
            None => true,
            Some(was) => !self.same(&path, &stat, was)?,
        };
        if !stat.is_dir() {
            return if changed {
                self.present(&path, stat)
            } else {
                self.same_inode_elsewhere(&path, stat, hides)
            };
        }
        if changed {
            self.report_parents()?;
            (self.report)(Change::Present {
                path: path.clone(),
                stat,
                same_as: None,
            })?;
        }
        let below = was.and_then(|was| was.dir.as_ref());
        let hides = hides || (below.is_some() && self.upper.is_opaque(&path)?);
        self.parents.push((path.clone(), stat, changed));
        self.dir(&path, below, hides)?;
        self.parents.pop();
        Ok(())
    }

    /// Reports the directories around the current entry that have not been, the outermost first.
    fn report_parents(&mut self) -> Result<()> {
        for (path, stat, reported) in &mut self.parents {
            if !*reported {
                *reported = true;
                let (path, stat) = (path.clone(), *stat);
                (self.report)(Change::Present {
                    path,
                    stat,
                    same_as: None,
                })?;
            }
        }
        Ok(())
    }

    fn removed(&mut self, path: PathBuf) -> Result<()> {
        self.report_parents()?;
        (self.report)(Change::Removed(path))
    }

    /// Reports a changed entry that is no directory, and names of the same inode that were held back.
    fn present(&mut self, path: &Path, stat: Stat) -> Result<()> {
        if stat.kind == Kind::Socket {
            return Ok(());
        }
        self.report_parents()?;
        let linked = stat.nlink > 1;
        let same_as = self.names.get(&stat.ino).filter(|_| linked).cloned();
        let first = same_as.is_none();
        if linked && first {
            self.names.insert(stat.ino, path.to_path_buf());
        }
        let change = Change::Present {
            path: path.to_path_buf(),
            stat,
            same_as,
        };
        (self.report)(change)?;
        let held = if first {
            self.unchanged.remove(&stat.ino)
        } else {
            None
        };
        for (other, stat) in held.into_iter().flatten() {
            let same_as = Some(path.to_path_buf());
            (self.report)(Change::Present {
                path: other,
                stat,
                same_as,
            })?;
        }
        Ok(())
    }

    /// An unchanged file below an opaque directory is still reported if it shares its inode with a changed one.
    fn same_inode_elsewhere(&mut self, path: &Path, stat: Stat, hides: bool) -> Result<()> {
        if !hides || stat.nlink < 2 || stat.kind == Kind::Socket {
            return Ok(());
        }
        let path = path.to_path_buf();
        if self.names.contains_key(&stat.ino) {
            return self.present(&path, stat);
        }
        self.unchanged
            .entry(stat.ino)
            .or_default()
            .push((path, stat));
        Ok(())
    }

    /// Whether an entry is as it was. Directories are compared without time and size.
    fn same(&self, path: &Path, stat: &Stat, was: &Entry) -> Result<bool> {
        let old = &was.stat;
        if (old.dev, old.ino) == (stat.dev, stat.ino) {
            return Ok(true);
        }
        let attributes = |stat: &Stat| (stat.kind, stat.mode, stat.uid, stat.gid, stat.rdev);
        if attributes(old) != attributes(stat) {
            return Ok(false);
        }
        let lower = &self.lower.layers()[was.layer];
        if self.upper.xattr(path, CAPABILITY)? != lower.xattr(path, CAPABILITY)? {
            return Ok(false);
        }
        if stat.is_dir() {
            return Ok(true);
        }
        if stat.size != old.size || stat.mtime != old.mtime {
            return Ok(false);
        }
        // Times that are whole seconds may have been cut by an archive, so they prove nothing.
        match (stat.mtime.nsec, stat.kind) {
            (0, Kind::Symlink) => Ok(self.upper.read_link(path)? == lower.read_link(path)?),
            (0, Kind::File) if stat.size > 0 => same_contents(self.upper, lower, path),
            _ => Ok(true),
        }
    }
}

/// Compares two files byte by byte.
fn same_contents(a: &Layer, b: &Layer, path: &Path) -> Result<bool> {
    let (mut a, mut b) = (a.open_file(path)?, b.open_file(path)?);
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let got = fill(&mut a, &mut left).on("read", path)?;
        let other = fill(&mut b, &mut right).on("read", path)?;
        if left[..got].cmp(&right[..other]) != Ordering::Equal {
            return Ok(false);
        }
        if got == 0 {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            got => filled += got,
        }
    }
    Ok(filled)
}

/// The name of the archive entry that marks a removal.
#[must_use]
pub fn whiteout_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(".wh.");
    name.push(path.file_name().unwrap_or(OsStr::new("")));
    path.with_file_name(name)
}
