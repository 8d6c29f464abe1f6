//! Starts what the shim orders: prepares on the launcher's side, clones, and lets the child go on. It never waits for it.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxResources, Process};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use shipway_step::{StepSpec, VisitSpec};

use super::Launcher;
use super::error::{Attempt as _, StartError, chain};
use super::program::Streams;
use super::running::{Running, StepTraces};
use super::step::StepChild;
use super::stubs::Stubs;
use super::tree::mount_layers;
use super::visitor::{Host, VisitorChild};
use super::wire::{self, Order, ProcessKind, Report, SetUp};
use crate::cgroup::{DeviceRule, Group, default_rules, is_limited};
use crate::sys::{Cloned, Namespaces, clone};

/// The longest message about a failed start that fits into one packet with room to spare.
const LONGEST_MESSAGE: usize = 16 * 1024;

impl Launcher {
    /// Starts a process; what goes wrong is reported to the shim. Fails only when the shim can't be told.
    pub(super) fn obey(&mut self, order: Order, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let started = match order.kind {
            ProcessKind::Step => self.start_step(&order, descriptors),
            ProcessKind::Visitor | ProcessKind::Visit => self.start_visitor(&order, descriptors),
        };
        match started {
            Ok(running) => {
                self.running.push(running);
                Ok(())
            }
            Err(error) => {
                let message = shortened(chain(&error));
                wire::send(
                    &self.socket,
                    &Report::Failed {
                        id: order.id,
                        message,
                    },
                    &[],
                )
            }
        }
    }

    fn start_step(
        &mut self,
        order: &Order,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Running, StartError> {
        let (json, streams) = unpack(order, descriptors)?;
        let step = StepSpec::try_from(json.as_slice())?;
        let traces = self.prepare(&order.id, &step)?;
        let own = traces.group.as_ref();
        let born_in = own.filter(|group| group.is_unified());
        let born_in = born_in.and_then(|group| group.directory(""));
        let born_in = born_in.map(open_directory).transpose()?;
        let namespaces = namespaces(&linux_of(&step))?;
        let (ours, theirs) = set_up_sockets()?;
        let cloned = clone(self.proof, namespaces, born_in.as_ref().map(OwnedFd::as_fd))
            .attempt(|| "making the step's process".to_owned())?;
        let child = match cloned {
            Cloned::Parent { pid, pidfd } => {
                let (id, process) = (order.id.clone(), (pid, pidfd));
                return Ok(Running::new(id, process, ours, Some(traces)));
            }
            Cloned::Child => StepChild {
                step: &step,
                root: &traces.root,
                filter: traces.filter.clone(),
                streams,
                places: &self.places,
                set_up: &theirs,
                order,
                proof: self.proof,
                group: own.filter(|group| !group.is_unified()),
            },
        };
        give_up(&theirs, &child.run())
    }

    /// Does what needs no child yet.
    fn prepare(&mut self, id: &str, step: &StepSpec) -> Result<StepTraces, StartError> {
        let linux = linux_of(step);
        let section = linux.seccomp().as_ref();
        let filter = section
            .map(|section| self.filters.get(section))
            .transpose()?;
        let root = mount_layers(&step.root, &self.places.part)
            .attempt(|| "mounting the root".to_owned())?;
        let points = step
            .mounts
            .iter()
            .map(|wanted| wanted.destination.as_path());
        let stubs = Stubs::missing(&root, points, step.stubs);
        let group = self.own_group(id, &linux)?;
        let oom_kills_before = group.as_ref().unwrap_or(&self.common).oom_kills();
        let result = step.result.clone();
        Ok(StepTraces {
            root,
            stubs,
            result,
            group,
            filter,
            oom_kills_before,
        })
    }

    /// A visitor enters the step that was started last; without one it gets the launcher's own surroundings. A visit
    /// enters the step that it names.
    fn start_visitor(
        &mut self,
        order: &Order,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Running, StartError> {
        let (json, streams) = unpack(order, descriptors)?;
        let (process, user, host): (Process, _, _) = if order.kind == ProcessKind::Visit {
            let visit = VisitSpec::try_from(json.as_slice())?;
            let mut steps = self.running.iter();
            let host = steps
                .find(|running| running.id() == visit.step)
                .and_then(Running::as_host);
            let host = host.ok_or(StartError::NoStep(visit.step))?;
            (visit.process, Some(visit.user), Some(host))
        } else {
            let host = self.running.iter().rev().find_map(Running::as_host);
            (serde_json::from_slice(&json)?, None, host)
        };
        let host = host.map(|(pidfd, filter)| -> Result<Host, StartError> {
            let pidfd = pidfd
                .try_clone()
                .attempt(|| "keeping the step".to_owned())?;
            Ok(Host {
                pidfd,
                filter: filter.map(Rc::clone),
            })
        });
        let host = host.transpose()?;
        let (ours, theirs) = set_up_sockets()?;
        let cloned = clone(self.proof, Namespaces::default(), None)
            .attempt(|| "making the visiting process".to_owned())?;
        match cloned {
            Cloned::Parent { pid, pidfd } => {
                Ok(Running::new(order.id.clone(), (pid, pidfd), ours, None))
            }
            Cloned::Child => {
                let child = VisitorChild {
                    proof: self.proof,
                    process: &process,
                    user: user.as_deref(),
                    host,
                    streams,
                    null: &self.places.null,
                    set_up: &theirs,
                    order,
                };
                give_up(&theirs, &child.run())
            }
        }
    }

    /// A group of its own for a step with limits or a path of its own.
    fn own_group(&self, id: &str, linux: &Linux) -> Result<Option<Group>, StartError> {
        let limits = linux
            .resources()
            .as_ref()
            .filter(|resources| is_limited(resources));
        let path = linux
            .cgroups_path()
            .as_ref()
            .filter(|path| !path.as_os_str().is_empty());
        if limits.is_none() && path.is_none() {
            return Ok(None);
        }
        let default = self.cgroup.join(id);
        let path = path.unwrap_or(&default);
        let group = if path == &default {
            Group::of_controllers(&self.hierarchies, path, &concerned(limits))
        } else {
            Group::at(&self.hierarchies, path)
        };
        let make = || -> io::Result<()> {
            group.create()?;
            limits.map_or(Ok(()), |limits| group.limit(limits))?;
            let rules = limits
                .and_then(|limits| limits.devices().as_ref())
                .filter(|rules| !rules.is_empty());
            match rules {
                Some(rules) => {
                    group.allow_devices(&rules.iter().map(DeviceRule::from).collect::<Vec<_>>())
                }
                None => group.allow_devices(&default_rules()),
            }
        };
        make().attempt(|| format!("making control group {}", path.display()))?;
        Ok(Some(group))
    }
}

/// The Linux part of a step's specification; without one all is at its default.
fn linux_of(step: &StepSpec) -> Cow<'_, Linux> {
    step.spec
        .linux()
        .as_ref()
        .map_or_else(|| Cow::Owned(Linux::default()), Cow::Borrowed)
}

/// The v1 controllers that limits are about. Joining any other group would only cost time.
fn concerned(limits: Option<&LinuxResources>) -> Vec<&'static str> {
    let Some(limits) = limits else {
        return Vec::new();
    };
    let cpuset = limits
        .cpu()
        .as_ref()
        .is_some_and(|cpu| cpu.cpus().is_some() || cpu.mems().is_some());
    [
        ("memory", limits.memory().is_some()),
        ("cpu", limits.cpu().is_some()),
        ("cpuset", cpuset),
        ("pids", limits.pids().is_some()),
        ("blkio", limits.block_io().is_some()),
        (
            "hugetlb",
            limits
                .hugepage_limits()
                .as_ref()
                .is_some_and(|limits| !limits.is_empty()),
        ),
        (
            "devices",
            limits
                .devices()
                .as_ref()
                .is_some_and(|rules| !rules.is_empty()),
        ),
    ]
    .into_iter()
    .filter_map(|(name, concerned)| concerned.then_some(name))
    .collect()
}

fn namespaces(linux: &Linux) -> Result<Namespaces, StartError> {
    let always = Namespaces::PID
        .and(Namespaces::MOUNT)
        .and(Namespaces::IPC)
        .and(Namespaces::UTS);
    linux
        .namespaces()
        .iter()
        .flatten()
        .try_fold(always, |all, namespace| {
            match (namespace.typ(), namespace.path()) {
                (LinuxNamespaceType::Network, None) => Ok(all.and(Namespaces::NETWORK)),
                (LinuxNamespaceType::Cgroup, None) => Ok(all.and(Namespaces::CGROUP)),
                (LinuxNamespaceType::User, _) => Err(StartError::Unsupported("a user namespace")),
                (LinuxNamespaceType::Time, _) => Err(StartError::Unsupported("a time namespace")),
                (LinuxNamespaceType::Network, Some(_)) | (_, None) => Ok(all),
                (_, Some(_)) => Err(StartError::Unsupported(
                    "joining a namespace other than the network's",
                )),
            }
        })
}

/// The specification's bytes and the streams that came with an order.
fn unpack(order: &Order, descriptors: Vec<OwnedFd>) -> Result<(Vec<u8>, Streams), StartError> {
    let mut descriptors = descriptors.into_iter();
    let mut json = Vec::new();
    let file = descriptors
        .next()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData));
    let mut file = File::from(file.attempt(|| "taking the specification".to_owned())?);
    file.rewind()
        .and_then(|()| file.read_to_end(&mut json))
        .attempt(|| "reading the specification".to_owned())?;
    Ok((
        json,
        Streams(
            order
                .streams
                .map(|given| given.then(|| descriptors.next()).flatten()),
        ),
    ))
}

/// A socket pair to follow a child by; the launcher's end never blocks.
fn set_up_sockets() -> Result<(OwnedFd, OwnedFd), StartError> {
    let pairing = || "making a socket pair".to_owned();
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .attempt(pairing)?;
    let flags = fcntl_getfl(&ours).attempt(pairing)?;
    fcntl_setfl(&ours, flags | OFlags::NONBLOCK).attempt(pairing)?;
    Ok((ours, theirs))
}

fn open_directory(path: &Path) -> Result<OwnedFd, StartError> {
    open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .attempt(|| format!("opening {}", path.display()))
}

/// The child's end when it can't become the program.
fn give_up(set_up: &OwnedFd, error: &StartError) -> ! {
    let message = shortened(chain(error));
    // Without a listener the launcher is gone, and this process is about to be killed.
    drop(wire::send(set_up, &SetUp::Failed { message }, &[]));
    std::process::exit(127)
}

fn shortened(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        let end = (0..=LONGEST_MESSAGE)
            .rev()
            .find(|at| message.is_char_boundary(*at))
            .unwrap_or(0);
        message.truncate(end);
    }
    message
}
