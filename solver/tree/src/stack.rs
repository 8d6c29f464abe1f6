//! The merged view of a stack of layers, computed by reading the directories themselves: which layer an entry is
//! seen from, what a directory holds, where a path leads. The rules are overlayfs's (whiteouts, opaque
//! directories, first layer from the top wins); unlike a mount it names the layer's own inodes, which can be
//! hard-linked. It never writes and needs no mount.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::error::{Error, Result, shown};
use crate::layer::{Layer, RawEntry};
use crate::stat::{Kind, Stat};

/// Symbolic links followed before a path is given up.
const MAX_LINKS: usize = 255;

/// Layers, bottom first.
#[derive(Debug, Clone, Default)]
pub struct Stack {
    layers: Vec<Arc<Layer>>,
}

/// A directory of the merged view: where it is and which layers contribute to it, top first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedDir {
    /// Path below the root, clean, without links.
    pub rel: PathBuf,
    /// Indices into the stack, top first; empty for the root of an empty stack.
    pub layers: Vec<usize>,
}

/// One entry of the merged view.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Layer that it is seen from.
    pub layer: usize,
    /// Attributes there.
    pub stat: Stat,
    /// For a directory, what it merges.
    pub dir: Option<MergedDir>,
}

/// One name in a listing of a merged directory.
#[derive(Debug, Clone)]
pub struct Item {
    /// Name.
    pub name: OsString,
    /// Kind.
    pub kind: Kind,
    /// Layer that it is seen from.
    pub layer: usize,
    /// For a directory, all layers that contribute, top first.
    pub layers: Vec<usize>,
}

/// Where a path leads.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Path below the root, clean, without links (but perhaps one as its last component).
    pub rel: PathBuf,
    /// What is there; `None` where nothing is.
    pub entry: Option<Entry>,
}

/// What to do with a symbolic link that is a path's last component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// Follow it like those before it.
    Follow,
    /// It is the answer.
    Keep,
}

impl Stack {
    /// Opens layer directories, bottom first.
    pub fn open<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Result<Self> {
        let layers = paths
            .into_iter()
            .map(|path| Layer::open(path).map(Arc::new));
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
        })
    }

    /// Of layers that are open already, bottom first.
    #[must_use]
    pub fn of(layers: Vec<Arc<Layer>>) -> Self {
        Self { layers }
    }

    /// The same with one more layer on top.
    #[must_use]
    pub fn with(&self, top: Arc<Layer>) -> Self {
        let mut layers = self.layers.clone();
        layers.push(top);
        Self { layers }
    }

    /// The layers, bottom first.
    #[must_use]
    pub fn layers(&self) -> &[Arc<Layer>] {
        &self.layers
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> MergedDir {
        MergedDir {
            rel: PathBuf::new(),
            layers: (0..self.layers.len()).rev().collect(),
        }
    }

    /// The root as an entry; `None` for an empty stack.
    pub fn root_entry(&self) -> Result<Option<Entry>> {
        let root = self.root();
        let Some(&layer) = root.layers.first() else {
            return Ok(None);
        };
        let stat = self.layers[layer].stat(&root.rel)?;
        Ok(stat.map(|stat| Entry {
            layer,
            stat,
            dir: Some(root),
        }))
    }

    /// The entry of that name in a directory.
    pub fn lookup(&self, dir: &MergedDir, name: &OsStr) -> Result<Option<Entry>> {
        let rel = dir.rel.join(name);
        let mut found: Option<Entry> = None;
        for (at, &layer) in dir.layers.iter().enumerate() {
            let Some(stat) = self.layers[layer].stat(&rel)? else {
                continue;
            };
            if stat.is_whiteout() {
                break;
            }
            match &mut found {
                None if stat.is_dir() => {
                    let dir = MergedDir {
                        rel: rel.clone(),
                        layers: vec![layer],
                    };
                    found = Some(Entry {
                        layer,
                        stat,
                        dir: Some(dir),
                    });
                }
                None => {
                    return Ok(Some(Entry {
                        layer,
                        stat,
                        dir: None,
                    }));
                }
                Some(Entry { dir: Some(dir), .. }) if stat.is_dir() => dir.layers.push(layer),
                Some(_) => break,
            }
            if at + 1 < dir.layers.len() && self.layers[layer].is_opaque(&rel)? {
                break;
            }
        }
        Ok(found)
    }

    /// What a directory holds, sorted by name, bytewise.
    pub fn list(&self, dir: &MergedDir) -> Result<Vec<Item>> {
        let mut raw: Vec<(usize, RawEntry)> = Vec::new();
        for (order, &layer) in dir.layers.iter().enumerate() {
            let entries = self.layers[layer].entries(&dir.rel)?;
            raw.extend(entries.into_iter().map(|entry| (order, entry)));
        }
        raw.sort_by(|(a, x), (b, y)| x.name.cmp(&y.name).then(a.cmp(b)));
        let mut items = Vec::with_capacity(raw.len());
        for group in raw.chunk_by(|(_, a), (_, b)| a.name == b.name) {
            items.extend(self.merge(dir, group)?);
        }
        Ok(items)
    }

    /// Merges what the layers hold under one name, top first.
    fn merge(&self, dir: &MergedDir, group: &[(usize, RawEntry)]) -> Result<Option<Item>> {
        let mut item: Option<Item> = None;
        for (order, entry) in group {
            let layer = dir.layers[*order];
            if entry.kind == Kind::CharDevice && self.is_whiteout(dir, layer, &entry.name)? {
                break;
            }
            let is_dir = entry.kind == Kind::Dir;
            if item.is_some() && !is_dir {
                break;
            }
            let item = item.get_or_insert_with(|| Item {
                name: entry.name.clone(),
                kind: entry.kind,
                layer,
                layers: Vec::new(),
            });
            if !is_dir {
                break;
            }
            item.layers.push(layer);
            let more = *order + 1 < dir.layers.len();
            if more && self.layers[layer].is_opaque(&dir.rel.join(&entry.name))? {
                break;
            }
        }
        Ok(item)
    }

    fn is_whiteout(&self, dir: &MergedDir, layer: usize, name: &OsStr) -> Result<bool> {
        let stat = self.layers[layer].stat(&dir.rel.join(name))?;
        Ok(stat.is_some_and(|stat| stat.is_whiteout()))
    }

    /// Visits everything below a directory, each directory before what it holds, names bytewise.
    pub fn walk(
        &self,
        dir: &MergedDir,
        visit: &mut dyn FnMut(&Path, &Item) -> Result<()>,
    ) -> Result<()> {
        for item in self.list(dir)? {
            visit(&dir.rel.join(&item.name), &item)?;
            if item.kind == Kind::Dir {
                self.walk(&dir.child(&item), visit)?;
            }
        }
        Ok(())
    }

    /// Follows a path from the root, links inside the root only. A missing component is no error: the rest of the
    /// path is taken as written. A component below something that is no directory is one.
    pub fn resolve(&self, path: &Path, last: Last) -> Result<Resolved> {
        Walk::new(self, self.root_entry()?, Path::new("")).run(path, last)
    }

    /// The same as if `base` were the root: no link and no `..` leads out of it.
    pub fn resolve_in(&self, base: &MergedDir, path: &Path, last: Last) -> Result<Resolved> {
        let root = self.resolve(&base.rel, Last::Keep)?.entry;
        Walk::new(self, root, &base.rel).run(path, last)
    }

    /// What a path leads to, or the error of `lstat`.
    pub fn find(&self, path: &Path, last: Last) -> Result<(PathBuf, Entry)> {
        let resolved = self.resolve(path, last)?;
        match resolved.entry {
            Some(entry) => Ok((resolved.rel, entry)),
            None => Err(Error::io("lstat", shown(&resolved.rel), Errno::NOENT)),
        }
    }

    /// Target of a symbolic link.
    pub fn read_link(&self, layer: usize, rel: &Path) -> Result<PathBuf> {
        let target = self.layers[layer].read_link(rel)?;
        Ok(PathBuf::from(OsString::from_vec(target)))
    }
}

impl MergedDir {
    /// The directory that an item of this one is.
    #[must_use]
    pub fn child(&self, item: &Item) -> Self {
        Self {
            rel: self.rel.join(&item.name),
            layers: item.layers.clone(),
        }
    }
}

/// A walk along a path.
struct Walk<'a> {
    stack: &'a Stack,
    base: &'a Path,
    rest: VecDeque<OsString>,
    rel: PathBuf,
    /// What each component of `rel` below the base is, the base first; `None` from the first missing one on.
    seen: Vec<Option<Entry>>,
    links: usize,
}

impl<'a> Walk<'a> {
    fn new(stack: &'a Stack, root: Option<Entry>, base: &'a Path) -> Self {
        let rel = base.to_path_buf();
        Self {
            stack,
            base,
            rest: VecDeque::new(),
            rel,
            seen: vec![root],
            links: 0,
        }
    }

    fn run(mut self, path: &Path, last: Last) -> Result<Resolved> {
        self.push(path);
        while let Some(name) = self.rest.pop_front() {
            match name.as_bytes() {
                b".." if self.seen.len() > 1 => {
                    self.rel.pop();
                    self.seen.pop();
                }
                b".." => {}
                _ => self.step(&name, last)?,
            }
        }
        Ok(Resolved {
            rel: self.rel,
            entry: self.seen.pop().flatten(),
        })
    }

    /// Puts a path's components before what is left.
    fn push(&mut self, path: &Path) {
        let names = path.components().filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        });
        for name in names.collect::<Vec<_>>().into_iter().rev() {
            self.rest.push_front(name);
        }
    }

    fn step(&mut self, name: &OsStr, last: Last) -> Result<()> {
        let parent = self.seen.last().and_then(Option::as_ref);
        let entry = match parent {
            None => None,
            Some(Entry { dir: Some(dir), .. }) => self.stack.lookup(dir, name)?,
            Some(_) => {
                let path = shown(&self.rel.join(name));
                return Err(Error::io("lstat", path, Errno::NOTDIR));
            }
        };
        let link = entry
            .as_ref()
            .filter(|entry| entry.stat.kind == Kind::Symlink);
        let ends = self.rest.is_empty() && last == Last::Keep;
        let Some(link) = link.filter(|_| !ends) else {
            self.rel.push(name);
            self.seen.push(entry);
            return Ok(());
        };
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Error::TooManyLinks(shown(&self.rel.join(name))));
        }
        let target = self.stack.read_link(link.layer, &self.rel.join(name))?;
        if target.is_absolute() {
            self.rel = self.base.to_path_buf();
            self.seen.truncate(1);
        }
        self.push(&target);
        Ok(())
    }
}
