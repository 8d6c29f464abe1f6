//! Copies files from another tree into an upper directory, with the rules of BuildKit's `COPY`: what becomes of
//! destinations that exist, of links, owners, modes and times, which entries patterns select. A file that keeps all
//! its attributes is hard-linked where that is safe. It never looks at a file's contents.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs;
use shipway_model::op::FileCopy;
use shipway_patterns::{MatchInfo, PatternMatcher};

use super::ops::{clean, matches};
use super::{Composer, NewDir, Place};
use crate::chmod;
use crate::error::{Context, Error, Result, shown};
use crate::fill::is_cron;
use crate::layer;
use crate::stack::{Entry, Item, Last, MergedDir, Stack};
use crate::stat::{Kind, Owner, Stat, Time, set_mtime};
use crate::transfer::{self, Attributes, Linked};

/// Where files come from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The tree.
    pub tree: Stack,
    /// Its files never change, so that they may get further names.
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

    fn attributes(&self, stat: &Stat) -> Attributes {
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
        let sources = match action.allow_wildcard {
            true => matches(&origin.tree, &action.src, last)?,
            false => vec![PathBuf::from(&action.src)],
        };
        if sources.is_empty() && !action.allow_empty_wildcard {
            return Err(Error::NoMatch(
                shown(&clean(Path::new(&action.src))).display().to_string(),
            ));
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
        let holder = match ends_in_slash(&action.dest) || dest.file_name().is_none() {
            true => dest,
            false => dest.parent().unwrap_or(Path::new("/")),
        };
        let holder = self.view().resolve(holder, Last::Follow)?.rel;
        let (_, mut made) = self.make_dirs(&holder, &options.new_dir())?;
        let mut copier = Copier::new(self, origin, action, options)?;
        let last = if action.follow_symlink {
            Last::Follow
        } else {
            Last::Keep
        };
        let (rel, entry) = origin.tree.find(source, last)?;
        let (target, more) = copier.target(dest, source, &entry)?;
        made.extend(more);
        copier.top(&rel, entry, &target)?;
        if let Some(mtime) = options.mtime {
            for dir in made.iter().rev() {
                set_mtime(&**self.upper(), dir, mtime)?;
            }
        }
        Ok(())
    }
}

/// Whether a path as written says that it is a directory.
fn ends_in_slash(path: &str) -> bool {
    path.ends_with('/') || path.ends_with("/.")
}

/// A directory being copied.
struct Level {
    source: MergedDir,
    layer: usize,
    stat: Stat,
    /// Opened source directories, by layer.
    open: Vec<(usize, OwnedFd)>,
    dest: Option<MergedDir>,
    rel: PathBuf,
    /// The destination in the upper, once it is there.
    fd: Option<OwnedFd>,
    /// It holds nothing but what this copy puts there.
    fresh: bool,
    include: MatchInfo,
    exclude: MatchInfo,
}

/// What patterns say of an entry.
struct Selected {
    included: bool,
    excluded: bool,
    include: MatchInfo,
    exclude: MatchInfo,
}

struct Copier<'a> {
    to: &'a mut Composer,
    from: &'a Origin,
    options: &'a CopyOptions,
    contents: bool,
    replace: bool,
    include: Option<PatternMatcher>,
    exclude: Option<PatternMatcher>,
    levels: Vec<Level>,
    /// Where an inode of a source layer with several names has been copied to.
    inodes: HashMap<(usize, u64), PathBuf>,
    /// Layers whose files cannot be linked to the upper.
    unlinkable: Vec<usize>,
}

impl<'a> Copier<'a> {
    fn new(
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
            to,
            from,
            options,
            contents: action.dir_copy_contents,
            replace: action.always_replace,
            include: matcher(&action.include_patterns)?,
            exclude: matcher(&action.exclude_patterns)?,
            levels: Vec::new(),
            inodes: HashMap::new(),
            unlinkable: Vec::new(),
        })
    }

    /// Where the source goes, its parent made if needed.
    fn target(
        &mut self,
        dest: &Path,
        source: &Path,
        entry: &Entry,
    ) -> Result<(PathBuf, Vec<PathBuf>)> {
        let found = self.to.view().resolve(&shown(&clean(dest)), Last::Follow)?;
        let is_dir = entry.stat.is_dir();
        let inside = match &found.entry {
            None => false,
            Some(_) if is_dir => !self.contents,
            Some(there) => there.stat.is_dir(),
        };
        let mut target = found.rel;
        if inside && !source.to_string_lossy().ends_with("/.") {
            target.extend(source.file_name());
        }
        let holder = match self.contents && is_dir && found.entry.is_none() {
            true => &target,
            false => target.parent().unwrap_or(Path::new("")),
        };
        let (_, made) = self.to.make_dirs(holder, &self.options.new_dir())?;
        Ok((target, made))
    }

    fn top(&mut self, rel: &Path, entry: Entry, target: &Path) -> Result<()> {
        let selected = Selected {
            included: true,
            excluded: false,
            include: MatchInfo::default(),
            exclude: MatchInfo::default(),
        };
        let place = match target.file_name() {
            Some(_) => self.to.place(target)?,
            None => Place {
                parent: self.to.view().root(),
                rel: PathBuf::new(),
                entry: self.to.view().root_entry()?,
            },
        };
        let Entry { layer, stat, dir } = entry;
        match dir {
            Some(dir) => self.directory(dir, layer, stat, place, selected),
            None => {
                let parent = rel.parent().unwrap_or(Path::new(""));
                let fd = self.from.tree.layers()[layer].open_dir(parent)?;
                let name = rel.file_name().unwrap_or_default();
                self.clear_way(&place, false)?;
                self.to.vacate(&place)?;
                let holder = place.rel.parent().unwrap_or(Path::new(""));
                let upper = transfer::open_dir(&**self.to.upper(), holder)?;
                let new = place.rel.file_name().unwrap_or_default();
                self.leaf(
                    &Leaf {
                        fd: &fd,
                        name,
                        layer,
                        stat,
                    },
                    &upper,
                    new,
                    &place.rel,
                )
            }
        }
    }

    /// Copies a directory. The outermost one's metadata is only given to a directory that this makes.
    fn directory(
        &mut self,
        source: MergedDir,
        layer: usize,
        stat: Stat,
        place: Place,
        selected: Selected,
    ) -> Result<()> {
        let outermost = self.levels.is_empty();
        if selected.included {
            self.clear_way(&place, true)?;
        }
        let dest = place.entry.as_ref().and_then(|entry| entry.dir.clone());
        let existed = dest.is_some();
        let (rel, included) = (place.rel, selected.included);
        let skip = selected.excluded
            && !self
                .exclude
                .as_ref()
                .is_some_and(PatternMatcher::has_exceptions);
        self.levels.push(Level {
            source,
            layer,
            stat,
            open: Vec::new(),
            dest,
            rel: rel.clone(),
            fd: None,
            fresh: false,
            include: selected.include,
            exclude: selected.exclude,
        });
        if included {
            self.prepare()?;
        }
        if !skip {
            self.children()?;
        }
        let level = self.levels.pop().expect("it was pushed above");
        if !included {
            return Ok(());
        }
        let dot = Path::new(".");
        let Some(fd) = level.fd else { return Ok(()) };
        match outermost && existed {
            true => set_mtime(&fd, dot, self.options.mtime.unwrap_or(level.stat.mtime)),
            false => self.dir_attributes(&fd, &level.source.rel, level.layer, &level.stat),
        }
    }

    fn dir_attributes(&self, fd: &OwnedFd, source: &Path, layer: usize, stat: &Stat) -> Result<()> {
        let xattrs = self.from.tree.layers()[layer].xattrs(source)?;
        let attributes = self.options.attributes(stat);
        transfer::set_attributes(fd, Path::new("."), Kind::Dir, &attributes, &xattrs)
    }

    fn children(&mut self) -> Result<()> {
        let at = self.levels.len() - 1;
        let source = self.levels[at].source.clone();
        for item in self.from.tree.list(&source)? {
            let selected = self.select(at, &item)?;
            if !selected.included && (item.kind != Kind::Dir || self.is_hopeless(&selected)) {
                continue;
            }
            self.child(at, &source, &item, selected)?;
        }
        Ok(())
    }

    fn child(
        &mut self,
        at: usize,
        source: &MergedDir,
        item: &Item,
        selected: Selected,
    ) -> Result<()> {
        let layer = item.layer;
        let fd = self.source_fd(at, layer)?;
        let stat = Stat::at(fd, Path::new(&item.name)).on("lstat", &source.rel.join(&item.name))?;
        if item.kind == Kind::Dir {
            let place = self.place(at, &item.name)?;
            return self.directory(source.child(item), layer, stat, place, selected);
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
        let rel = level.rel.join(&item.name);
        let upper = level.fd.take().expect("prepare opens every level");
        let open = std::mem::take(&mut level.open);
        let fd = &open
            .iter()
            .find(|(of, _)| *of == layer)
            .expect("opened above")
            .1;
        let leaf = Leaf {
            fd,
            name: &item.name,
            layer,
            stat,
        };
        let done = self.leaf(&leaf, &upper, &item.name, &rel);
        let level = &mut self.levels[at];
        (level.fd, level.open) = (Some(upper), open);
        done
    }

    fn source_fd(&mut self, at: usize, layer: usize) -> Result<&OwnedFd> {
        let level = &mut self.levels[at];
        let known = level.open.iter().position(|(of, _)| *of == layer);
        let index = match known {
            Some(index) => index,
            None => {
                let fd = self.from.tree.layers()[layer].open_dir(&level.source.rel)?;
                level.open.push((layer, fd));
                level.open.len() - 1
            }
        };
        Ok(&level.open[index].1)
    }

    fn place(&self, at: usize, name: &OsStr) -> Result<Place> {
        let level = &self.levels[at];
        match &level.dest {
            Some(dest) if !level.fresh => self.to.place_in(dest, name),
            _ => {
                let rel = level.rel.join(name);
                let parent = MergedDir {
                    rel: level.rel.clone(),
                    layers: vec![self.to.top],
                };
                Ok(Place {
                    parent,
                    rel,
                    entry: None,
                })
            }
        }
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
            let level = &self.levels[at];
            let made = match &level.dest {
                Some(dest) => (self.to.copy_up_dir(dest)?, false),
                None => {
                    let place = match at.checked_sub(1).map(|above| &self.levels[above]) {
                        Some(above) => {
                            let parent = above.dest.clone().expect("levels above are prepared");
                            Place {
                                parent,
                                rel: level.rel.clone(),
                                entry: None,
                            }
                        }
                        None => self.to.place(&level.rel)?,
                    };
                    (self.to.make_dir(&place, &NewDir::default())?, true)
                }
            };
            let fd = transfer::open_dir(&**self.to.upper(), &level.rel)?;
            if made.1 && at + 1 < self.levels.len() {
                self.dir_attributes(&fd, &level.source.rel, level.layer, &level.stat)?;
            }
            let level = &mut self.levels[at];
            (level.dest, level.fresh, level.fd) = (Some(made.0), made.1, Some(fd));
        }
        Ok(())
    }

    /// Creates anything but a directory under a name that is free in the upper.
    fn leaf(&mut self, leaf: &Leaf<'_>, upper: &OwnedFd, new: &OsStr, rel: &Path) -> Result<()> {
        let (name, new) = (Path::new(leaf.name), Path::new(new));
        let attributes = self.options.attributes(&leaf.stat);
        let inode = (leaf.layer, leaf.stat.ino);
        if leaf.stat.kind == Kind::File {
            if leaf.stat.nlink > 1 {
                if let Some(first) = self.inodes.get(&inode) {
                    let first = first.clone();
                    return self.second_name(&first, upper, new);
                }
                self.inodes.insert(inode, rel.to_path_buf());
            }
            if self.link(leaf, &attributes, upper, new, rel)? {
                return Ok(());
            }
        }
        let dir = leaf.fd.as_fd();
        match leaf.stat.kind {
            Kind::File => {
                let from =
                    fs::openat(dir, name, layer::READ, fs::Mode::empty()).on("open", name)?;
                return transfer::copy_whole(&from.into(), upper, new, &attributes);
            }
            Kind::Symlink => {
                let target = layer::read_link(dir, name)?;
                fs::symlinkat(&target[..], upper, new).on("symlink", rel)?;
            }
            _ => transfer::create_node(upper, new, &leaf.stat)?,
        }
        let xattrs = layer::xattrs_at(dir, name)?;
        transfer::set_attributes(upper, new, leaf.stat.kind, &attributes, &xattrs)
    }

    fn second_name(&self, first: &Path, upper: &OwnedFd, new: &Path) -> Result<()> {
        match transfer::link(&**self.to.upper(), first, upper, new)? {
            Linked::Done => Ok(()),
            Linked::Never | Linked::NotThis => {
                let from = self.to.upper().open_file(first)?;
                let stat = Stat::from(&fs::fstat(&from).on("stat", first)?);
                let xattrs = self.to.upper().xattrs(first)?;
                transfer::copy_file(&from, upper, new)?;
                transfer::set_attributes(upper, new, Kind::File, &Attributes::of(&stat), &xattrs)
            }
        }
    }

    /// Links a file that keeps its attributes, if it may be.
    fn link(
        &mut self,
        leaf: &Leaf<'_>,
        attributes: &Attributes,
        upper: &OwnedFd,
        new: &Path,
        rel: &Path,
    ) -> Result<bool> {
        let keeps = *attributes == Attributes::of(&leaf.stat);
        if !keeps || !self.from.linkable || self.unlinkable.contains(&leaf.layer) || is_cron(rel) {
            return Ok(false);
        }
        // A second name in the same layer would be a hard link in its archive.
        let inode = (leaf.stat.dev, leaf.stat.ino);
        if self.to.linked.contains(&inode) {
            return Ok(false);
        }
        match transfer::link(leaf.fd, Path::new(leaf.name), upper, new)? {
            Linked::Done => {
                self.to.linked.insert(inode);
                return Ok(true);
            }
            Linked::Never => self.unlinkable.push(leaf.layer),
            Linked::NotThis => {}
        }
        Ok(false)
    }

    fn select(&self, at: usize, item: &Item) -> Result<Selected> {
        let mut selected = Selected {
            included: true,
            excluded: false,
            include: MatchInfo::default(),
            exclude: MatchInfo::default(),
        };
        if self.include.is_none() && self.exclude.is_none() {
            return Ok(selected);
        }
        let level = &self.levels[at];
        let below: PathBuf = self.levels[0].source.rel.clone();
        let path = level.source.rel.join(&item.name);
        let path = path
            .strip_prefix(&below)
            .unwrap_or(&path)
            .to_string_lossy()
            .into_owned();
        if let Some(include) = &self.include {
            (selected.included, selected.include) = include.enter(&path, &level.include);
        }
        if let Some(exclude) = &self.exclude {
            (selected.excluded, selected.exclude) = exclude.enter(&path, &level.exclude);
        }
        selected.included &= !selected.excluded;
        Ok(selected)
    }

    /// Whether nothing below an entry that is not included can be.
    fn is_hopeless(&self, selected: &Selected) -> bool {
        selected.excluded
            && !self
                .exclude
                .as_ref()
                .is_some_and(PatternMatcher::has_exceptions)
    }
}

/// Anything but a directory, to be copied.
struct Leaf<'a> {
    fd: &'a OwnedFd,
    name: &'a OsStr,
    layer: usize,
    stat: Stat,
}
