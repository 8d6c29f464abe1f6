//! Deletes directory trees of any depth without following symbolic links, and stops between two files when told to.

use std::{
    ffi::CString,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, unlinkat},
    io::Errno,
};

use crate::error::{Error, Result};

/// Deletes `path` and what is in it. `false` if it was told to stop before the end. What vanishes meanwhile is fine:
/// somebody else deletes it too.
pub(crate) fn delete_tree(path: &Path, go_on: &mut impl FnMut() -> bool) -> Result<bool> {
    let failed = |e: Errno| Error::io("deleting", path)(e.into());
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| failed(Errno::INVAL))?;
    let mut stack: Vec<Level> = Vec::new();
    let mut next = Some(name);
    loop {
        if let Some(name) = next.take() {
            let parent = stack.last().map_or(CWD, |level| level.dir.as_fd());
            match unlinkat(parent, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => {
                    let level = Level::open(parent, name).map_err(failed)?;
                    stack.extend(level);
                }
                Err(e) => return Err(failed(e)),
            }
        }
        let Some(level) = stack.last_mut() else {
            return Ok(true);
        };
        if !go_on() {
            return Ok(false);
        }
        next = level.next().map_err(failed)?;
        if next.is_none()
            && let Some(Level { name, .. }) = stack.pop()
        {
            let parent = stack.last().map_or(CWD, |level| level.dir.as_fd());
            match unlinkat(parent, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(failed(e)),
            }
        }
    }
}

/// A directory on the way down.
struct Level {
    name: CString,
    dir: OwnedFd,
    entries: Dir,
}

impl Level {
    /// `None` if it has vanished.
    fn open(parent: BorrowedFd<'_>, name: CString) -> rustix::io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match openat(parent, &name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let entries = Dir::read_from(&dir)?;
        Ok(Some(Self { name, dir, entries }))
    }

    fn next(&mut self) -> rustix::io::Result<Option<CString>> {
        for entry in self.entries.by_ref() {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Ok(Some(entry.file_name().to_owned()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_deep_tree_goes_and_what_links_point_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "").unwrap();
        let tree = dir.path().join("tree");
        let mut deep = tree.clone();
        for _ in 0..300 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        symlink(&kept, tree.join("d/link")).unwrap();
        fs::write(deep.join("file"), "").unwrap();
        assert!(delete_tree(&tree, &mut || true).unwrap());
        assert!(!tree.exists() && kept.join("file").exists());
        assert!(delete_tree(&tree, &mut || true).unwrap(), "gone is fine");
    }

    #[test]
    fn it_stops_when_told_to() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let mut left = 2;
        let finished = delete_tree(dir.path(), &mut || {
            left -= 1;
            left > 0
        });
        assert!(!finished.unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
