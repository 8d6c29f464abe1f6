//! A blob as a file where containerd keeps blobs: it has no name while it is written, so that nothing is left of one that
//! is given up, and gets that of its digest when all of it is on disk. It asks containerd nothing.

use std::fs::File;
use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{Advice, AtFlags, CWD, Mode, OFlags, fadvise, linkat, open};
use shipway_model::Digest;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::writeback::PIECE;

/// Blocks that wait to be written.
const WAITING: usize = 4;

/// A file that is being written.
pub(crate) struct Unnamed {
    dir: PathBuf,
    /// What is written; `None` says that this was all.
    blocks: mpsc::Sender<Option<Bytes>>,
    writing: JoinHandle<io::Result<(File, u64)>>,
}

/// A file of which all is on disk.
pub(crate) struct Complete {
    dir: PathBuf,
    file: File,
    size: u64,
}

impl Unnamed {
    /// Begins a file in the directory `blobs/sha256` of containerd's content store.
    ///
    /// # Errors
    /// The directory is not there, or its filesystem has no files without names.
    pub(crate) fn create(dir: PathBuf) -> io::Result<Self> {
        // Nobody writes to a blob any more: containerd's have the same mode.
        let mode = Mode::RUSR | Mode::RGRP | Mode::ROTH;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = File::from(open(&dir, flags, mode)?);
        let (blocks, waiting) = mpsc::channel(WAITING);
        let writing = tokio::task::spawn_blocking(move || write(file, waiting));
        Ok(Self {
            dir,
            blocks,
            writing,
        })
    }

    /// Appends.
    pub(crate) async fn append(&mut self, block: Bytes) -> io::Result<()> {
        self.send(Some(block)).await
    }

    async fn send(&mut self, block: Option<Bytes>) -> io::Result<()> {
        if self.blocks.send(block).await.is_ok() {
            return Ok(());
        }
        match (&mut self.writing).await? {
            Ok(_) => Err(io::Error::other("it ended in the middle")),
            Err(error) => Err(error),
        }
    }

    /// Waits until all of it is on disk.
    pub(crate) async fn complete(mut self) -> io::Result<Complete> {
        self.send(None).await?;
        let (file, size) = self.writing.await??;
        Ok(Complete {
            dir: self.dir,
            file,
            size,
        })
    }
}

fn write(mut file: File, mut waiting: mpsc::Receiver<Option<Bytes>>) -> io::Result<(File, u64)> {
    let (mut size, mut written_back) = (0, 0);
    loop {
        let given_up = || io::Error::other("it is given up");
        let Some(block) = waiting.blocking_recv().ok_or_else(given_up)? else {
            break;
        };
        file.write_all(&block)?;
        size += block.len() as u64;
        if size >= written_back + PIECE {
            // Dirty pages stay until they are written, which is begun by this: less is waited for at the end.
            fadvise(
                &file,
                written_back,
                NonZeroU64::new(PIECE),
                Advice::DontNeed,
            )?;
            written_back += PIECE;
        }
    }
    file.sync_data()?;
    Ok((file, size))
}

impl Complete {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Its contents, from the beginning.
    pub(crate) fn into_file(self) -> io::Result<File> {
        let mut file = self.file;
        io::Seek::rewind(&mut file)?;
        Ok(file)
    }

    /// Gives it the name of its digest, durably. The blob may be there already, which is as good.
    pub(crate) fn place(&self, digest: Digest) -> io::Result<()> {
        let fd = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        match linkat(CWD, fd, CWD, self.path(digest), AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => File::open(&self.dir)?.sync_all(),
            Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the name away again, unless it names another file by now.
    pub(crate) fn withdraw(&self, digest: Digest) -> io::Result<()> {
        let (ours, path) = (self.file.metadata()?.ino(), self.path(digest));
        match std::fs::symlink_metadata(&path) {
            Ok(there) if there.ino() == ours => std::fs::remove_file(path),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }
}

/// Where the content store at `root` keeps blobs.
pub(crate) fn blobs(root: &Path) -> PathBuf {
    root.join("blobs/sha256")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap().flatten();
        entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    }

    async fn written(dir: &Path, blocks: &[&'static str]) -> Complete {
        let mut file = Unnamed::create(dir.to_owned()).unwrap();
        for block in blocks {
            file.append(Bytes::from_static(block.as_bytes()))
                .await
                .unwrap();
        }
        file.complete().await.unwrap()
    }

    #[tokio::test]
    async fn a_file_has_no_name_until_it_is_placed() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"abc");
        let file = written(dir.path(), &["ab", "c"]).await;
        assert_eq!(file.size(), 3);
        assert_eq!(names(dir.path()), [""; 0]);
        file.place(digest).unwrap();
        assert_eq!(names(dir.path()), [digest.hex()]);
        // One that is there already will do.
        let again = written(dir.path(), &["abc"]).await;
        again.place(digest).unwrap();
        again.withdraw(digest).unwrap();
        assert_eq!(names(dir.path()), [digest.hex()]);
        file.withdraw(digest).unwrap();
        file.withdraw(digest).unwrap();
        assert_eq!(names(dir.path()), [""; 0]);
        assert_eq!(
            io::read_to_string(file.into_file().unwrap()).unwrap(),
            "abc"
        );
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Unnamed::create(dir.path().join("none")).is_err());
    }
}
