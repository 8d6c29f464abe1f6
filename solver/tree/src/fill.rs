//! Fills an empty upper directory of another snapshotter with a layer of ours: shared extents where the filesystem
//! has them, else hard links, else copies. Whiteouts, opaque marks and metadata come along; overlayfs's private
//! bookkeeping does not. It never changes the source.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::layer::{self, Layer, OPAQUE};
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
    let mut fill = Fill {
        layer,
        root: &target,
        done: Filled::default(),
        names: HashMap::new(),
        way: Way::Clone,
    };
    fill.dir(Path::new(""), &target)?;
    Ok(fill.done)
}

struct Fill<'a> {
    layer: &'a Layer,
    root: &'a OwnedFd,
    done: Filled,
    /// Where inodes with several names in this layer are.
    names: HashMap<u64, PathBuf>,
    way: Way,
}

/// The best way to give a file's contents to the target, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The filesystem shares extents.
    Clone,
    /// Both directories are on one mount.
    Link,
    /// Neither.
    Copy,
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
    fn dir(&mut self, rel: &Path, to: &OwnedFd) -> Result<()> {
        let from = self.layer.open_dir(rel)?;
        for entry in layer::entries(&from, rel)? {
            let name = Path::new(&entry.name);
            let path = rel.join(name);
            let stat = Stat::at(&from, name).on("lstat", &path)?;
            if stat.is_dir() {
                fs::mkdirat(to, name, Mode::from_raw_mode(0o700)).on("mkdir", &path)?;
                let inner = transfer::open_dir(to, name)?;
                self.dir(&path, &inner)?;
            } else {
                self.leaf(
                    &from,
                    &Target {
                        dir: to,
                        name,
                        path,
                        stat,
                    },
                )?;
            }
        }
        dir_attributes(rel, &from, to)
    }

    fn leaf(&mut self, from: &OwnedFd, to: &Target<'_>) -> Result<()> {
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

    fn file(&mut self, from: &OwnedFd, to: &Target<'_>) -> Result<()> {
        if self.link(from, to)? {
            return Ok(());
        }
        let attributes = Attributes::of(&to.stat);
        let source = fs::openat(from, to.name, layer::READ, Mode::empty()).on("open", &to.path)?;
        let source = File::from(source);
        let Some(new) = self.clone_file(&source, to)? else {
            self.done.copied += 1;
            return transfer::copy_whole(&source, to.dir, to.name, &attributes);
        };
        self.done.cloned += 1;
        let xattrs = layer::xattrs_of(&source, to.name)?;
        transfer::set_file_attributes(&new, to.name, &attributes, &xattrs)
    }

    /// Gives a file another name, of the layer's file or of one that is here already, where that is right.
    fn link(&mut self, from: &OwnedFd, to: &Target<'_>) -> Result<bool> {
        if to.stat.nlink > 1 {
            if let Some(first) = self.names.get(&to.stat.ino) {
                return Ok(transfer::link(self.root, first, to.dir, to.name)? == Linked::Done);
            }
            self.names.insert(to.stat.ino, to.path.clone());
        }
        if to.stat.size < ALWAYS_COPIED || self.way != Way::Link || is_cron(&to.path) {
            return Ok(false);
        }
        match transfer::link(from, to.name, to.dir, to.name)? {
            Linked::Done => {
                self.done.linked += 1;
                return Ok(true);
            }
            Linked::Never => self.way = Way::Copy,
            Linked::NotThis => {}
        }
        Ok(false)
    }

    /// Creates a file that shares the extents of another, if the filesystem can.
    fn clone_file(&mut self, source: &File, to: &Target<'_>) -> Result<Option<File>> {
        if self.way != Way::Clone {
            return Ok(None);
        }
        let new = transfer::create_file(to.dir, to.name)?;
        match fs::ioctl_ficlone(&new, source) {
            Ok(()) => return Ok(Some(new)),
            Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::NOTTY | Errno::NOSYS) => {
                self.way = Way::Link;
            }
            Err(_) => {}
        }
        fs::unlinkat(to.dir, to.name, fs::AtFlags::empty()).on("remove", &to.path)?;
        Ok(None)
    }
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
