//! The messages between shim and launcher: JSON on a seqpacket socket, with descriptors beside them. Big things travel in
//! a memory file. It never decides what a message leads to.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shipway_step::StepOutcome;

/// The most descriptors that one message carries: a specification and three streams.
const MOST_DESCRIPTORS: usize = 4;
const MOST_BYTES: usize = 64 * 1024;

/// What the shim asks for. Beside it: the specification's memory file, then the streams that `streams` names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The exec id.
    pub(crate) id: String,
    /// What the memory file holds.
    pub(crate) kind: ProcessKind,
    /// Which of standard input, output and error come along.
    pub(crate) streams: [bool; 3],
    /// The terminal's first size, columns and rows.
    pub(crate) size: Option<(u16, u16)>,
}

/// What an exec's specification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ProcessKind {
    /// A build step with a root of its own.
    Step,
    /// An ordinary OCI process that enters a running step.
    Visitor,
    /// A further process of a named step.
    Visit,
}

/// What the launcher tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The launcher exists, with this pid in the shim's PID namespace.
    Launched {
        /// Its pid.
        pid: i32,
    },
    /// The launcher could not set itself up and has ended.
    Broken {
        /// Why.
        message: String,
    },
    /// A process runs. Beside it: its pidfd and, with a terminal, the terminal's master.
    Started {
        /// The exec id.
        id: String,
    },
    /// A process could not be started.
    Failed {
        /// The exec id.
        id: String,
        /// Why.
        message: String,
    },
    /// A process has ended and is cleaned up after.
    Exited {
        /// The exec id.
        id: String,
        /// What became of it.
        outcome: StepOutcome,
    },
}

/// What a child tells the launcher while it becomes the process. The socket's end means that it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SetUp {
    /// Beside it: the terminal's master.
    Terminal,
    /// The process proper is another child, with this pid. Beside it: its pidfd.
    Replaced {
        /// Its pid in the launcher's PID namespace.
        pid: i32,
    },
    /// It could not.
    Failed {
        /// Why.
        message: String,
    },
}

/// Sends one message. Blocks unless the socket is non-blocking.
pub(crate) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    sendmsg(
        socket,
        &[IoSlice::new(&json)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Receives one message with its descriptors; `None` when the other end is closed.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MOST_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let slices = &mut [IoSliceMut::new(&mut bytes)];
    let received = match recvmsg(socket, slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
        Err(rustix::io::Errno::CONNRESET) => return Ok(None),
        other => other?,
    };
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors: Vec<OwnedFd> = descriptors.flatten().collect();
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    Ok(Some((
        serde_json::from_slice(&bytes[..received.bytes])?,
        descriptors,
    )))
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn a_message_arrives_with_its_descriptors_and_the_end_is_none() {
        let (here, there) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let report = Report::Started {
            id: "s1".to_owned(),
        };
        send(&here, &report, &[here.as_fd()]).unwrap();
        drop(here);
        let (received, descriptors) = receive::<Report>(&there).unwrap().unwrap();
        assert_eq!((received, descriptors.len()), (report, 1));
        drop(descriptors);
        assert!(receive::<Report>(&there).unwrap().is_none());
    }
}
