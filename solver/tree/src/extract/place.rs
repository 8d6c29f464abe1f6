//! Puts the entries of an archive in place: finds the directory of each, makes what is missing, replaces what is in
//! the way, and gives directories their times at the end. What a name may be is the policy's.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs;

use super::contents::Contents;
use super::layer::{self, Marker};
use super::member::{Member, What};
use crate::compose::{Composer, NewDir, Place};
use crate::error::{Context, Error, Result};
use crate::stack::{Last, MergedDir};
use crate::stat::{Kind, Owner, Time, set_mtime};
use crate::transfer::{self, Attributes, Linked};

/// How names are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// Those of an image layer: whiteouts mean removal, what leads out of the tree is refused.
    Layer,
    /// Literal, and what leads out of the destination ends inside it.
    Confined,
}

/// An archive being unpacked.
pub(crate) struct Unpacker<'a> {
    to: &'a mut Composer,
    names: Names,
    base: MergedDir,
    owner: Option<Owner>,
    /// Directories of entries seen, by their name in the archive.
    parents: HashMap<PathBuf, MergedDir>,
    /// Times that directories get when all is in place.
    times: HashMap<PathBuf, Time>,
    contents: Contents,
}

impl<'a> Unpacker<'a> {
    /// Unpacks to the root.
    pub(crate) fn new(to: &'a mut Composer, names: Names) -> Self {
        let base = to.view().root();
        Self {
            to,
            names,
            base,
            owner: None,
            parents: HashMap::new(),
            times: HashMap::new(),
            contents: Contents::default(),
        }
    }

    /// The same below a directory, with an owner for all entries.
    pub(crate) fn below(self, base: MergedDir, owner: Option<Owner>) -> Self {
        Self {
            base,
            owner,
            ..self
        }
    }

    /// Puts one entry in place.
    pub(crate) fn add(&mut self, member: &Member, contents: &mut impl Read) -> Result<()> {
        let name = self.name(member, &member.name)?;
        let Some(base) = name.file_name() else {
            return self.root(member);
        };
        let parent = self.parent(member, name.parent().unwrap_or(Path::new("")))?;
        if self.names == Names::Layer {
            match Marker::of(member, base)? {
                Some(Marker::Opaque) => return self.hide_below(&parent),
                Some(Marker::Removed(name)) => {
                    let place = self.to.place_in(&parent, name)?;
                    return self.to.remove(&place);
                }
                None => {}
            }
        }
        if let What::New(kind) = member.what
            && kind != Kind::Dir
        {
            let target = Target {
                parent: &parent,
                rel: parent.rel.join(base),
            };
            return self.leaf(member, kind, &target, contents);
        }
        let place = self.to.place_in(&parent, base)?;
        match member.what {
            What::New(_) => self.dir(member, &place),
            What::HardLink => self.hard_link(member, &place),
            What::Skip => Ok(()),
        }
    }

    /// The entry that is the root itself has attributes in a layer; an archive's leaves the destination alone.
    fn root(&mut self, member: &Member) -> Result<()> {
        if self.names != Names::Layer || member.what != What::New(Kind::Dir) {
            return Ok(());
        }
        let dot = Path::new(".");
        let attributes = self.attributes(member);
        transfer::set_attributes(
            &**self.to.upper(),
            dot,
            Kind::Dir,
            &attributes,
            &member.xattrs,
        )?;
        self.times.insert(PathBuf::new(), member.mtime);
        Ok(())
    }

    fn name(&self, member: &Member, name: &[u8]) -> Result<PathBuf> {
        match self.names {
            Names::Layer => layer::checked(member, name),
            Names::Confined => Ok(crate::compose::clean(Path::new(
                std::ffi::OsStr::from_bytes(name),
            ))),
        }
    }

    /// The directory of that name, made where it is missing.
    fn parent(&mut self, member: &Member, name: &Path) -> Result<MergedDir> {
        if let Some(known) = self.parents.get(name) {
            return Ok(known.clone());
        }
        let found = self.to.view().resolve_in(&self.base, name, Last::Follow);
        let found = found.map_err(|e| member.error(e.to_string()))?;
        let dir = match found.entry {
            Some(entry) => match entry.dir {
                Some(dir) => dir,
                None => return Err(member.error("its parent is not a directory")),
            },
            None => self.to.make_dirs(&found.rel, &NewDir::default())?.0,
        };
        let dir = self.to.copy_up_dir(&dir)?;
        self.keep_time(&dir.rel)?;
        self.parents.insert(name.to_path_buf(), dir.clone());
        Ok(dir)
    }

    /// A directory of lower layers keeps its time though entries are added to it, unless the archive says another.
    fn keep_time(&mut self, rel: &Path) -> Result<()> {
        let known = self.times.contains_key(rel);
        if self.names == Names::Layer
            && !known
            && let Some(stat) = self.to.upper().stat(rel)?
        {
            self.times.insert(rel.to_path_buf(), stat.mtime);
        }
        Ok(())
    }

    fn attributes(&self, member: &Member) -> Attributes {
        let owner = self.owner.unwrap_or(member.owner);
        Attributes {
            owner,
            mode: member.mode,
            mtime: Some(member.mtime),
        }
    }

    fn dir(&mut self, member: &Member, place: &Place) -> Result<()> {
        let there = place.entry.as_ref().and_then(|entry| entry.dir.as_ref());
        if let Some(dir) = there {
            self.to.copy_up_dir(dir)?;
        } else {
            self.forget(&place.rel);
            self.to.make_dir(place, &NewDir::default())?;
        }
        let attributes = self.attributes(member);
        let upper = &**self.to.upper();
        transfer::set_attributes(upper, &place.rel, Kind::Dir, &attributes, &member.xattrs)?;
        self.times.insert(place.rel.clone(), member.mtime);
        Ok(())
    }

    /// Forgets directories that are replaced.
    fn forget(&mut self, rel: &Path) {
        self.parents.retain(|_, dir| !dir.rel.starts_with(rel));
        self.times.retain(|path, _| !path.starts_with(rel));
    }

    fn leaf(
        &mut self,
        member: &Member,
        kind: Kind,
        target: &Target<'_>,
        contents: &mut impl Read,
    ) -> Result<()> {
        let attributes = self.attributes(member);
        if kind == Kind::File {
            let file = self.create(target, |upper, rel| transfer::create_file(upper, rel))?;
            let rel = &target.rel;
            return self.contents.fill(file, rel, member, attributes, contents);
        }
        self.create(target, |upper, rel| match kind {
            Kind::Symlink => fs::symlinkat(&member.link[..], upper, rel).on("symlink", rel),
            _ => transfer::create_node(upper, rel, &member.stat(kind)),
        })?;
        let upper = &**self.to.upper();
        transfer::set_attributes(upper, &target.rel, kind, &attributes, &member.xattrs)
    }

    /// Creates an entry; only if something is in the way, that goes first.
    fn create<T>(
        &mut self,
        target: &Target<'_>,
        make: impl Fn(&crate::Layer, &Path) -> Result<T>,
    ) -> Result<T> {
        match make(self.to.upper(), &target.rel) {
            Err(Error::Io { cause, .. }) if cause.kind() == std::io::ErrorKind::AlreadyExists => {}
            done => return done,
        }
        let name = target.rel.file_name().unwrap_or_default();
        let place = self.to.place_in(target.parent, name)?;
        self.replace(&place)?;
        make(self.to.upper(), &target.rel)
    }

    /// Frees the name of a new entry.
    fn replace(&mut self, place: &Place) -> Result<()> {
        if place
            .entry
            .as_ref()
            .is_some_and(|entry| entry.dir.is_some())
        {
            self.forget(&place.rel);
        }
        self.to.vacate(place).map(drop)
    }

    fn hard_link(&mut self, member: &Member, place: &Place) -> Result<()> {
        let target = self.name(member, &member.link)?;
        let Some(name) = target.file_name() else {
            return Err(member.error("hard link to the root"));
        };
        let parent = self.parent(member, target.parent().unwrap_or(Path::new("")))?;
        let target = self.to.place_in(&parent, name)?;
        let Some(found) = &target.entry else {
            return Err(member.error(format!(
                "hard link to {:?}, which does not exist",
                String::from_utf8_lossy(&member.link)
            )));
        };
        if found.dir.is_some() {
            return Err(member.error("hard link to a directory"));
        }
        if target.rel == place.rel {
            return Ok(());
        }
        self.to.copy_up_leaf(&target)?;
        self.replace(place)?;
        let upper = &**self.to.upper();
        match transfer::link(upper, &target.rel, upper, &place.rel)? {
            Linked::Done => Ok(()),
            Linked::Never | Linked::NotThis => Err(member.error("hard link is not possible")),
        }
    }

    /// Makes a directory hide what lower layers have in it.
    fn hide_below(&mut self, dir: &MergedDir) -> Result<()> {
        self.to.make_opaque(dir)?;
        let rel = &dir.rel;
        self.parents.retain(|_, dir| !dir.rel.starts_with(rel));
        Ok(())
    }

    /// Waits for what files hold, and sets the times of directories, which adding entries to them has changed.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.contents.end()?;
        for (rel, mtime) in self.times {
            match set_mtime(&**self.to.upper(), crate::layer::dot(&rel), mtime) {
                Err(e) if e.is_not_found() => {}
                done => done?,
            }
        }
        Ok(())
    }
}

/// The name of a new entry, in a directory that is in the upper.
struct Target<'a> {
    parent: &'a MergedDir,
    rel: PathBuf,
}
