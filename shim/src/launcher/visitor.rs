//! What happens in the child that an ordinary exec makes: it enters a running step, or stays where the launcher is. It
//! never makes a mount.

use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;

use nix::sched::{CloneFlags, setns};
use oci_spec::runtime::Process;
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs;

use super::error::{Attempt as _, StartError};
use super::identity::{Identity, home_of};
use super::program::{Program, Streams};
use super::seccomp::Filter;
use super::wire::{self, Order, SetUp};
use crate::sys::{Cloned, Namespaces, SingleThreaded, clone};

/// The step that a visitor enters.
#[derive(Debug)]
pub(crate) struct Host {
    /// Its process.
    pub(crate) pidfd: OwnedFd,
    /// Its seccomp filter, which binds the visitor too.
    pub(crate) filter: Option<Rc<Filter>>,
}

/// Everything that a visitor's child takes over from the launcher.
#[derive(Debug)]
pub(crate) struct VisitorChild<'a> {
    pub(crate) proof: SingleThreaded,
    pub(crate) process: &'a Process,
    /// The user to look up in the step's root; without one the process's numbers count.
    pub(crate) user: Option<&'a str>,
    pub(crate) host: Option<Host>,
    pub(crate) streams: Streams,
    pub(crate) null: &'a OwnedFd,
    pub(crate) set_up: &'a OwnedFd,
    pub(crate) order: &'a Order,
}

impl VisitorChild<'_> {
    /// Becomes the visitor. Returns only to say why that was not possible; a middle process ends in here.
    pub(crate) fn run(self) -> StartError {
        match self
            .enter()
            .and_then(|filter| Ok((filter, self.identity()?)))
        {
            Err(error) => error,
            Ok((filter, (identity, home))) => Program {
                process: self.process,
                identity,
                home,
                streams: self.streams,
                null: self.null,
                filter,
                set_up: self.set_up,
                size: self.order.size,
                console: false,
            }
            .become_it(),
        }
    }

    /// Who it runs as and its home, from the files of the root that it has entered.
    fn identity(&self) -> Result<(Identity, String), StartError> {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let identity = if let Some(user) = self.user {
            let groups = fs::read_to_string("/etc/group").unwrap_or_default();
            Identity::lookup(user, &passwd, &groups)?
        } else {
            let user = self.process.user();
            let additional = user.additional_gids().as_deref().unwrap_or_default();
            Identity::numeric(user.uid(), user.gid(), additional)
        };
        let home = home_of(identity.uid, &passwd).to_owned();
        Ok((identity, home))
    }

    /// A process can't move itself into a PID namespace, only its children: so the visitor proper is another child of the
    /// launcher.
    fn enter(&self) -> Result<Option<Rc<Filter>>, StartError> {
        let Some(host) = &self.host else {
            return Ok(None);
        };
        let all = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWCGROUP;
        setns(&host.pidfd, all).attempt(|| "entering the running step".to_owned())?;
        // The launcher must know the visitor before it can end, so the visitor waits until it is announced.
        let (announced, announcing) =
            pipe_with(PipeFlags::CLOEXEC).attempt(|| "making a pipe".to_owned())?;
        let cloned = clone(self.proof, Namespaces::SIBLING, None)
            .attempt(|| "making the visiting process".to_owned())?;
        match cloned {
            Cloned::Child => {
                drop(announcing);
                let waited = rustix::io::read(&announced, &mut [0u8; 1]);
                waited.attempt(|| "waiting to be announced".to_owned())?;
                Ok(host.filter.clone())
            }
            Cloned::Parent { pid, pidfd } => {
                wire::send(self.set_up, &SetUp::Replaced { pid }, &[pidfd.as_fd()])
                    .attempt(|| "announcing the visiting process".to_owned())?;
                // This process's end closes the pipe.
                std::process::exit(0)
            }
        }
    }
}
