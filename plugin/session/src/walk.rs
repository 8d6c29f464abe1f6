//! Lists a directory tree as the client is to make it: every entry once, sorted by path component, hard links named after
//! the first of their paths. Sockets are left out; a name that is not UTF-8 is refused, the protocol has no room for it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;
use shipway_backend::session::SendTree;
use shipway_backend::{BackendError, ErrorKind};
use shipway_proto::fsutil::Stat;

use crate::gofs;

/// An entry of a list, with its path on this machine where it has data to send.
pub(crate) struct Entry {
    pub(crate) stat: Stat,
    pub(crate) file: Option<PathBuf>,
}

/// Takes each entry in turn.
type Emit<'a> = dyn FnMut(Entry) -> Result<(), BackendError> + 'a;

/// Lists a tree; its own root is not listed, the directories of its prefix are.
pub(crate) fn walk(tree: &SendTree, emit: &mut Emit<'_>) -> Result<(), BackendError> {
    let mut above = String::new();
    for part in tree.prefix.split('/').filter(|part| !part.is_empty()) {
        above.push_str(part);
        let stat = Stat {
            path: above.clone(),
            mode: gofs::from_posix(0o040_755),
            ..Default::default()
        };
        emit(Entry { stat, file: None })?;
        above.push('/');
    }
    let mut walker = Walker {
        links: HashMap::new(),
        emit,
    };
    walker.directory(&tree.root, &above)
}

struct Walker<'a, 'b> {
    /// First path of each inode that has several.
    links: HashMap<(u64, u64), String>,
    emit: &'a mut Emit<'b>,
}

impl Walker<'_, '_> {
    /// Depth is bounded by the longest path that the kernel resolves.
    fn directory(&mut self, dir: &Path, above: &str) -> Result<(), BackendError> {
        for name in names(dir).map_err(|error| reading(dir, error))? {
            let path = dir.join(&name);
            let Some(name) = name.to_str() else {
                let error = io::Error::new(io::ErrorKind::InvalidData, "name is not UTF-8");
                return Err(reading(&path, error));
            };
            let name = format!("{above}{name}");
            let data = fs::symlink_metadata(&path).map_err(|error| reading(&path, error))?;
            if gofs::is_socket(gofs::from_posix(data.mode())) {
                continue;
            }
            let entry = self.entry(&path, &name, &data);
            (self.emit)(entry.map_err(|error| reading(&path, error))?)?;
            if data.is_dir() {
                self.directory(&path, &format!("{name}/"))?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &str, data: &Metadata) -> io::Result<Entry> {
        let mut stat = Stat {
            path: name.to_owned(),
            mode: gofs::from_posix(data.mode()),
            uid: data.uid(),
            gid: data.gid(),
            mod_time: data.mtime() * 1_000_000_000 + data.mtime_nsec(),
            xattrs: xattrs(path)?,
            ..Default::default()
        };
        if data.is_symlink() {
            let target = fs::read_link(path)?.into_os_string().into_string();
            let target = target.map_err(|_| io::Error::other("link target is not UTF-8"))?;
            stat.size = target.len().try_into().unwrap_or(i64::MAX);
            stat.linkname = target;
        } else if !data.is_file() && !data.is_dir() {
            stat.devmajor = rustix::fs::major(data.rdev()).into();
            stat.devminor = rustix::fs::minor(data.rdev()).into();
        }
        if !data.is_file() {
            return Ok(Entry { stat, file: None });
        }
        stat.size = data.size().try_into().unwrap_or(i64::MAX);
        if let Some(first) = self.first_link(name, data) {
            stat.linkname = first;
            return Ok(Entry { stat, file: None });
        }
        let file = Some(path.to_owned());
        Ok(Entry { stat, file })
    }

    fn first_link(&mut self, name: &str, data: &Metadata) -> Option<String> {
        if data.nlink() < 2 {
            return None;
        }
        let inode = (data.dev(), data.ino());
        if let Some(first) = self.links.get(&inode) {
            return Some(first.clone());
        }
        self.links.insert(inode, name.to_owned());
        None
    }
}

fn names(dir: &Path) -> io::Result<Vec<OsString>> {
    let entries = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name()));
    let mut names = entries.collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

/// What belongs to the file: not what overlayfs or a security module put there.
fn xattrs(path: &Path) -> io::Result<BTreeMap<String, Bytes>> {
    let mut names = Vec::with_capacity(1024);
    let listed = loop {
        match llistxattr(path, rustix::buffer::spare_capacity(&mut names)) {
            Err(Errno::RANGE) => names.reserve(64 << 10),
            listed => break listed,
        }
    };
    match listed {
        Ok(_) => {}
        Err(Errno::NOTSUP) => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.into()),
    }
    let own = |name: &&str| {
        !name.is_empty() && !name.starts_with("trusted.overlay.") && *name != "security.selinux"
    };
    let names = names.split(|byte| *byte == 0);
    let names = names.filter_map(|name| std::str::from_utf8(name).ok());
    names
        .filter(own)
        .map(|name| {
            let mut value = Vec::with_capacity(64 << 10);
            lgetxattr(path, name, rustix::buffer::spare_capacity(&mut value))?;
            Ok((name.to_owned(), value.into()))
        })
        .collect()
}

fn reading(path: &Path, error: io::Error) -> BackendError {
    let attempt = format!("reading {}", path.display());
    BackendError::caused(ErrorKind::Other, attempt, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::Validator;

    #[test]
    fn a_tree_is_listed_as_a_receiver_believes_it() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("a/deep")).unwrap();
        fs::write(at("a/deep/file"), "12345").unwrap();
        fs::write(at("a.b"), "").unwrap();
        fs::hard_link(at("a/deep/file"), at("z")).unwrap();
        std::os::unix::fs::symlink("a/deep", at("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let tree = SendTree {
            prefix: "linux_amd64/".into(),
            root: root.path().to_owned(),
        };
        let mut found = Vec::new();
        let mut validator = Validator::default();
        walk(&tree, &mut |entry| {
            let data = entry.file.is_some();
            let (_, stat) = validator.entry(entry.stat).unwrap();
            found.push((stat.path, stat.size, stat.link_name, data));
            Ok(())
        })
        .unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|(path, size, link, data)| (path.as_str(), *size, link.as_str(), *data))
            .filter(|(path, ..)| !path.ends_with("/a") && !path.ends_with("/deep"))
            .collect();
        let first = "linux_amd64/a/deep/file";
        assert_eq!(
            found,
            [
                ("linux_amd64", 0, "", false),
                (first, 5, "", true),
                ("linux_amd64/a.b", 0, "", true),
                ("linux_amd64/link", 6, "a/deep", false),
                ("linux_amd64/z", 5, first, false),
            ]
        );
    }
}
