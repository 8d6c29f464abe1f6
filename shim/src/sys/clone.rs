//! Makes child processes in new namespaces with `clone3`. It never does so in a process with several threads.
#![expect(unsafe_code, reason = "clone3 and the descriptors that it returns")]

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::{fs, io};

/// `libc`'s constant is too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Proof that this process has one thread, so that a child made from it may go on running Rust.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SingleThreaded(());

impl SingleThreaded {
    /// Looks whether this process has one thread. The caller must not start others while it keeps the value.
    pub(crate) fn verify() -> io::Result<Self> {
        match fs::read_dir("/proc/self/task")?.count() {
            1 => Ok(Self(())),
            count => Err(io::Error::other(format!(
                "{count} threads in a process that has to fork"
            ))),
        }
    }
}

/// The new namespaces of a child, as `clone` flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Namespaces(u64);

impl Namespaces {
    pub(crate) const PID: Self = Self(libc::CLONE_NEWPID as u64);
    pub(crate) const MOUNT: Self = Self(libc::CLONE_NEWNS as u64);
    pub(crate) const IPC: Self = Self(libc::CLONE_NEWIPC as u64);
    pub(crate) const UTS: Self = Self(libc::CLONE_NEWUTS as u64);
    pub(crate) const NETWORK: Self = Self(libc::CLONE_NEWNET as u64);
    pub(crate) const CGROUP: Self = Self(libc::CLONE_NEWCGROUP as u64);
    /// No namespace; the child gets this process's own parent instead.
    pub(crate) const SIBLING: Self = Self(libc::CLONE_PARENT as u64);

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Which side of a clone runs.
#[derive(Debug)]
pub(crate) enum Cloned {
    /// The child. It must end by exec or exit.
    Child,
    /// The parent.
    Parent {
        /// The child's pid in this process's PID namespace.
        pid: i32,
        /// A descriptor of the child.
        pidfd: OwnedFd,
    },
}

/// Makes a child in new namespaces; with `cgroup` (a directory of cgroup v2) the child starts in it.
pub(crate) fn clone(
    _proof: SingleThreaded,
    namespaces: Namespaces,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: `clone_args` is plain integers, for which zero is valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces.0 | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    if namespaces.0 & Namespaces::SIBLING.0 == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup =
            u64::try_from(cgroup.as_raw_fd()).expect("an open descriptor is not negative");
    }
    // SAFETY: the arguments are valid for their size, memory is copied (no CLONE_VM), and as this process has one thread
    // no lock can be held by a thread that the child lacks.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const args,
            size_of::<libc::clone_args>(),
        )
    };
    match i32::try_from(pid).expect("a pid fits") {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel has just opened the descriptor for us.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid, pidfd })
        }
    }
}
