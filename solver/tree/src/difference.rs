//! A layer that turns one tree into another where neither is built upon the other: what is new or differs, and a whiteout
//! for what is gone. Files are links to those of the tree, not copies, where the filesystem allows it. What counts as a
//! change is the differ's business.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode, XattrFlags};
use shipway_model::op::FileCopy;

use crate::compose::{Composer, Origin};
use crate::differ::{self, Change};
use crate::error::{Context, Result};
use crate::layer::{Layer, OPAQUE};
use crate::stack::Stack;
use crate::stat::{Kind, Stat};
use crate::transfer::{self, Attributes, Linked};

/// Fills the empty directory `to` with what `upper` has or lacks against `lower`. `scratch` is another empty directory on
/// the same filesystem, of no use afterwards.
pub fn difference(lower: &Stack, upper: &Stack, scratch: &Path, to: &Path) -> Result<()> {
    if !upper.layers().is_empty() {
        let mut whole = Composer::open(scratch, &Stack::default())?;
        let origin = Origin {
            tree: upper.clone(),
            linkable: true,
        };
        whole.copy(&origin, &everything("/", "/"), None)?;
    }
    // An opaque layer is compared name by name with the tree that it hides.
    fs::setxattr(scratch, OPAQUE, b"y", XattrFlags::empty()).on("setxattr", scratch)?;
    explicit(&Layer::open(scratch)?, lower, to)
}

/// Fills the empty directory `to` with what `layer` changes upon `lower`, without opaque directories: each name that they
/// hide gets a whiteout, so that they hide nothing else wherever the layer is put.
pub fn explicit(layer: &Layer, lower: &Stack, to: &Path) -> Result<()> {
    let mut output = Output {
        whole: layer,
        to: Layer::open(to)?,
        dirs: Vec::new(),
    };
    differ::changes(layer, lower, &mut |change| output.take(change))?;
    output.finish()
}

/// True where some directory of a layer is opaque.
pub fn has_opaque(layer: &Layer) -> Result<bool> {
    let mut open = vec![PathBuf::new()];
    while let Some(dir) = open.pop() {
        if layer.is_opaque(&dir)? {
            return Ok(true);
        }
        let entries = layer.entries(&dir)?;
        let dirs = entries.into_iter().filter(|entry| entry.kind == Kind::Dir);
        open.extend(dirs.map(|entry| dir.join(entry.name)));
    }
    Ok(false)
}

/// A copy of all that is in a directory, as it is.
#[must_use]
pub fn everything(src: &str, dest: &str) -> FileCopy {
    FileCopy {
        src: src.into(),
        dest: dest.into(),
        owner: None,
        mode: -1,
        mode_str: String::new(),
        follow_symlink: false,
        dir_copy_contents: true,
        attempt_unpack: false,
        create_dest_path: true,
        allow_wildcard: false,
        allow_empty_wildcard: false,
        timestamp: -1,
        include_patterns: Vec::new(),
        exclude_patterns: Vec::new(),
        always_replace: true,
        required_paths: Vec::new(),
    }
}

struct Output<'a> {
    whole: &'a Layer,
    to: Layer,
    /// Directories that were made; they get their attributes when nothing more goes in.
    dirs: Vec<(PathBuf, Stat)>,
}

impl Output<'_> {
    fn take(&mut self, change: Change) -> Result<()> {
        match change {
            Change::Removed(path) => {
                let kind = FileType::CharacterDevice;
                fs::mknodat(&self.to, &path, kind, Mode::empty(), 0).on("mknod", &path)
            }
            Change::Present { path, .. } if path.as_os_str().is_empty() => Ok(()),
            Change::Present { path, stat, .. } if stat.kind == Kind::Dir => {
                fs::mkdirat(&self.to, &path, Mode::RWXU).on("mkdir", &path)?;
                self.dirs.push((path, stat));
                Ok(())
            }
            Change::Present {
                path,
                same_as: Some(first),
                ..
            } => {
                // Of a name that did not change itself nobody has announced the directory.
                self.parents(&path)?;
                match transfer::link(&self.to, &first, &self.to, &path)? {
                    Linked::Done => Ok(()),
                    Linked::Never | Linked::NotThis => self.copy(&path),
                }
            }
            Change::Present { path, .. } => self.link(&path),
        }
    }

    fn parents(&mut self, path: &Path) -> Result<()> {
        let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        else {
            return Ok(());
        };
        if self.to.stat(parent)?.is_some() {
            return Ok(());
        }
        self.parents(parent)?;
        fs::mkdirat(&self.to, parent, Mode::RWXU).on("mkdir", parent)?;
        if let Some(stat) = self.whole.stat(parent)? {
            self.dirs.push((parent.to_owned(), stat));
        }
        Ok(())
    }

    fn link(&self, path: &Path) -> Result<()> {
        match transfer::link(self.whole, path, &self.to, path)? {
            Linked::Done => Ok(()),
            Linked::Never | Linked::NotThis => self.copy(path),
        }
    }

    fn copy(&self, path: &Path) -> Result<()> {
        let Some(stat) = self.whole.stat(path)? else {
            return Ok(());
        };
        let attributes = Attributes::of(&stat);
        if stat.kind == Kind::File {
            return transfer::copy_whole(&self.whole.open_file(path)?, &self.to, path, &attributes);
        }
        if stat.kind == Kind::Symlink {
            let target = self.whole.read_link(path)?;
            let target = Path::new(OsStr::from_bytes(&target));
            fs::symlinkat(target, &self.to, path).on("symlink", path)?;
        } else {
            transfer::create_node(&self.to, path, &stat)?;
        }
        let xattrs = self.whole.xattrs(path)?;
        transfer::set_attributes(&self.to, path, stat.kind, &attributes, &xattrs)
    }

    fn finish(self) -> Result<()> {
        for (path, stat) in self.dirs.into_iter().rev() {
            let mut xattrs = self.whole.xattrs(&path)?;
            xattrs.retain(|(name, _)| name != OPAQUE.as_bytes());
            let attributes = Attributes::of(&stat);
            transfer::set_attributes(&self.to, &path, Kind::Dir, &attributes, &xattrs)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

    use super::*;

    fn tree(root: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = root.join(name);
        std::fs::create_dir(&dir).unwrap();
        for (path, text) in files {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        }
        dir
    }

    #[test]
    fn the_difference_upon_the_lower_tree_is_the_upper_one() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let a = tree(
            root.path(),
            "a",
            &[("same/f", "1"), ("gone/x", "2"), ("old", "3"), ("k", "4")],
        );
        let b = tree(root.path(), "b", &[("new/y", "5"), ("k/now-a-dir", "6")]);
        // The very inode: unchanged.
        std::fs::create_dir(b.join("same")).unwrap();
        std::fs::hard_link(a.join("same/f"), b.join("same/f")).unwrap();
        let (scratch, to) = (tree(root.path(), "s", &[]), tree(root.path(), "t", &[]));
        let lower = Stack::open([a]).unwrap();
        let upper = Stack::open([b.clone()]).unwrap();
        difference(&lower, &upper, &scratch, &to).unwrap();
        for removed in ["gone", "old"] {
            let meta = std::fs::symlink_metadata(to.join(removed)).unwrap();
            assert!(
                meta.file_type().is_char_device() && meta.rdev() == 0,
                "{removed}"
            );
        }
        assert!(!to.join("same/f").exists());
        assert_eq!(std::fs::read(to.join("k/now-a-dir")).unwrap(), b"6");
        let inode = |path: PathBuf| std::fs::metadata(path).unwrap().ino();
        assert_eq!(inode(to.join("new/y")), inode(b.join("new/y")));
        let merged = Stack::open([at("a"), at("t")]).unwrap();
        let names = |stack: &Stack| {
            let mut names = Vec::new();
            let mut note = |path: &Path, _: &crate::stack::Item| {
                names.push(path.to_owned());
                Ok(())
            };
            stack.walk(&stack.root(), &mut note).unwrap();
            names
        };
        assert_eq!(names(&merged), names(&upper));
    }

    #[test]
    fn an_explicit_layer_hides_only_what_it_hid() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let lower =
            Stack::open([tree(root.path(), "a", &[("d/old", "1"), ("d/kept", "2")])]).unwrap();
        let top = tree(root.path(), "b", &[("d/kept", "three"), ("d/new", "4")]);
        fs::setxattr(top.join("d"), OPAQUE, b"y", XattrFlags::empty()).unwrap();
        let top = Layer::open(top).unwrap();
        let to = tree(root.path(), "t", &[]);
        assert!(has_opaque(&top).unwrap());
        explicit(&top, &lower, &to).unwrap();
        let result = Layer::open(&to).unwrap();
        assert!(!has_opaque(&result).unwrap());
        assert!(
            result
                .stat(Path::new("d/old"))
                .unwrap()
                .unwrap()
                .is_whiteout()
        );
        assert_eq!(std::fs::read(to.join("d/kept")).unwrap(), b"three");
        assert_eq!(std::fs::read(to.join("d/new")).unwrap(), b"4");
    }

    #[test]
    fn against_nothing_all_is_gone() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let lower = Stack::open([tree(root.path(), "a", &[("d/f", "1")])]).unwrap();
        let (scratch, to) = (tree(root.path(), "s", &[]), tree(root.path(), "t", &[]));
        difference(&lower, &Stack::default(), &scratch, &to).unwrap();
        let names: Vec<_> = std::fs::read_dir(&to)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["d"]);
    }
}
