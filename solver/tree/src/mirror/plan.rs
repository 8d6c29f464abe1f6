//! One transfer into a mirror: compares what the client announces with what is there, says which files it must send,
//! takes their data, and changes the tree only when everything has arrived. A transfer that is dropped leaves the
//! mirror as it was (an empty one: empty).

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, Mode, OFlags};
use sha2::{Digest as _, Sha256};

use super::entry::{Entry, FileStat, order};
use super::{Mirror, clear};
use crate::error::{Context, Error, Result};
use crate::hash::header;
use crate::hash::index::Sum;
use crate::layer::Xattr;
use crate::stat::{Kind, Time};
use crate::transfer::{self, Attributes, Linked};

/// A file that the client must send: the number that it is asked for by, which is its place in the announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Request(pub u32);

/// What a transfer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Entries announced.
    pub entries: usize,
    /// Files that were sent.
    pub sent: usize,
    /// Bytes of those.
    pub bytes: u64,
    /// Files taken from another mirror.
    pub borrowed: usize,
    /// Entries that are gone.
    pub removed: usize,
    /// Whether the tree is another than before.
    pub changed: bool,
}

/// How an entry comes into the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// It is there already.
    Kept,
    /// Made from its attributes alone, when the tree is changed.
    Made,
    /// A file in the staging directory, or with a mirror that was empty in its place.
    Staged,
}

pub(super) struct Incoming {
    pub(super) stat: FileStat,
    pub(super) sum: Sum,
    pub(super) source: Source,
    /// A directory that exists but gets other attributes.
    pub(super) altered: bool,
}

struct Staged {
    file: File,
    hash: Sha256,
    size: u64,
}

/// A transfer.
pub struct Plan<'a> {
    pub(super) mirror: Mirror,
    donors: Vec<Cursor<'a>>,
    old: Cursor<'static>,
    own: Vec<Entry>,
    pub(super) tree: OwnedFd,
    pub(super) stage: OwnedFd,
    /// The tree was empty: files go to their place at once.
    pub(super) direct: bool,
    pub(super) incoming: Vec<Incoming>,
    /// Directories announced around the current entry.
    open: Vec<String>,
    receiving: HashMap<u32, Staged>,
    waiting: usize,
    pub(super) removed: Vec<String>,
    summary: Summary,
}

/// A position in the entries of a mirror; moves only forward.
struct Cursor<'a> {
    mirror: Option<(&'a Mirror, OwnedFd)>,
    at: usize,
}

impl Cursor<'_> {
    /// The entry of that path, all before it passed over. `passed` is told of those.
    fn seek(
        &mut self,
        entries: &[Entry],
        path: &str,
        mut passed: impl FnMut(&Entry),
    ) -> Option<usize> {
        while let Some(entry) = entries.get(self.at) {
            match order(&entry.stat.path, path) {
                std::cmp::Ordering::Less => passed(entry),
                std::cmp::Ordering::Equal => {
                    self.at += 1;
                    return Some(self.at - 1);
                }
                std::cmp::Ordering::Greater => return None,
            }
            self.at += 1;
        }
        None
    }
}

impl<'a> Plan<'a> {
    /// Begins a transfer. `donors` are other mirrors whose files may be used; nobody may use `mirror` meanwhile.
    pub fn begin(mut mirror: Mirror, donors: &'a [Mirror]) -> Result<Self> {
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            fs::open(path, flags, Mode::empty()).on("open", path)
        };
        clear(&mirror.stage())?;
        std::fs::create_dir_all(mirror.stage()).on("mkdir", &mirror.stage())?;
        let direct = mirror.entries.is_empty();
        if direct {
            mirror.begin_change()?;
            clear(&mirror.tree())?;
            std::fs::create_dir_all(mirror.tree()).on("mkdir", &mirror.tree())?;
        }
        let donors = donors
            .iter()
            .map(|donor| {
                Ok(Cursor {
                    mirror: Some((donor, open(&donor.tree())?)),
                    at: 0,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            donors,
            old: Cursor {
                mirror: None,
                at: 0,
            },
            own: std::mem::take(&mut mirror.entries),
            tree: open(&mirror.tree())?,
            stage: open(&mirror.stage())?,
            mirror,
            direct,
            incoming: Vec::new(),
            open: Vec::new(),
            receiving: HashMap::new(),
            waiting: 0,
            removed: Vec::new(),
            summary: Summary::default(),
        })
    }

    /// Takes the announcement of the next entry; gives the request to send if its contents are needed.
    pub fn stat(&mut self, stat: FileStat) -> Result<Option<Request>> {
        stat.check()?;
        self.follow(&stat)?;
        let id = u32::try_from(self.incoming.len())
            .map_err(|_| stat.refused("there are too many entries"))?;
        let removed = &mut self.removed;
        let found = self.old.seek(&self.own, &stat.path, |entry| {
            removed.push(entry.stat.path.clone());
        });
        let known = found.map(|at| &self.own[at]);
        if let Some(known) = known.filter(|known| known.stat.same(&stat)) {
            let altered = known.stat.mtime != stat.mtime;
            let sum = known.sum;
            self.incoming.push(Incoming {
                stat,
                sum,
                source: Source::Kept,
                altered,
            });
            return Ok(None);
        }
        let known = known.cloned();
        self.fresh(id, stat, known)
    }

    /// Checks that entries come in the order of a walk.
    fn follow(&mut self, stat: &FileStat) -> Result<()> {
        let last = self.incoming.last();
        if last.is_some_and(|last| order(&last.stat.path, &stat.path).is_ge()) {
            return Err(stat.refused("it is announced out of order"));
        }
        let dir = stat.path.rsplit_once('/').map_or("", |(dir, _)| dir);
        while self.open.last().is_some_and(|open| open != dir) {
            self.open.pop();
        }
        if !dir.is_empty() && self.open.is_empty() {
            return Err(stat.refused("its directory was not announced"));
        }
        if stat.kind() == Kind::Dir {
            self.open.push(stat.path.clone());
        }
        Ok(())
    }

    /// An entry that is new or differs from `known`.
    fn fresh(&mut self, id: u32, stat: FileStat, known: Option<Entry>) -> Result<Option<Request>> {
        let kind = stat.kind();
        let was_dir = known
            .as_ref()
            .is_some_and(|known| known.stat.kind() == Kind::Dir);
        if was_dir && kind != Kind::Dir {
            self.removed.push(stat.path.clone());
        }
        if kind == Kind::Dir {
            if self.direct {
                self.make_dir(&stat)?;
            }
            let exists = was_dir || self.direct;
            let source = if exists { Source::Kept } else { Source::Made };
            let sum = bare_sum(&stat);
            self.incoming.push(Incoming {
                stat,
                sum,
                source,
                altered: true,
            });
            return Ok(None);
        }
        let (sum, source) = if stat.is_hard_link() {
            (self.sum_of_link(&stat)?, Source::Made)
        } else if kind != Kind::File || stat.stat().size == 0 {
            (bare_sum(&stat), Source::Made)
        } else {
            // No file has the digest of zeros: it stands for the one to come.
            (
                self.local(id, &stat, known)?.unwrap_or_default(),
                Source::Staged,
            )
        };
        let missing = source == Source::Staged && sum == Sum::default();
        self.incoming.push(Incoming {
            stat,
            sum,
            source,
            altered: false,
        });
        if missing {
            self.waiting += 1;
            self.summary.sent += 1;
        }
        Ok(missing.then_some(Request(id)))
    }

    fn sum_of_link(&self, stat: &FileStat) -> Result<Sum> {
        let first = self
            .incoming
            .binary_search_by(|i| order(&i.stat.path, &stat.link));
        let first = first.map_err(|_| stat.refused("it is a link to what was not announced"))?;
        Ok(self.incoming[first].sum)
    }

    /// Looks for the file's contents on this machine.
    fn local(&mut self, id: u32, stat: &FileStat, known: Option<Entry>) -> Result<Option<Sum>> {
        if let Some(known) = known.filter(|known| known.stat.same_contents(stat)) {
            let tree = self.tree.try_clone().on("dup", Path::new(&stat.path))?;
            return self.take(id, stat, &known, &tree);
        }
        for at in 0..self.donors.len() {
            let Some((donor, tree)) = self.donors[at].mirror.take() else {
                continue;
            };
            let found = self.donors[at].seek(&donor.entries, &stat.path, |_| {});
            let entry = found.map(|found| &donor.entries[found]);
            let taken = match entry.filter(|entry| entry.stat.same_contents(stat)) {
                Some(entry) => self.take(id, stat, entry, &tree)?,
                None => None,
            };
            self.donors[at].mirror = Some((donor, tree));
            if taken.is_some() {
                self.summary.borrowed += 1;
                return Ok(taken);
            }
        }
        Ok(None)
    }

    /// Stages a file that a tree has: linked if it is the same in everything, copied if only attributes differ.
    fn take(&self, id: u32, stat: &FileStat, entry: &Entry, from: &OwnedFd) -> Result<Option<Sum>> {
        let (source, (to, name)) = (Path::new(&entry.stat.path), self.target(id, stat));
        // A donor's tree may have been changed since its index was read.
        let there = crate::stat::Stat::at(from, source).ok();
        let expected = (
            Kind::File,
            entry.stat.size,
            Time::from_nanos(entry.stat.mtime),
        );
        if there.map(|there| (there.kind, there.size, there.mtime)) != Some(expected) {
            return Ok(None);
        }
        if entry.stat.same(stat) {
            return match transfer::link(from, source, to, &name)? {
                Linked::Done => Ok(Some(entry.sum)),
                Linked::Never | Linked::NotThis => Ok(None),
            };
        }
        let file =
            fs::openat(from, source, crate::layer::READ, Mode::empty()).on("open", source)?;
        let mut file = File::from(file);
        let new = transfer::copy_file(&file, to, &name)?;
        let mut hash = header::start(&stat.stat(), b"", &stat.xattrs);
        fs::seek(&file, fs::SeekFrom::Start(0)).on("seek", source)?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            match file.read(&mut buffer).on("read", source)? {
                0 => break,
                got => hash.update(&buffer[..got]),
            }
        }
        finish_file(&new, stat)?;
        Ok(Some(hash.finalize().into()))
    }

    /// Where a file is put before the tree is changed.
    fn target(&self, id: u32, stat: &FileStat) -> (&OwnedFd, PathBuf) {
        if self.direct {
            (&self.tree, PathBuf::from(&stat.path))
        } else {
            (&self.stage, PathBuf::from(id.to_string()))
        }
    }

    pub(super) fn make_dir(&self, stat: &FileStat) -> Result<()> {
        let path = Path::new(&stat.path);
        fs::mkdirat(&self.tree, path, Mode::from_raw_mode(0o700)).on("mkdir", path)
    }

    /// Takes data of a requested file. No bytes mean its end.
    pub fn data(&mut self, Request(id): Request, bytes: &[u8]) -> Result<()> {
        let unknown = || Error::Transfer {
            path: id.to_string().into(),
            why: "it was not requested",
        };
        if !self.receiving.contains_key(&id) {
            let incoming = self.incoming.get(id as usize).ok_or_else(unknown)?;
            if incoming.source != Source::Staged || incoming.sum != Sum::default() {
                return Err(unknown());
            }
            let (to, name) = self.target(id, &incoming.stat);
            let file = transfer::create_file(to, &name)?;
            let hash = header::start(&incoming.stat.stat(), b"", &incoming.stat.xattrs);
            self.receiving.insert(
                id,
                Staged {
                    file,
                    hash,
                    size: 0,
                },
            );
        }
        if bytes.is_empty() {
            return self.end(id);
        }
        let staged = self.receiving.get_mut(&id).ok_or_else(unknown)?;
        staged.hash.update(bytes);
        staged.size += bytes.len() as u64;
        staged
            .file
            .write_all(bytes)
            .on("write", Path::new(&self.incoming[id as usize].stat.path))
    }

    fn end(&mut self, id: u32) -> Result<()> {
        let Some(staged) = self.receiving.remove(&id) else {
            return Ok(());
        };
        let incoming = &mut self.incoming[id as usize];
        if staged.size == incoming.stat.size {
            incoming.sum = staged.hash.finalize().into();
        } else {
            // It changed while it was sent: what arrived is what it is, and it is asked for again next time.
            incoming.stat.size = staged.size;
            incoming.sum = rehash(&self.mirror, self.direct, id, &incoming.stat)?;
        }
        finish_file(&staged.file, &incoming.stat)?;
        self.waiting -= 1;
        self.summary.bytes += staged.size;
        Ok(())
    }

    /// Changes the tree to what was announced. All requested data must have arrived.
    pub fn finish(mut self) -> Result<(Mirror, Summary)> {
        if self.waiting > 0 {
            let path = self.mirror.tree();
            return Err(Error::Transfer {
                path,
                why: "it ended before all files were sent",
            });
        }
        let rest = self.own.get(self.old.at..).unwrap_or_default();
        self.removed
            .extend(rest.iter().map(|entry| entry.stat.path.clone()));
        self.removed.sort_by(|a, b| order(a, b));
        self.summary.entries = self.incoming.len();
        self.summary.removed = self.removed.len();
        for at in 0..self.incoming.len() {
            if self.incoming[at].stat.is_hard_link() {
                let link = &self.incoming[at].stat.link;
                let first = self
                    .incoming
                    .binary_search_by(|i| order(&i.stat.path, link));
                self.incoming[at].sum = self.incoming[first.unwrap_or(at)].sum;
            }
        }
        let kept = |i: &Incoming| i.source == Source::Kept && !i.altered;
        self.summary.changed = !self.removed.is_empty() || !self.incoming.iter().all(kept);
        let summary = self.summary;
        if summary.changed {
            return Ok((self.apply()?, summary));
        }
        let mut mirror = self.mirror;
        mirror.entries = self.own;
        Ok((mirror, summary))
    }
}

/// The checksum of an entry without contents.
fn bare_sum(stat: &FileStat) -> Sum {
    let target = if stat.kind() == Kind::Symlink {
        stat.link.as_bytes()
    } else {
        b""
    };
    header::start(&stat.stat(), target, &stat.xattrs)
        .finalize()
        .into()
}

/// The checksum of a staged file whose size is not the one announced.
fn rehash(mirror: &Mirror, direct: bool, id: u32, stat: &FileStat) -> Result<Sum> {
    let path = if direct {
        mirror.tree().join(&stat.path)
    } else {
        mirror.stage().join(id.to_string())
    };
    let data = std::fs::read(&path).on("read", &path)?;
    let mut hash = header::start(&stat.stat(), b"", &stat.xattrs);
    hash.update(data);
    Ok(hash.finalize().into())
}

/// Attributes that a file gets on disk: the kernel drops capabilities when the owner changes, and so does BuildKit.
pub(super) fn on_disk(stat: &FileStat) -> Vec<Xattr> {
    let kept = stat
        .xattrs
        .iter()
        .filter(|(name, _)| name != b"security.capability");
    kept.cloned().collect()
}

pub(super) fn finish_file(file: &File, stat: &FileStat) -> Result<()> {
    let attributes = Attributes::of(&stat.stat());
    transfer::set_file_attributes(file, Path::new(&stat.path), &attributes, &on_disk(stat))
}
