//! A blob as a file where containerd keeps blobs: it has no name while it is written, so that nothing is left of one that
//! is given up, and gets that of its digest when all of it is on disk. It asks containerd nothing.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use shipway_model::Digest;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Blocks that wait to be written.
const WAITING: usize = 4;
/// Bytes that go to the disk at once.
const PIECE: u64 = 64 << 20;

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

/// Writes the blocks. What is written goes to the disk meanwhile, piece by piece and to the end of it (a disk holds much
/// that it has not written yet, too), so that little is waited for when all of it must be there.
fn write(file: File, blocks: mpsc::Receiver<Option<Bytes>>) -> io::Result<(File, u64)> {
    let size = thread::scope(|scope| {
        let (due, pieces) = sync_channel(1);
        let flushing = thread::Builder::new().name("flush".to_owned());
        let flushed = &file;
        let flush = move || pieces.iter().try_for_each(|()| flushed.sync_data());
        let flushing = flushing.spawn_scoped(scope, flush)?;
        let appended = append(&file, blocks, &due);
        drop(due);
        let flushed = flushing.join().expect("flushing does not panic");
        appended.and_then(|size| flushed.map(|()| size))
    })?;
    file.sync_data()?;
    Ok((file, size))
}

fn append(
    mut file: &File,
    mut blocks: mpsc::Receiver<Option<Bytes>>,
    due: &SyncSender<()>,
) -> io::Result<u64> {
    let (mut size, mut told) = (0, 0);
    loop {
        let given_up = || io::Error::other("it is given up");
        let Some(block) = blocks.blocking_recv().ok_or_else(given_up)? else {
            return Ok(size);
        };
        file.write_all(&block)?;
        size += block.len() as u64;
        if size >= told + PIECE {
            told = size;
            // One that waits already stands for this piece too. One that failed is seen at the end.
            let _told = due.try_send(());
        }
    }
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

    /// Takes the name away again, unless it names another file by now; gives whether there was anything of that name.
    pub(crate) fn withdraw(&self, digest: Digest) -> io::Result<bool> {
        let (ours, path) = (self.file.metadata()?.ino(), self.path(digest));
        match std::fs::symlink_metadata(&path) {
            Ok(there) if there.ino() == ours => std::fs::remove_file(path).map(|()| true),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
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
        assert!(again.withdraw(digest).unwrap());
        assert_eq!(names(dir.path()), [digest.hex()]);
        assert!(file.withdraw(digest).unwrap());
        assert!(!file.withdraw(digest).unwrap());
        assert_eq!(names(dir.path()), [""; 0]);
        assert_eq!(
            io::read_to_string(file.into_file().unwrap()).unwrap(),
            "abc"
        );
    }

    #[tokio::test]
    async fn a_file_of_several_pieces_is_complete() {
        const BLOCK: usize = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let mut file = Unnamed::create(dir.path().to_owned()).unwrap();
        let blocks = u8::try_from(2 * PIECE / BLOCK as u64 + 1).unwrap();
        for number in 0..blocks {
            file.append(vec![number; BLOCK].into()).await.unwrap();
        }
        let file = file.complete().await.unwrap();
        assert_eq!(file.size(), u64::from(blocks) * BLOCK as u64);
        let mut file = file.into_file().unwrap();
        let mut block = vec![0; BLOCK];
        for number in 0..blocks {
            io::Read::read_exact(&mut file, &mut block).unwrap();
            assert!(block.iter().all(|byte| *byte == number), "{number}");
        }
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Unnamed::create(dir.path().join("none")).is_err());
    }
}
