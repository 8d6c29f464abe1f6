//! Receives a directory from the daemon: creates what it lists, asks for the content of files. Never writes outside the
//! directory, whatever paths and links are sent or already there: parents are opened without following links.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::Stream;
use prost::Message as _;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use shipway_proto::fsutil::packet::PacketType;
use shipway_proto::fsutil::{Packet, Stat};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use crate::build::plan::DirectoryMode;
use crate::walk::{is_dir, is_regular, is_symlink, permissions};

/// Starts receiving into `path`: the packets to answer with, and the task that makes them.
pub(super) fn into_directory(
    path: &Path,
    mode: DirectoryMode,
    packets: Streaming<Bytes>,
) -> Result<
    (
        impl Stream<Item = Result<Bytes, Status>> + use<>,
        impl Future<Output = ()> + use<>,
    ),
    Status,
> {
    let failed =
        |error: io::Error| Status::unknown(format!("creating {}: {error}", path.display()));
    std::fs::create_dir_all(path).map_err(failed)?;
    let root = Root::open(path).map_err(failed)?;
    // Answers are small: one request per file, whose entry the daemon has sent before.
    let (answers, stream) = mpsc::unbounded_channel();
    let task = async move {
        let mut receiver = Receiver {
            root,
            mode,
            answers: answers.clone(),
            next: 0,
            open: BTreeMap::new(),
            listed: Vec::new(),
            complete: false,
        };
        if let Err(status) = receiver.run(packets).await {
            let _gone = answers.send(Err(status));
        }
    };
    Ok((UnboundedReceiverStream::new(stream), task))
}

/// The directory received into.
struct Root {
    path: PathBuf,
    fd: OwnedFd,
}

/// A file whose content is under way.
struct Incoming {
    stat: Stat,
    part: String,
    file: Option<File>,
}

struct Receiver {
    root: Root,
    mode: DirectoryMode,
    answers: mpsc::UnboundedSender<Result<Bytes, Status>>,
    /// Index of the next entry.
    next: u32,
    open: BTreeMap<u32, Incoming>,
    listed: Vec<Stat>,
    complete: bool,
}

impl Receiver {
    async fn run(&mut self, mut packets: Streaming<Bytes>) -> Result<(), Status> {
        while let Some(encoded) = packets.message().await? {
            let packet = Packet::decode(encoded)
                .map_err(|error| Status::invalid_argument(format!("export packet: {error}")))?;
            match packet.r#type() {
                PacketType::PacketStat => self.entry(packet.stat)?,
                PacketType::PacketData => self.data(packet.id, &packet.data)?,
                PacketType::PacketFin => return Ok(()),
                PacketType::PacketErr => {
                    let reason = String::from_utf8_lossy(&packet.data);
                    return Err(Status::unknown(format!("error from sender: {reason}")));
                }
                PacketType::PacketReq => {}
            }
            if self.complete && self.open.is_empty() {
                self.complete = false;
                self.finish()?;
                self.answer(PacketType::PacketFin, 0)?;
            }
        }
        Ok(())
    }

    fn answer(&self, kind: PacketType, id: u32) -> Result<(), Status> {
        let packet = Packet {
            r#type: kind.into(),
            id,
            ..Packet::default()
        };
        let sent = self.answers.send(Ok(packet.encode_to_vec().into()));
        sent.map_err(|_| Status::cancelled("the daemon left"))
    }

    fn entry(&mut self, stat: Option<Stat>) -> Result<(), Status> {
        let Some(stat) = stat else {
            self.complete = true;
            return Ok(());
        };
        let id = self.next;
        self.next += 1;
        let failed =
            |error: io::Error| Status::unknown(format!("writing {:?}: {error}", stat.path));
        if is_regular(stat.mode) && stat.linkname.is_empty() {
            let part = format!(".{}.part", uuid::Uuid::new_v4().simple());
            self.open.insert(
                id,
                Incoming {
                    stat: stat.clone(),
                    part,
                    file: None,
                },
            );
            self.answer(PacketType::PacketReq, id)?;
        } else if is_dir(stat.mode) {
            self.root.directory(&stat).map_err(failed)?;
        } else if is_symlink(stat.mode) {
            self.root.symlink(&stat).map_err(failed)?;
        } else if !is_regular(stat.mode) {
            return Err(Status::unknown(format!(
                "{:?}: devices and pipes are not exported",
                stat.path
            )));
        }
        self.listed.push(stat);
        Ok(())
    }

    fn data(&mut self, id: u32, data: &[u8]) -> Result<(), Status> {
        let unknown =
            || Status::invalid_argument(format!("data of file {id}, which was not asked for"));
        let incoming = self.open.get_mut(&id).ok_or_else(unknown)?;
        let failed = {
            let path = incoming.stat.path.clone();
            move |error: io::Error| Status::unknown(format!("writing {path:?}: {error}"))
        };
        let file = match &mut incoming.file {
            Some(file) => file,
            none => {
                let created = self.root.part(&incoming.stat.path, &incoming.part);
                none.insert(created.map_err(failed.clone())?)
            }
        };
        if !data.is_empty() {
            return file.write_all(data).map_err(failed);
        }
        let Some(Incoming {
            stat,
            part,
            file: Some(file),
        }) = self.open.remove(&id)
        else {
            return Err(unknown());
        };
        self.root.file(&stat, &part, &file).map_err(failed)
    }

    /// What has to wait for all content: hard links, removals, and the times of directories.
    fn finish(&mut self) -> Result<(), Status> {
        let listed = std::mem::take(&mut self.listed);
        let failed =
            |path: &str, error: io::Error| Status::unknown(format!("writing {path:?}: {error}"));
        for stat in listed
            .iter()
            .filter(|stat| is_regular(stat.mode) && !stat.linkname.is_empty())
        {
            self.root
                .hard_link(stat)
                .map_err(|error| failed(&stat.path, error))?;
        }
        if self.mode == DirectoryMode::Delete {
            let keep: HashSet<&str> = listed.iter().map(|stat| stat.path.as_str()).collect();
            remove_others(&self.root.path, "", &keep).map_err(|error| failed("", error))?;
        }
        for stat in listed.iter().rev().filter(|stat| is_dir(stat.mode)) {
            self.root
                .settle_directory(stat)
                .map_err(|error| failed(&stat.path, error))?;
        }
        Ok(())
    }
}

fn remove_others(root: &Path, below: &str, keep: &HashSet<&str>) -> io::Result<()> {
    for entry in std::fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() {
            name
        } else {
            format!("{below}/{name}")
        };
        let directory = entry.file_type()?.is_dir();
        match (keep.contains(path.as_str()), directory) {
            (true, true) => remove_others(root, &path, keep)?,
            (true, false) => {}
            (false, true) => std::fs::remove_dir_all(entry.path())?,
            (false, false) => std::fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

impl Root {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        Ok(Self {
            path: path.to_owned(),
            fd,
        })
    }

    /// The open parent of `path`, and its last element.
    fn parent<'a>(&self, path: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        let invalid = |element: &str| matches!(element, "" | "." | "..");
        if invalid(name) || path.split('/').any(invalid) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "path climbs or is not clean",
            ));
        }
        Ok((
            self.beneath(parent, OFlags::RDONLY | OFlags::DIRECTORY)?,
            name,
        ))
    }

    fn beneath(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat2(
            &self.fd,
            path,
            flags,
            Mode::empty(),
            resolve,
        )?)
    }

    /// Makes room for something that is no directory.
    fn clear(&self, parent: &OwnedFd, name: &str, path: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => std::fs::remove_dir_all(self.path.join(path)),
            Err(error) => Err(error.into()),
        }
    }

    fn directory(&self, stat: &Stat) -> io::Result<()> {
        let (parent, name) = self.parent(&stat.path)?;
        let made = rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700));
        if made != Err(Errno::EXIST) {
            return Ok(made?);
        }
        let there = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if rustix::fs::FileType::from_raw_mode(there.st_mode).is_dir() {
            return Ok(());
        }
        rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
        Ok(rustix::fs::mkdirat(
            &parent,
            name,
            Mode::from_raw_mode(0o700),
        )?)
    }

    fn settle_directory(&self, stat: &Stat) -> io::Result<()> {
        let dir = self.beneath(&stat.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        settle(&dir, stat)
    }

    fn symlink(&self, stat: &Stat) -> io::Result<()> {
        let (parent, name) = self.parent(&stat.path)?;
        self.clear(&parent, name, &stat.path)?;
        rustix::fs::symlinkat(stat.linkname.as_str(), &parent, name)?;
        let times = times(stat);
        Ok(rustix::fs::utimensat(
            &parent,
            name,
            &times,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    fn hard_link(&self, stat: &Stat) -> io::Result<()> {
        let (from_parent, from) = self.parent(&stat.linkname)?;
        let (parent, name) = self.parent(&stat.path)?;
        self.clear(&parent, name, &stat.path)?;
        Ok(rustix::fs::linkat(
            &from_parent,
            from,
            &parent,
            name,
            AtFlags::empty(),
        )?)
    }

    /// Creates the file that content is written to until it is whole.
    fn part(&self, path: &str, part: &str) -> io::Result<File> {
        let (parent, _) = self.parent(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&parent, part, flags, Mode::from_raw_mode(0o600))?.into())
    }

    fn file(&self, stat: &Stat, part: &str, file: &File) -> io::Result<()> {
        settle(file, stat)?;
        let (parent, name) = self.parent(&stat.path)?;
        match rustix::fs::renameat(&parent, part, &parent, name) {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                self.clear(&parent, name, &stat.path)?;
                Ok(rustix::fs::renameat(&parent, part, &parent, name)?)
            }
            other => Ok(other?),
        }
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec {
        tv_sec: stat.mod_time.div_euclid(1_000_000_000),
        tv_nsec: stat.mod_time.rem_euclid(1_000_000_000),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn settle(fd: impl std::os::fd::AsFd, stat: &Stat) -> io::Result<()> {
    let fd = fd.as_fd();
    rustix::fs::fchmod(fd, Mode::from_raw_mode(permissions(stat.mode)))?;
    for (name, value) in &stat.xattrs {
        // Not every file system holds every attribute, and not everybody may set them.
        let _unsupported = rustix::fs::fsetxattr(fd, name.as_str(), value, XattrFlags::empty());
    }
    Ok(rustix::fs::futimens(fd, &times(stat))?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn stat(path: &str, mode: u32) -> Stat {
        Stat {
            path: path.into(),
            mode,
            mod_time: 1_500_000_000,
            ..Stat::default()
        }
    }

    fn write(root: &Root, path: &str) -> io::Result<()> {
        let file = root.part(path, ".part")?;
        root.file(&stat(path, 0o640), ".part", &file)
    }

    #[test]
    fn nothing_is_written_outside_the_directory() {
        let outside = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("link")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        for path in ["../x", "link/x", "/x", "a/../x", "", ".", "a//x"] {
            assert!(write(&root, path).is_err(), "{path}");
            assert!(root.directory(&stat(path, 0o755)).is_err(), "{path}");
        }
        let escape = Stat {
            linkname: "../x".into(),
            ..stat("y", 0o644)
        };
        assert!(root.hard_link(&escape).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_there_is_replaced_by_kind() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("file/below")).unwrap();
        symlink("/", dir.path().join("dir")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        write(&root, "file").unwrap();
        root.directory(&stat("dir", 0o755)).unwrap();
        root.settle_directory(&stat("dir", 0o751)).unwrap();
        let meta = std::fs::symlink_metadata(dir.path().join("dir")).unwrap();
        assert!(meta.is_dir());
        assert_eq!(meta.permissions().mode() & 0o777, 0o751);
        let meta = std::fs::metadata(dir.path().join("file")).unwrap();
        assert_eq!(
            meta.modified().unwrap(),
            std::time::UNIX_EPOCH + std::time::Duration::from_millis(1500)
        );
        let keep = ["dir"].into();
        remove_others(dir.path(), "", &keep).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
