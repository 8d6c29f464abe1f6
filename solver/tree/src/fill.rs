//! Fills an empty upper directory of another snapshotter with a layer of ours: shared extents where the filesystem
//! has them, else hard links, else copies. Whiteouts, opaque marks and metadata come along; overlayfs's private
//! bookkeeping does not. It never changes the source.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{self, Mode, OFlags, XattrFlags};

use crate::error::{Context, Result};
use crate::layer::{self, Layer, OPAQUE};
use crate::parallel;
use crate::stat::{Kind, Stat};
use crate::transfer::{self, Attributes, Linked};

/// Files below this size are copied: they cost little, and some programs refuse a file with several names.
const ALWAYS_COPIED: u64 = 4096;

/// How files came into being.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filled {
    /// Sharing extents.
    pub cloned: u64,
    /// As further names.
    pub linked: u64,
    /// By their bytes.
    pub copied: u64,
}

/// Fills the directory at `target` from `layer`.
pub fn fill(layer: &Layer, target: &Path) -> Result<Filled> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = fs::open(target, flags, Mode::empty()).on("open", target)?;
    let fill = Fill {
        layer,
        root: &target,
        done: [const { AtomicU64::new(0) }; 3],
        names: Mutex::default(),
        way: AtomicUsize::new(CLONE),
    };
    parallel::run(vec![PathBuf::new()], |rel| fill.dir(&rel))?;
    let [cloned, linked, copied] = fill.done.map(AtomicU64::into_inner);
    Ok(Filled {
        cloned,
        linked,
        copied,
    })
}

/// The ways to give a file's contents to the target, the best first.
const CLONE: usize = 0;
const LINK: usize = 1;
const COPY: usize = 2;

/// Where an inode of the layer has its first name, once it has one.
type First = Arc<Mutex<Option<PathBuf>>>;

struct Fill<'a> {
    layer: &'a Layer,
    root: &'a OwnedFd,
    /// Files by the way that they went.
    done: [AtomicU64; 3],
    /// Inodes with several names in this layer.
    names: Mutex<HashMap<u64, First>>,
    /// The best way, as far as is known.
    way: AtomicUsize,
}

/// A name in the target, and what goes there.
struct Target<'a> {
    dir: &'a OwnedFd,
    name: &'a Path,
    /// Path below the root.
    path: PathBuf,
    stat: Stat,
}

impl Fill<'_> {
    /// Fills a directory that exists; gives the ones in it.
    fn dir(&self, rel: &Path) -> Result<Vec<PathBuf>> {
        let (from, to) = (
            self.layer.open_dir(rel)?,
            transfer::open_dir(self.root, rel)?,
        );
        let mut inner = Vec::new();
        for entry in layer::entries(&from, rel)? {
            let name = Path::new(&entry.name);
            let path = rel.join(name);
            let stat = Stat::at(&from, name).on("lstat", &path)?;
            if stat.is_dir() {
                fs::mkdirat(&to, name, Mode::from_raw_mode(0o700)).on("mkdir", &path)?;
                inner.push(path);
            } else {
                self.leaf(
                    &from,
                    &Target {
                        dir: &to,
                        name,
                        path,
                        stat,
                    },
                )?;
            }
        }
        dir_attributes(rel, &from, &to)?;
        Ok(inner)
    }

    fn leaf(&self, from: &OwnedFd, to: &Target<'_>) -> Result<()> {
        if to.stat.is_whiteout() {
            let kind = fs::FileType::CharacterDevice;
            return fs::mknodat(to.dir, to.name, kind, Mode::empty(), 0).on("whiteout", &to.path);
        }
        if to.stat.kind == Kind::File {
            return self.file(from, to);
        }
        if to.stat.kind == Kind::Symlink {
            let target = layer::read_link(from, to.name)?;
            fs::symlinkat(&target[..], to.dir, to.name).on("symlink", &to.path)?;
        } else {
            transfer::create_node(to.dir, to.name, &to.stat)?;
        }
        let xattrs = layer::xattrs_at(from, to.name)?;
        let attributes = Attributes::of(&to.stat);
        transfer::set_attributes(to.dir, to.name, to.stat.kind, &attributes, &xattrs)
    }

    /// Names of one inode stay names of one inode.
    fn file(&self, from: &OwnedFd, to: &Target<'_>) -> Result<()> {
        if to.stat.nlink < 2 {
            return self.contents(from, to);
        }
        let first = Arc::clone(lock(&self.names).entry(to.stat.ino).or_default());
        let mut first = lock(&first);
        if let Some(first) = &*first
            && transfer::link(self.root, first, to.dir, to.name)? == Linked::Done
        {
            return Ok(());
        }
        self.contents(from, to)?;
        *first = Some(to.path.clone());
        Ok(())
    }

    fn contents(&self, from: &OwnedFd, to: &Target<'_>) -> Result<()> {
        let way = self.way.load(Ordering::Relaxed);
        let linkable = to.stat.size >= ALWAYS_COPIED && !is_cron(&to.path);
        if way == LINK && linkable {
            match transfer::link(from, to.name, to.dir, to.name)? {
                Linked::Done => {
                    self.count(LINK);
                    return Ok(());
                }
                Linked::Never => self.way.store(COPY, Ordering::Relaxed),
                Linked::NotThis => {}
            }
        }
        let attributes = Attributes::of(&to.stat);
        let source = fs::openat(from, to.name, layer::READ, Mode::empty()).on("open", &to.path)?;
        let source = File::from(source);
        if way == CLONE && to.stat.size > 0 {
            if let Some(new) = self.clone_file(&source, to)? {
                self.count(CLONE);
                let xattrs = layer::xattrs_of(&source, to.name)?;
                return transfer::set_file_attributes(&new, to.name, &attributes, &xattrs);
            }
            return self.contents(from, to);
        }
        self.count(COPY);
        transfer::copy_whole(&source, to.dir, to.name, &attributes)
    }

    fn count(&self, way: usize) {
        self.done[way].fetch_add(1, Ordering::Relaxed);
    }

    /// Creates a file that shares the extents of another; if that fails, no other is tried.
    fn clone_file(&self, source: &File, to: &Target<'_>) -> Result<Option<File>> {
        let new = transfer::create_file(to.dir, to.name)?;
        if fs::ioctl_ficlone(&new, source).is_ok() {
            return Ok(Some(new));
        }
        self.way.store(LINK, Ordering::Relaxed);
        fs::unlinkat(to.dir, to.name, fs::AtFlags::empty()).on("remove", &to.path)?;
        Ok(None)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn dir_attributes(rel: &Path, from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let stat = Stat::from(&fs::fstat(from).on("stat", rel)?);
    let dot = Path::new(".");
    let xattrs = layer::xattrs_at(from, dot)?;
    if xattrs
        .iter()
        .any(|(name, value)| name == OPAQUE.as_bytes() && value == b"y")
    {
        fs::fsetxattr(to, OPAQUE, b"y", XattrFlags::empty()).on("setxattr", rel)?;
    }
    transfer::set_attributes(to, dot, Kind::Dir, &Attributes::of(&stat), &xattrs)
}

/// cron ignores files that have more than one name.
pub(crate) fn is_cron(rel: &Path) -> bool {
    let mut parts = rel.iter().map(OsStr::to_string_lossy);
    match (
        parts.next().as_deref(),
        parts.next().as_deref(),
        parts.next().as_deref(),
    ) {
        (Some("etc"), Some(second), _) => second.starts_with("cron"),
        (Some("var"), Some("spool"), Some("cron")) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stat::{Time, set_mtime};
    use std::fs as std_fs;

    /// The bits that a directory entry of ours and its copy must share.
    fn shape(stat: &Stat) -> (Kind, u32, u32, u32, (u32, u32)) {
        let rdev = if matches!(stat.kind, Kind::CharDevice | Kind::BlockDevice) {
            stat.rdev
        } else {
            (0, 0)
        };
        (stat.kind, stat.mode, stat.uid, stat.gid, rdev)
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn a_filled_directory_is_the_same_layer() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        std_fs::create_dir_all(from.join("d/e")).unwrap();
        std_fs::create_dir_all(from.join("etc/cron.d")).unwrap();
        std_fs::create_dir(&to).unwrap();
        for (name, size) in [
            ("d/small", 10),
            ("d/big", 10_000),
            ("etc/cron.d/job", 10_000),
        ] {
            std_fs::write(from.join(name), vec![7; size]).unwrap();
        }
        std_fs::hard_link(from.join("d/small"), from.join("d/e/other")).unwrap();
        std::os::unix::fs::symlink("x", from.join("d/l")).unwrap();
        let device = fs::FileType::CharacterDevice;
        fs::mknodat(fs::CWD, from.join("d/gone"), device, Mode::empty(), 0).unwrap();
        fs::setxattr(from.join("d/e"), OPAQUE, b"y", XattrFlags::empty()).unwrap();
        fs::setxattr(
            from.join("d"),
            "trusted.overlay.origin",
            b"?",
            XattrFlags::empty(),
        )
        .unwrap();
        set_mtime(
            std_fs::File::open(&from).unwrap(),
            Path::new("d"),
            Time { sec: 5, nsec: 6 },
        )
        .unwrap();
        let a = Layer::open(&from).unwrap();
        let filled = fill(&a, &to).unwrap();
        assert_eq!(filled.linked + filled.cloned + filled.copied, 3);
        let b = Layer::open(&to).unwrap();
        for path in [
            "",
            "d",
            "d/e",
            "d/small",
            "d/big",
            "d/e/other",
            "d/l",
            "d/gone",
            "etc/cron.d/job",
        ] {
            let path = Path::new(path);
            let (x, y) = (
                a.stat(path).unwrap().unwrap(),
                b.stat(path).unwrap().unwrap(),
            );
            assert_eq!(shape(&x), shape(&y), "{}", path.display());
            if x.kind != Kind::CharDevice {
                assert_eq!(x.mtime, y.mtime, "{}", path.display());
            }
        }
        let ino = |path: &str| b.stat(Path::new(path)).unwrap().unwrap().ino;
        assert_eq!(ino("d/small"), ino("d/e/other"));
        assert!(b.is_opaque(Path::new("d/e")).unwrap());
        assert_eq!(
            b.xattr(Path::new("d"), "trusted.overlay.origin").unwrap(),
            None
        );
        assert_eq!(
            b.stat(Path::new("etc/cron.d/job")).unwrap().unwrap().nlink,
            1
        );
        assert_eq!(std_fs::read(to.join("d/small")).unwrap(), vec![7; 10]);
    }
}
