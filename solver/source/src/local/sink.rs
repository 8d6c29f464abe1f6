//! Takes one transfer: decides which files must be sent, writes those into a new layer, and lands the whole as a layer of
//! differences on the mirror that it is most like, or as a fresh layer that links what is there already.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use shipway_backend::session::{FileStat, SyncRequest, SyncSink};
use shipway_backend::{BackendError, ErrorKind};
use shipway_layers::{Building, Layers, Snapshot};
use shipway_model::Failure;
use shipway_tree::Owner;
use shipway_tree::hash::{ArrivingSum, Sum};

use super::beside;
use super::mirror::{CONSULTED, Landing, Mirror, Mirrors, Outcome, Saved, Sent};

/// Stacks deeper than this are written anew as one layer.
const DEEPEST: usize = 12;
/// A file of so many bytes may be worth reading a mirror of another context for.
const LARGE: u64 = 1 << 20;
/// And so many files that are not in the context's own mirror.
const FEW: usize = 16;

const GO_DIR: u32 = 1 << 31;
const GO_SYMLINK: u32 = 1 << 27;
const GO_DEVICE: u32 = 1 << 26;
const GO_PIPE: u32 = 1 << 25;
const GO_SOCKET: u32 = 1 << 24;
const GO_SETUID: u32 = 1 << 23;
const GO_SETGID: u32 = 1 << 22;
const GO_CHAR_DEVICE: u32 = 1 << 21;
const GO_STICKY: u32 = 1 << 20;
const GO_TYPE: u32 = GO_DIR | GO_SYMLINK | GO_DEVICE | GO_PIPE | GO_SOCKET | GO_CHAR_DEVICE;

/// One transfer.
pub(super) struct MirrorSink {
    mirrors: Arc<Mirrors>,
    layers: Layers,
    /// Name of the client's directory, and key of its mirror.
    name: (String, String),
    /// Mirrors that have been read, and files of those that may be: reading them takes time too.
    known: Vec<Mirror>,
    unread: VecDeque<PathBuf>,
    /// Files that no mirror has had.
    missed: usize,
    entries: Vec<Entry>,
    building: Option<Building>,
    open: HashMap<u32, Open>,
    /// Checksums of what was written.
    sums: HashMap<PathBuf, Sum>,
    /// Several calls list the directory.
    beside: bool,
    outcome: Outcome,
}

/// A file that is being written.
struct Open {
    file: File,
    /// `None` for one with extended attributes: which of them this filesystem keeps is seen only then.
    sum: Option<ArrivingSum>,
}

struct Entry {
    path: String,
    sent: Sent,
    /// Which mirrors have the same.
    same: [bool; CONSULTED],
}

impl Entry {
    /// Index of a mirror that has the same file; `None` for what was or is to be written.
    fn from(&self) -> Option<usize> {
        let from = self.same.iter().position(|same| *same);
        from.filter(|_| self.sent.is_regular())
    }
}

impl Sent {
    fn is_regular(&self) -> bool {
        self.mode & GO_TYPE == 0 || self.mode & GO_TYPE == GO_SOCKET
    }

    fn is_dir(&self) -> bool {
        self.mode & GO_DIR != 0
    }

    pub(super) fn is_hard_link(&self) -> bool {
        self.is_regular() && !self.link_name.is_empty()
    }

    fn permissions(&self) -> u32 {
        let bit = |go: u32, unix: u32| if self.mode & go != 0 { unix } else { 0 };
        (self.mode & 0o777)
            | bit(GO_SETUID, 0o4000)
            | bit(GO_SETGID, 0o2000)
            | bit(GO_STICKY, 0o1000)
    }
}

fn failed(attempt: &str, path: &str, cause: impl Into<std::io::Error>) -> BackendError {
    let cause: std::io::Error = cause.into();
    BackendError::caused(
        ErrorKind::Other,
        format!("{attempt} {path} of the build context"),
        cause,
    )
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

/// A failure of the layer store, as a cause.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct StoreError(Failure);

impl MirrorSink {
    pub(super) fn new(
        mirrors: Arc<Mirrors>,
        layers: Layers,
        name: (String, String),
        outcome: Outcome,
    ) -> Self {
        let unread = mirrors.to_consult(&name.0, &name.1);
        let mut sink = Self {
            mirrors,
            layers,
            name,
            known: Vec::new(),
            unread,
            missed: 0,
            entries: Vec::new(),
            building: None,
            open: HashMap::new(),
            sums: HashMap::new(),
            beside: false,
            outcome,
        };
        sink.consult();
        sink
    }

    /// Directories that a call of their own may list: none where a hard link is known, which that could part.
    pub(super) fn list_beside(&mut self, request: &SyncRequest) -> Vec<Vec<String>> {
        let own = self.known.iter().find(|mirror| mirror.own);
        let groups = match own.filter(|own| request.include.is_empty() && !own.has_hard_links()) {
            Some(own) => {
                let paths: Vec<&str> = own.paths().collect();
                beside::groups(&paths, &request.follow)
            }
            None => Vec::new(),
        };
        self.beside = !groups.is_empty();
        groups
    }

    /// Whether a file is new that may be a hard link to another: where two calls list one each, both come as files.
    fn may_have_parted_links(&self) -> bool {
        let is_file =
            |e: &&Entry| e.sent.is_regular() && e.sent.link_name.is_empty() && e.sent.size > 0;
        let looks = |e: &Entry| (e.sent.size, e.sent.mod_time, e.sent.mode);
        let files = || self.entries.iter().filter(is_file);
        // The own mirror is consulted first.
        let is_new = |e: &&Entry| !e.same[0];
        let mut alike: HashMap<_, usize> = files().filter(is_new).map(|e| (looks(e), 0)).collect();
        !alike.is_empty()
            && files().any(|entry| {
                let alike = alike.get_mut(&looks(entry));
                alike.is_some_and(|count| {
                    *count += 1;
                    *count > 1
                })
            })
    }

    /// Reads one more mirror; false where there is none.
    fn consult(&mut self) -> bool {
        while self.known.len() < CONSULTED
            && let Some(file) = self.unread.pop_front()
        {
            let (name, key) = &self.name;
            let Some(mut mirror) = Mirror::open(&self.layers, file, (name, key)) else {
                continue;
            };
            let place = self.known.len();
            for entry in &mut self.entries {
                entry.same[place] = mirror.get(&entry.path) == Some(&entry.sent);
            }
            self.known.push(mirror);
            return true;
        }
        false
    }

    /// Whether a file that no mirror has that was read is worth reading another one.
    fn is_worth_consulting(&mut self, size: u64) -> bool {
        self.missed += 1;
        let own = self.known.iter().any(|mirror| mirror.own);
        !own || size >= LARGE || self.missed > FEW
    }

    fn root(&mut self) -> Result<PathBuf, BackendError> {
        if self.building.is_none() {
            self.building = Some(self.layers.begin()?);
        }
        let building = self.building.as_ref().expect("it was begun above");
        Ok(building.fs().to_owned())
    }

    /// Parents of an entry, made in the new layer with the attributes that they end up with later.
    fn make_parents(&mut self, path: &str) -> Result<PathBuf, BackendError> {
        let file = self.root()?.join(path);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent).map_err(|e| failed("making parents for", path, e))?;
        }
        Ok(file)
    }

    fn create(&mut self, index: u32) -> Result<Open, BackendError> {
        let path = self.entries[index as usize].path.clone();
        let file = self.make_parents(&path)?;
        let file = File::create_new(&file).map_err(|e| failed("writing", &path, e))?;
        let sent = &self.entries[index as usize].sent;
        let (uid, gid) = (sent.uid, sent.gid);
        let sum = || ArrivingSum::new(sent.permissions(), Owner { uid, gid }, sent.size);
        let sum = sent.xattrs.is_empty().then(sum);
        Ok(Open { file, sum })
    }

    fn complete(&mut self, index: u32, open: Open) -> Result<(), BackendError> {
        let Entry { path, sent, .. } = &self.entries[index as usize];
        let finished = finish_file(&open.file, sent);
        finished.map_err(|e| failed("setting attributes of", path, e))?;
        if let Some(sum) = open.sum.and_then(ArrivingSum::finish) {
            self.sums.insert(path.into(), sum);
        }
        Ok(())
    }

    /// The mirror that shows most of what was sent, where a layer of differences on it is worth while.
    fn base(&self) -> Option<usize> {
        let count = |place: usize| self.entries.iter().filter(|e| e.same[place]).count();
        let counts = (0..self.known.len()).map(|place| (place, count(place)));
        // Of equals the first: the transfer's own.
        let (best, same) = counts.rev().max_by_key(|(_, same)| *same)?;
        let mirror = &self.known[best];
        let differ = self.entries.len() - same + mirror.len().saturating_sub(same);
        let worth = same > 0 && differ <= self.entries.len() / 4 + 16;
        (worth && mirror.snapshot.layers().len() < DEEPEST).then_some(best)
    }

    /// The result, and the mirror that it is without a change.
    fn land(&mut self) -> Result<(Snapshot, Option<usize>), BackendError> {
        match self.base() {
            Some(base) => self.land_on(base),
            None => Ok((self.land_fresh()?, None)),
        }
    }

    fn land_on(&mut self, base: usize) -> Result<(Snapshot, Option<usize>), BackendError> {
        let changed: Vec<usize> = (0..self.entries.len())
            .filter(|&i| !self.entries[i].same[base])
            .collect();
        let old = &self.known[base];
        let gone = if changed.is_empty() && old.len() == self.entries.len() {
            Vec::new()
        } else {
            let sent: HashSet<&str> = self.entries.iter().map(|e| e.path.as_str()).collect();
            topmost(old.paths().filter(|path| !sent.contains(path)))
        };
        let below = self.known[base].snapshot.clone();
        if gone.is_empty() && changed.is_empty() && self.building.is_none() {
            return Ok((below, Some(base)));
        }
        for &index in &changed {
            self.place(index)?;
        }
        for path in &gone {
            let file = self.make_parents(path)?;
            let whiteout =
                rustix::fs::mknodat(CWD, &file, FileType::CharacterDevice, Mode::empty(), 0);
            whiteout.map_err(|e| failed("removing", path, e))?;
        }
        self.settle_directories()?;
        Ok((below.with(self.finish()?), None))
    }

    fn land_fresh(&mut self) -> Result<Snapshot, BackendError> {
        self.root()?;
        for index in 0..self.entries.len() {
            self.place(index)?;
        }
        self.settle_directories()?;
        Ok(Snapshot::new(vec![self.finish()?]))
    }

    fn finish(&mut self) -> Result<shipway_layers::Layer, BackendError> {
        let building = self.building.take().expect("something was written");
        let name = format!("local source for {}", self.name.0);
        let finished = building.finish(&name, Timestamp::now());
        let finished = finished.map_err(Failure::from).and_then(|layer| {
            self.layers.learn(&layer, &std::mem::take(&mut self.sums))?;
            Ok(layer)
        });
        finished.map_err(|failure| {
            let cause = StoreError::from(failure);
            BackendError::caused(ErrorKind::Other, format!("committing the {name}"), cause)
        })
    }

    /// Puts an entry into the new layer, unless it was written when its data came.
    fn place(&mut self, index: usize) -> Result<(), BackendError> {
        let entry = &self.entries[index];
        let (path, sent, from) = (entry.path.clone(), entry.sent.clone(), entry.from());
        let file = self.make_parents(&path)?;
        if sent.is_dir() {
            return match std::fs::create_dir(&file) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    Err(failed("making", &path, e))
                }
                _ => Ok(()),
            };
        }
        if sent.is_hard_link() {
            return self.place_hard_link(&path, &file, &sent.link_name);
        }
        if sent.is_regular() {
            return match from {
                Some(mirror) => self.link_from(mirror, &path, &file),
                None => Ok(()),
            };
        }
        special(&file, &sent).map_err(|e| failed("making", &path, e))
    }

    /// Links a file that a mirror has. The layers below it are never changed, so sharing the inode is safe.
    fn link_from(&self, mirror: usize, path: &str, file: &Path) -> Result<(), BackendError> {
        for layer in self.known[mirror].snapshot.layers().iter().rev() {
            let Some(root) = layer.path() else { continue };
            match std::fs::hard_link(root.join(path), file) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NOTDIR.raw_os_error()) => {}
                Err(_) => {
                    return copy(&root.join(path), file).map_err(|e| failed("copying", path, e));
                }
            }
        }
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        Err(failed("finding again", path, missing))
    }

    fn place_hard_link(
        &mut self,
        path: &str,
        file: &Path,
        first: &str,
    ) -> Result<(), BackendError> {
        let first_file = self.root()?.join(first);
        if !first_file.exists() {
            let from = self
                .entries
                .iter()
                .find(|e| e.path == first)
                .and_then(Entry::from);
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            let mirror = from.ok_or_else(|| failed("linking", path, missing))?;
            return self.link_from(mirror, first, file);
        }
        std::fs::hard_link(first_file, file).map_err(|e| failed("linking", path, e))
    }

    /// Gives every directory of the new layer its attributes, children first, since making a child changes the parent's.
    fn settle_directories(&mut self) -> Result<(), BackendError> {
        let root = self.root()?;
        for Entry { path, sent, .. } in self.entries.iter().rev().filter(|e| e.sent.is_dir()) {
            let dir = root.join(path);
            match File::open(&dir) {
                Ok(open) => finish_file(&open, sent)
                    .map_err(|e| failed("setting attributes of", path, e))?,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed("opening", path, e)),
            }
        }
        Ok(())
    }
}

impl SyncSink for MirrorSink {
    fn entry(&mut self, _index: u32, stat: FileStat) -> Result<bool, BackendError> {
        let path = stat.path.clone();
        let sent = Sent::from(stat);
        let size = sent.size;
        let mut same = [false; CONSULTED];
        for (mirror, same) in self.known.iter_mut().zip(&mut same) {
            *same = mirror.get(&path) == Some(&sent);
        }
        self.entries.push(Entry { path, sent, same });
        let last = self.entries.len() - 1;
        let is_missing = |sink: &Self| {
            let entry = &sink.entries[last];
            entry.sent.is_regular() && entry.from().is_none()
        };
        if is_missing(self) && self.is_worth_consulting(size) {
            while is_missing(self) && self.consult() {}
        }
        Ok(is_missing(self) && self.entries[last].sent.link_name.is_empty())
    }

    fn data(&mut self, index: u32, data: &[u8]) -> Result<(), BackendError> {
        let mut open = match self.open.remove(&index) {
            Some(open) => open,
            None => self.create(index)?,
        };
        if data.is_empty() {
            return self.complete(index, open);
        }
        let written = open.file.write_all(data);
        written.map_err(|e| failed("writing", &self.entries[index as usize].path, e))?;
        if let Some(sum) = &mut open.sum {
            sum.update(data);
        }
        self.open.insert(index, open);
        Ok(())
    }

    fn end(&mut self) -> Result<(), BackendError> {
        if self.beside && self.may_have_parted_links() {
            *self.outcome.lock() = Some(Landing::Unsure);
            return Ok(());
        }
        let (snapshot, unchanged) = self.land()?;
        if let Some(own) = unchanged.filter(|&base| self.known[base].own) {
            self.mirrors.renew(&self.known[own].file);
            *self.outcome.lock() = Some(Landing::As(snapshot));
            return Ok(());
        }
        let saved = Saved {
            name: self.name.0.clone(),
            layers: snapshot.ids().collect(),
            entries: std::mem::take(&mut self.entries)
                .into_iter()
                .map(|e| (e.path, e.sent))
                .collect(),
        };
        self.mirrors.save(&self.name.1, &saved)?;
        *self.outcome.lock() = Some(Landing::As(snapshot));
        Ok(())
    }
}

/// Paths of which no parent is among them.
fn topmost<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<String> {
    let all: BTreeSet<&str> = paths.collect();
    let covered = |path: &str| {
        let parents = path
            .char_indices()
            .filter(|(_, c)| *c == '/')
            .map(|(at, _)| &path[..at]);
        parents.into_iter().any(|parent| all.contains(parent))
    };
    all.iter()
        .filter(|path| !covered(path))
        .map(|&path| path.to_owned())
        .collect()
}

fn times(sent: &Sent) -> Timestamps {
    let (sec, nsec) = (
        sent.mod_time.div_euclid(1_000_000_000),
        sent.mod_time.rem_euclid(1_000_000_000),
    );
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: sec,
            tv_nsec: nsec,
        },
    }
}

fn finish_file(file: &File, sent: &Sent) -> std::io::Result<()> {
    for (name, value) in &sent.xattrs {
        match rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()) {
            // What this filesystem cannot hold is no reason to refuse a context.
            Ok(()) | Err(rustix::io::Errno::NOTSUP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    if (sent.uid, sent.gid) != (0, 0) {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(sent.uid),
            rustix::fs::Gid::from_raw(sent.gid),
        );
        rustix::fs::fchown(file, Some(uid), Some(gid))?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(sent.permissions()))?;
    Ok(rustix::fs::futimens(file, &times(sent))?)
}

fn special(file: &Path, sent: &Sent) -> std::io::Result<()> {
    if sent.mode & GO_SYMLINK != 0 {
        std::os::unix::fs::symlink(&sent.link_name, file)?;
    } else {
        let kind = match sent.mode & GO_TYPE {
            m if m & GO_CHAR_DEVICE != 0 => FileType::CharacterDevice,
            m if m & GO_DEVICE != 0 => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let number = |n: i64| u32::try_from(n).unwrap_or(0);
        let device = rustix::fs::makedev(number(sent.dev.0), number(sent.dev.1));
        let mode = Mode::from_raw_mode(sent.permissions());
        rustix::fs::mknodat(CWD, file, kind, mode, device)?;
        rustix::fs::chmodat(CWD, file, mode, AtFlags::empty())?;
    }
    Ok(rustix::fs::utimensat(
        CWD,
        file,
        &times(sent),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// A copy with attributes, where a link is not possible (too many links).
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut source = File::open(from)?;
    let meta = source.metadata()?;
    let mut target = File::create_new(to)?;
    std::io::copy(&mut source, &mut target)?;
    target.set_permissions(meta.permissions())?;
    target.set_modified(meta.modified()?)
}
