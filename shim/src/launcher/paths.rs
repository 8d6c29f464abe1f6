//! Resolves paths inside a root that is not this process's own, and creates what a mount needs to sit on. It never follows
//! a link out of that root.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat, statat,
};
use rustix::io::Errno;

const MOST_LINKS: usize = 255;
/// The most that is read of a file in a root, whose maker may not be friendly.
const MOST_BYTES: u64 = 4 << 20;
const NEVER_OUT: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PointKind {
    /// For directories.
    Directory,
    /// For everything else.
    File,
}

/// A path without links, relative to the root that it was resolved in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    parts: Vec<OsString>,
    /// How many of the first parts exist.
    existing: usize,
}

impl Resolved {
    /// Follows links as a process in `root` would. Missing parts are kept as they are named.
    pub(crate) fn new(root: impl AsFd, path: &Path) -> io::Result<Self> {
        let mut pending: VecDeque<OsString> = names(path);
        let mut resolved = Self {
            parts: Vec::new(),
            existing: 0,
        };
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            let Some(target) = resolved.step(root.as_fd(), name)? else {
                continue;
            };
            links += 1;
            if links > MOST_LINKS {
                return Err(Errno::LOOP.into());
            }
            names(&target)
                .into_iter()
                .rev()
                .for_each(|part| pending.push_front(part));
        }
        Ok(resolved)
    }

    /// Goes one name further; at a link stays, or goes back to the root, and gives where the link leads.
    fn step(&mut self, root: BorrowedFd<'_>, name: OsString) -> io::Result<Option<PathBuf>> {
        if name == ".." {
            self.parts.pop();
            self.existing = self.existing.min(self.parts.len());
            return Ok(None);
        }
        self.parts.push(name);
        if self.existing + 1 < self.parts.len() {
            return Ok(None);
        }
        let target = match readlinkat(root, joined(&self.parts), Vec::new()) {
            Ok(target) => target,
            Err(Errno::INVAL) => {
                self.existing = self.parts.len();
                return Ok(None);
            }
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        self.parts.pop();
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            self.parts.clear();
            self.existing = 0;
        }
        Ok(Some(target))
    }

    /// Whether all of it exists.
    pub(crate) fn exists(&self) -> bool {
        self.existing == self.parts.len()
    }

    /// The path itself and its parents that are missing, the longest first.
    pub(crate) fn missing(&self) -> Vec<PathBuf> {
        (self.existing + 1..=self.parts.len())
            .rev()
            .map(|len| joined(&self.parts[..len]))
            .collect()
    }

    /// Opens it (as a path), if it exists.
    pub(crate) fn open(&self, root: impl AsFd) -> io::Result<OwnedFd> {
        open_beneath(root.as_fd(), &joined(&self.parts))
    }

    /// Creates what is missing, with mode 0755, and opens it (as a path).
    pub(crate) fn ensure(&self, root: impl AsFd, kind: PointKind) -> io::Result<OwnedFd> {
        let mut place = open_beneath(root.as_fd(), &joined(&self.parts[..self.existing]))?;
        for (at, name) in self.parts.iter().enumerate().skip(self.existing) {
            let last = at + 1 == self.parts.len();
            if last && kind == PointKind::File {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::WRONLY;
                drop(openat(&place, name, flags, Mode::from_raw_mode(0o755))?);
            } else {
                make_directory(place.as_fd(), name)?;
            }
            place = open_beneath(place.as_fd(), Path::new(name))?;
        }
        Ok(place)
    }
}

/// Opens a path inside `root` (as a path), following links inside it.
pub(crate) fn open_inside(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let resolved = Resolved::new(root.as_fd(), path)?;
    resolved.open(root)
}

/// Reads a whole file inside `root`, following links inside it; `None` when there is none.
pub(crate) fn read_inside(root: impl AsFd, path: &Path) -> io::Result<Option<String>> {
    let resolved = Resolved::new(root.as_fd(), path)?;
    if !resolved.exists() {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = openat2(
        root,
        joined(&resolved.parts),
        flags,
        Mode::empty(),
        NEVER_OUT,
    )?;
    let mut bytes = Vec::new();
    File::from(file).take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(Some(
        String::from_utf8(bytes).unwrap_or_else(|bad| lossy(&bad)),
    ))
}

/// The path that names an open descriptor.
pub(crate) fn descriptor_path(descriptor: impl AsFd) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd()))
}

/// What a mount point for this source has to be.
pub(crate) fn kind_of(source: impl AsFd) -> io::Result<PointKind> {
    let mode = rustix::fs::FileType::from_raw_mode(fstat(source)?.st_mode);
    Ok(if mode.is_dir() {
        PointKind::Directory
    } else {
        PointKind::File
    })
}

/// Opens the parent of a link-free path, and gives the last name.
pub(crate) fn open_parent(root: impl AsFd, path: &Path) -> io::Result<(OwnedFd, &OsStr)> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let parent = open_beneath(root.as_fd(), path.parent().unwrap_or(Path::new("")))?;
    Ok((parent, name))
}

fn open_beneath(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    Ok(openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        NEVER_OUT,
    )?)
}

fn make_directory(place: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match mkdirat(place, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) if statat(place, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() => Ok(()),
        other => Ok(other?),
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn joined(parts: &[OsString]) -> PathBuf {
    parts.iter().collect()
}

fn lossy(bad: &std::string::FromUtf8Error) -> String {
    String::from_utf8_lossy(bad.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn in_directory(test: impl FnOnce(&Path, OwnedFd)) {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("shipway-paths-{}-{next}", std::process::id()));
        fs::create_dir_all(path.join("a/b")).unwrap();
        symlink("/a", path.join("absolute")).unwrap();
        symlink("../../../../a/b", path.join("a/climbs")).unwrap();
        symlink("/nowhere/x", path.join("dangling")).unwrap();
        symlink("loop", path.join("loop")).unwrap();
        let root = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        test(&path, root);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn links_are_followed_inside_the_root_only() {
        in_directory(|_, root| {
            let cases = [
                ("/a/b", "a/b", true),
                ("/absolute/b", "a/b", true),
                ("/a/climbs", "a/b", true),
                ("/../../a", "a", true),
                ("/dangling/y", "nowhere/x/y", false),
                ("/new/one", "new/one", false),
                ("/new/../a", "a", true),
                ("/", "", true),
            ];
            for (path, expected, exists) in cases {
                let resolved = Resolved::new(&root, Path::new(path)).unwrap();
                assert_eq!(joined(&resolved.parts), PathBuf::from(expected), "{path}");
                assert_eq!(resolved.exists(), exists, "{path}");
            }
            assert!(Resolved::new(&root, Path::new("/loop")).is_err());
        });
    }

    #[test]
    fn missing_parts_are_created_and_named_longest_first() {
        in_directory(|path, root| {
            let resolved = Resolved::new(&root, Path::new("/dangling/file")).unwrap();
            assert_eq!(
                resolved.missing(),
                ["nowhere/x/file", "nowhere/x", "nowhere"].map(PathBuf::from)
            );
            resolved.ensure(&root, PointKind::File).unwrap();
            assert!(path.join("nowhere/x/file").is_file());
            Resolved::new(&root, Path::new("/new/dir"))
                .unwrap()
                .ensure(&root, PointKind::Directory)
                .unwrap();
            assert!(path.join("new/dir").is_dir());
        });
    }
}
