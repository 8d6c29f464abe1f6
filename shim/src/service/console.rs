//! Receives a terminal's master from libcontainer, which sends it to a socket that a path names. It never copies anything.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixListener;

/// A socket in a directory of its own that only root can enter, because a bundle's path is too long for a socket.
#[derive(Debug)]
pub(crate) struct ConsoleSocket {
    directory: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// Makes the socket.
    pub(crate) fn bind() -> io::Result<Self> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let directory = PathBuf::from(format!(
            "/run/shipway-console-{}-{serial}",
            std::process::id()
        ));
        std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
        let listener = UnixListener::bind(directory.join("s"))?;
        Ok(Self {
            directory,
            listener,
        })
    }

    /// Its path.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new(&self.directory).join("s")
    }

    /// Waits for the master.
    pub(crate) async fn master(&self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept().await?;
        loop {
            stream.readable().await?;
            match stream.try_io(Interest::READABLE, || receive(&stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

fn receive(stream: &tokio::net::UnixStream) -> io::Result<OwnedFd> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let slices = &mut [IoSliceMut::new(&mut bytes)];
    recvmsg(
        stream,
        slices,
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    descriptors
        .next()
        .and_then(|mut descriptors| descriptors.next())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
