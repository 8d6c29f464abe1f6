//! The walk of a copy: directory after directory, each made when something is to go in. Patterns select entries; the
//! directories around a selected one come with it. Metadata of directories is set when they are left.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use shipway_model::op::FileCopy;
use shipway_patterns::{MatchInfo, PatternMatcher};

use super::bulk::{self, Task};
use super::leaf::{Files, Leaf, Target};
use super::{Composer, CopyOptions, NewDir, Origin, Place};
use crate::error::{Context, Error, Result, shown};
use crate::stack::{Entry, Item, MergedDir};
use crate::stat::{Kind, Stat, set_mtime};
use crate::transfer;

/// A directory being copied.
struct Level {
    source: Source,
    /// Opened source directories, by layer.
    open: Vec<(usize, OwnedFd)>,
    dest: Option<MergedDir>,
    rel: PathBuf,
    /// The destination in the upper, once it is there.
    fd: Option<OwnedFd>,
    /// It holds nothing but what this copy puts there.
    fresh: bool,
    matched: Matched,
}

/// A directory of the source.
pub(super) struct Source {
    pub(super) dir: MergedDir,
    pub(super) layer: usize,
    pub(super) stat: Stat,
}

/// What patterns say of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// It is copied.
    Taken,
    /// It is not, but what is below it may be.
    Passed,
    /// Neither it nor anything below.
    Skipped,
}

impl Choice {
    fn passed_if(hope: bool) -> Self {
        if hope { Self::Passed } else { Self::Skipped }
    }
}

/// Which patterns match a directory.
#[derive(Default)]
struct Matched {
    include: MatchInfo,
    exclude: MatchInfo,
}

/// A copy under way.
pub(super) struct Copier<'a> {
    to: &'a mut Composer,
    files: Files<'a>,
    /// Remove what is in the way.
    replace: bool,
    include: Option<PatternMatcher>,
    exclude: Option<PatternMatcher>,
    levels: Vec<Level>,
    /// Directories that are copied as a whole at the end.
    bulk: Vec<Task>,
}

impl<'a> Copier<'a> {
    pub(super) fn new(
        to: &'a mut Composer,
        from: &'a Origin,
        action: &FileCopy,
        options: &'a CopyOptions,
    ) -> Result<Self> {
        let matcher = |patterns: &[String]| match patterns {
            [] => Ok(None),
            _ => PatternMatcher::new(patterns)
                .map(Some)
                .map_err(|e| Error::Pattern(e.to_string())),
        };
        Ok(Self {
            files: Files::new(to, from, options),
            to,
            replace: action.always_replace,
            include: matcher(&action.include_patterns)?,
            exclude: matcher(&action.exclude_patterns)?,
            levels: Vec::new(),
            bulk: Vec::new(),
        })
    }

    /// Copies an entry of the source to a path whose parent exists.
    pub(super) fn top(&mut self, rel: &Path, entry: Entry, target: &Path) -> Result<()> {
        let place = match target.file_name() {
            Some(_) => self.to.place(target)?,
            None => Place {
                parent: self.to.view().root(),
                rel: PathBuf::new(),
                entry: self.to.view().root_entry()?,
            },
        };
        let Entry { layer, stat, dir } = entry;
        if let Some(dir) = dir {
            let source = Source { dir, layer, stat };
            self.directory(source, place, Choice::Taken, Matched::default())?;
            return bulk::run(&self.files, std::mem::take(&mut self.bulk));
        }
        let parent = rel.parent().unwrap_or(Path::new(""));
        let fd = self.files.from.tree.layers()[layer].open_dir(parent)?;
        self.clear_way(&place, false)?;
        self.to.vacate(&place)?;
        let upper = transfer::open_dir(&**self.to.upper(), place.parent.rel.as_path())?;
        let leaf = Leaf {
            fd: &fd,
            name: rel.file_name().unwrap_or_default(),
            layer,
            stat,
        };
        let name = place.rel.file_name().unwrap_or_default();
        self.files.copy(
            &leaf,
            &Target {
                dir: &upper,
                name: Path::new(name),
                rel: &place.rel,
            },
        )
    }

    /// Copies a directory. The outermost one's metadata is only given to a directory that this makes.
    fn directory(
        &mut self,
        source: Source,
        place: Place,
        choice: Choice,
        matched: Matched,
    ) -> Result<()> {
        let outermost = self.levels.is_empty();
        let taken = choice == Choice::Taken;
        if taken {
            self.clear_way(&place, true)?;
        }
        if taken && place.entry.is_none() && self.include.is_none() && self.exclude.is_none() {
            let rel = place.rel.clone();
            self.prepare()?;
            self.to.make_dir(&place, &NewDir::default())?;
            self.bulk.push(Task { source, rel });
            return Ok(());
        }
        let dest = place.entry.and_then(|entry| entry.dir);
        let keeps_metadata = outermost && dest.is_some();
        let (open, rel) = (Vec::new(), place.rel);
        self.levels.push(Level {
            source,
            open,
            dest,
            rel,
            fd: None,
            fresh: false,
            matched,
        });
        if taken {
            self.prepare()?;
        }
        self.children()?;
        let level = self.levels.pop().expect("it was pushed above");
        let Some(fd) = level.fd.filter(|_| taken) else {
            return Ok(());
        };
        if keeps_metadata {
            let mtime = self.files.options.mtime.unwrap_or(level.source.stat.mtime);
            return set_mtime(&fd, Path::new("."), mtime);
        }
        self.files.dir_attributes(&fd, &level.source)
    }

    fn children(&mut self) -> Result<()> {
        let at = self.levels.len() - 1;
        let source = self.levels[at].source.dir.clone();
        for item in self.files.from.tree.list(&source)? {
            let (choice, matched) = self.choose(at, &item);
            let is_dir = item.kind == Kind::Dir;
            if choice == Choice::Taken || (choice == Choice::Passed && is_dir) {
                self.child(at, &source, &item, (choice, matched))?;
            }
        }
        Ok(())
    }

    fn child(
        &mut self,
        at: usize,
        source: &MergedDir,
        item: &Item,
        (choice, matched): (Choice, Matched),
    ) -> Result<()> {
        let (layer, name) = (item.layer, Path::new(&item.name));
        let stat =
            Stat::at(self.source_fd(at, layer)?, name).on("lstat", &source.rel.join(name))?;
        if item.kind == Kind::Dir {
            let place = self.place(at, &item.name)?;
            let source = Source {
                dir: source.child(item),
                layer,
                stat,
            };
            return self.directory(source, place, choice, matched);
        }
        if !self.levels[at].fresh {
            let place = self.place(at, &item.name)?;
            self.clear_way(&place, false)?;
            self.prepare()?;
            if !self.levels[at].fresh {
                self.to.vacate(&place)?;
            }
        }
        let level = &mut self.levels[at];
        let rel = level.rel.join(name);
        let upper = level.fd.take().expect("prepare opens every level");
        let open = std::mem::take(&mut level.open);
        let fd = &open
            .iter()
            .find(|(of, _)| *of == layer)
            .expect("it was opened above")
            .1;
        let leaf = Leaf {
            fd,
            name: &item.name,
            layer,
            stat,
        };
        let done = self.files.copy(
            &leaf,
            &Target {
                dir: &upper,
                name,
                rel: &rel,
            },
        );
        let level = &mut self.levels[at];
        (level.fd, level.open) = (Some(upper), open);
        done
    }

    fn source_fd(&mut self, at: usize, layer: usize) -> Result<&OwnedFd> {
        let level = &mut self.levels[at];
        let known = level.open.iter().position(|(of, _)| *of == layer);
        let index = if let Some(index) = known {
            index
        } else {
            let fd = self.files.from.tree.layers()[layer].open_dir(&level.source.dir.rel)?;
            level.open.push((layer, fd));
            level.open.len() - 1
        };
        Ok(&level.open[index].1)
    }

    fn place(&self, at: usize, name: &OsStr) -> Result<Place> {
        let level = &self.levels[at];
        if let Some(dest) = level.dest.as_ref().filter(|_| !level.fresh) {
            return self.to.place_in(dest, name);
        }
        let parent = MergedDir {
            rel: level.rel.clone(),
            layers: vec![self.to.top],
        };
        Ok(Place {
            parent,
            rel: level.rel.join(name),
            entry: None,
        })
    }

    /// Refuses, or with `replace` removes, what is in the way of an entry.
    fn clear_way(&mut self, place: &Place, is_dir: bool) -> Result<()> {
        let Some(there) = place.entry.as_ref().map(|entry| entry.stat) else {
            return Ok(());
        };
        match (is_dir, there.is_dir()) {
            (true, true) => Ok(()),
            _ if self.replace => self.to.vacate(place).map(drop),
            (true, false) => Err(Error::NotADirectory(shown(&place.rel))),
            (false, true) => Err(Error::IsADirectory(shown(&place.rel))),
            (false, false) => Ok(()),
        }
    }

    /// Makes the destinations of all levels that are not there yet.
    fn prepare(&mut self) -> Result<()> {
        let first = self.levels.iter().position(|level| level.fd.is_none());
        for at in first.unwrap_or(self.levels.len())..self.levels.len() {
            let (dest, fresh) = match &self.levels[at].dest {
                Some(dest) => (self.to.copy_up_dir(dest)?, false),
                None => (self.make(at)?, true),
            };
            let level = &self.levels[at];
            let fd = transfer::open_dir(&**self.to.upper(), &level.rel)?;
            if fresh && at + 1 < self.levels.len() {
                self.files.dir_attributes(&fd, &level.source)?;
            }
            let level = &mut self.levels[at];
            (level.dest, level.fresh, level.fd) = (Some(dest), fresh, Some(fd));
        }
        Ok(())
    }

    fn make(&mut self, at: usize) -> Result<MergedDir> {
        let rel = &self.levels[at].rel;
        let above = at
            .checked_sub(1)
            .and_then(|above| self.levels[above].dest.clone());
        let place = match above {
            Some(parent) => Place {
                parent,
                rel: rel.clone(),
                entry: None,
            },
            None => self.to.place(rel)?,
        };
        self.to.make_dir(&place, &NewDir::default())
    }

    fn choose(&self, at: usize, item: &Item) -> (Choice, Matched) {
        let mut matched = Matched::default();
        if self.include.is_none() && self.exclude.is_none() {
            return (Choice::Taken, matched);
        }
        let level = &self.levels[at];
        let path = level.source.dir.rel.join(&item.name);
        let below = path
            .strip_prefix(&self.levels[0].source.dir.rel)
            .unwrap_or(&path);
        let path = below.to_string_lossy();
        let (mut choice, around) = (Choice::Taken, &level.matched);
        if let Some(include) = &self.include {
            let (hit, info) = include.enter(&path, &around.include);
            matched.include = info;
            if !hit {
                choice = Choice::passed_if(include.may_match_below(&path));
            }
        }
        if let Some(exclude) = &self.exclude {
            let (hit, info) = exclude.enter(&path, &around.exclude);
            matched.exclude = info;
            if hit {
                let hope = choice != Choice::Skipped && exclude.has_exceptions();
                choice = Choice::passed_if(hope);
            }
        }
        (choice, matched)
    }
}
