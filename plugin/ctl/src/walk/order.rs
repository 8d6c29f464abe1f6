//! Reads directories on several threads and emits their entries in order. Decides nothing about entries: `filter` says
//! which are wanted, `entry` what is said about them.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use shipway_proto::fsutil::Stat;

use super::entry::{self, Found};
use super::filter::{Directory, Filter, Inherited};
use super::{Visit, WalkError};

/// A directory that waits to be read.
struct Job {
    relative: String,
    full: PathBuf,
    inherited: Inherited,
    slot: Arc<Slot>,
}

/// Where a directory's entries appear once it is read.
#[derive(Default)]
struct Slot {
    entries: Mutex<Option<Result<Vec<Node>, WalkError>>>,
    filled: Condvar,
}

/// An entry, and for a directory what is below it.
struct Node {
    found: Found,
    below: Option<Below>,
}

struct Below {
    listed: bool,
    slot: Arc<Slot>,
}

/// Directories to read. The next in the order of emission lies on top.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    waiting: Vec<Job>,
    ended: bool,
}

/// A panic elsewhere ends the walk anyway; the data itself is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn walk(root: &Path, filter: &Filter, visitor: &mut dyn Visit) -> Result<(), WalkError> {
    let root = root.canonicalize().map_err(|source| WalkError::Read {
        doing: "resolving",
        path: root.to_owned(),
        source,
    })?;
    let queue = Queue::default();
    let top = Arc::new(Slot::default());
    queue.push(vec![Job {
        relative: String::new(),
        full: root,
        inherited: Inherited::default(),
        slot: Arc::clone(&top),
    }]);
    let readers = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .min(8);
    std::thread::scope(|scope| {
        for _ in 0..readers {
            scope.spawn(|| queue.read_until_end(filter));
        }
        let walked = Emitter::new(visitor).emit(&top);
        queue.end();
        walked.map(|_| ())
    })
}

impl Queue {
    fn push(&self, jobs: Vec<Job>) {
        let more = jobs.len();
        lock(&self.state).waiting.extend(jobs);
        if more > 0 {
            self.changed.notify_all();
        }
    }

    fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }

    fn next(&self) -> Option<Job> {
        let mut state = lock(&self.state);
        loop {
            if state.ended {
                return None;
            }
            if let Some(job) = state.waiting.pop() {
                return Some(job);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn read_until_end(&self, filter: &Filter) {
        while let Some(job) = self.next() {
            let (entries, mut jobs) = match read(&job, filter) {
                Ok((nodes, jobs)) => (Ok(nodes), jobs),
                Err(error) => (Err(error), Vec::new()),
            };
            jobs.reverse();
            self.push(jobs);
            *lock(&job.slot.entries) = Some(entries);
            job.slot.filled.notify_all();
        }
    }
}

impl Slot {
    fn wait(&self) -> Result<Vec<Node>, WalkError> {
        let mut entries = lock(&self.entries);
        loop {
            if let Some(read) = entries.take() {
                return read;
            }
            entries = self
                .filled
                .wait(entries)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn read(job: &Job, filter: &Filter) -> Result<(Vec<Node>, Vec<Job>), WalkError> {
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |errno: Errno| WalkError::Read {
            doing,
            path,
            source: errno.into(),
        }
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = match rustix::fs::openat(CWD, &job.full, flags, Mode::empty()) {
        // Gone since it was listed, or replaced by something else.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok((Vec::new(), Vec::new())),
        other => other.map_err(failed("opening directory", &job.full))?,
    };
    let names = names(&dir).map_err(failed("reading directory", &job.full))?;
    let mut nodes = Vec::with_capacity(names.len());
    let mut jobs = Vec::new();
    for (name, kind) in names {
        let full = job.full.join(entry::name_path(&name));
        let relative = match job.relative.as_str() {
            "" => entry::name_text(&name),
            parent => format!("{parent}/{}", entry::name_text(&name)),
        };
        let kind = match kind {
            FileType::Unknown => match rustix::fs::lstat(&full) {
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                stat => FileType::from_raw_mode(stat.map_err(failed("looking at", &full))?.st_mode),
            },
            known => known,
        };
        let below = match kind {
            FileType::Directory => match filter.enter(&relative, &job.inherited) {
                Directory::Pruned => continue,
                Directory::Entered { listed, inherited } => Some((listed, inherited)),
            },
            _ if filter.wants(&relative, &job.inherited) => None,
            _ => continue,
        };
        let looked = entry::look(dir.as_fd(), &name, relative.clone(), &full);
        let Some(found) = looked.map_err(failed("looking at", &full))? else {
            continue;
        };
        let below = below.map(|(listed, inherited)| {
            let slot = Arc::new(Slot::default());
            jobs.push(Job {
                relative,
                full,
                inherited,
                slot: Arc::clone(&slot),
            });
            Below { listed, slot }
        });
        nodes.push(Node { found, below });
    }
    Ok((nodes, jobs))
}

fn names(dir: &std::os::fd::OwnedFd) -> Result<Vec<(CString, FileType)>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push((name.to_owned(), entry.file_type()));
        }
    }
    names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(names)
}

/// Hands entries over in order, and what only an order decides: parents that turn out to be needed, and hard links.
struct Emitter<'a> {
    visitor: &'a mut dyn Visit,
    /// Directories on the way down that are not listed themselves, unless something below them is.
    pending: Vec<Stat>,
    first_names: HashMap<(u32, u32, u64), String>,
}

impl<'a> Emitter<'a> {
    fn new(visitor: &'a mut dyn Visit) -> Self {
        Self {
            visitor,
            pending: Vec::new(),
            first_names: HashMap::new(),
        }
    }

    /// False: the visitor wants no more.
    fn emit(&mut self, slot: &Slot) -> Result<bool, WalkError> {
        for node in slot.wait()? {
            let going_on = match node.below {
                None => self.entry(node.found),
                Some(below) => self.directory(node.found.stat, &below)?,
            };
            if !going_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn entry(&mut self, found: Found) -> bool {
        let mut stat = found.stat;
        if let Some(inode) = found.linked {
            match self.first_names.get(&inode) {
                Some(first) => stat.linkname.clone_from(first),
                None => {
                    self.first_names.insert(inode, stat.path.clone());
                }
            }
        }
        self.parents() && self.visitor.entry(stat)
    }

    fn parents(&mut self) -> bool {
        self.pending
            .drain(..)
            .all(|parent| self.visitor.entry(parent))
    }

    fn directory(&mut self, stat: Stat, below: &Below) -> Result<bool, WalkError> {
        if below.listed {
            return Ok(self.parents() && self.visitor.entry(stat) && self.emit(&below.slot)?);
        }
        let depth = self.pending.len();
        self.pending.push(stat);
        let going_on = self.emit(&below.slot)?;
        // Shorter already, if something below was listed.
        self.pending.truncate(depth);
        Ok(going_on)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[derive(Default)]
    struct Collected(Vec<Stat>);

    impl Visit for Collected {
        fn entry(&mut self, stat: Stat) -> bool {
            self.0.push(stat);
            true
        }
    }

    fn listed(root: &Path, include: &[&str], exclude: &[&str]) -> Vec<Stat> {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let filter = Filter::new(root, own(include), &own(exclude), &[]).unwrap();
        let mut collected = Collected::default();
        walk(root, &filter, &mut collected).unwrap();
        collected.0
    }

    fn paths(stats: &[Stat]) -> Vec<&str> {
        stats.iter().map(|stat| stat.path.as_str()).collect()
    }

    fn sample() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/b/one", "a/two", "a.txt", "c/d/e/three", "z"] {
            let full = dir.path().join(path);
            std::fs::create_dir_all(full.parent().unwrap()).unwrap();
            std::fs::write(full, path).unwrap();
        }
        symlink("a/two", dir.path().join("l")).unwrap();
        std::fs::hard_link(dir.path().join("a/two"), dir.path().join("hard")).unwrap();
        dir
    }

    #[test]
    fn entries_come_sorted_by_path_element() {
        let dir = sample();
        let stats = listed(dir.path(), &[], &[]);
        let expected = [
            "a",
            "a/b",
            "a/b/one",
            "a/two",
            "a.txt",
            "c",
            "c/d",
            "c/d/e",
            "c/d/e/three",
            "hard",
            "l",
            "z",
        ];
        assert_eq!(paths(&stats), expected);
        let by_path = |path: &str| stats.iter().find(|stat| stat.path == path).unwrap();
        assert_eq!(by_path("hard").linkname, "a/two");
        assert_eq!(by_path("a/two").linkname, "");
        assert_eq!(
            (by_path("l").linkname.as_str(), by_path("l").size),
            ("a/two", 5)
        );
        assert_eq!((by_path("a").size, by_path("a").uid), (0, 0));
    }

    #[test]
    fn parents_of_included_entries_are_listed_once() {
        let dir = sample();
        let stats = listed(dir.path(), &["c/d/e/three", "a/*"], &[]);
        assert_eq!(
            paths(&stats),
            [
                "a",
                "a/b",
                "a/b/one",
                "a/two",
                "c",
                "c/d",
                "c/d/e",
                "c/d/e/three"
            ]
        );
        assert_eq!(
            paths(&listed(dir.path(), &["**/three"], &[])),
            ["c", "c/d", "c/d/e", "c/d/e/three"]
        );
        assert_eq!(
            paths(&listed(dir.path(), &["nothing"], &[])),
            Vec::<&str>::new()
        );
    }

    #[test]
    fn excluded_directories_come_back_for_their_exceptions() {
        let dir = sample();
        let stats = listed(dir.path(), &[], &["*", "!a/two"]);
        assert_eq!(paths(&stats), ["a", "a/two"]);
        let stats = listed(dir.path(), &[], &["a", "c", "hard", "l"]);
        assert_eq!(paths(&stats), ["a.txt", "z"]);
    }
}
