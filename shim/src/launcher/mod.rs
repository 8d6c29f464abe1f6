//! The launcher: pid 1 of a build's PID namespace, which mounts roots, starts steps, reaps them and tells the shim. It
//! has one thread, decides nothing about steps beyond what their specifications say, and ends when the shim does; with
//! it the kernel ends every step.

mod command;
mod credentials;
mod devices;
mod error;
mod mounts;
mod paths;
mod places;
mod program;
mod running;
mod seccomp;
mod spawn;
mod step;
mod stubs;
mod tree;
mod visitor;
pub(crate) mod wire;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open};
use shipway_step::identity;

pub(crate) use self::command::find as find_program;
use self::error::{Attempt as _, StartError, chain};
use self::places::Places;
use self::running::Running;
use self::seccomp::Filters;
use self::wire::{Order, Report};
use crate::cgroup::{COMMON, DeviceRule, Group, Hierarchies, default_rules, is_limited};
use crate::sys::{Cloned, Namespaces, SingleThreaded, clone, wait_for};

/// The launcher's state.
#[derive(Debug)]
struct Launcher {
    proof: SingleThreaded,
    socket: OwnedFd,
    places: Places,
    hierarchies: Hierarchies,
    /// The path of the build's control group.
    cgroup: PathBuf,
    /// The group that steps without limits are born in.
    common: Group,
    filters: Filters,
    running: Vec<Running>,
}

/// Runs as `launcher BUNDLE` with the socket to the shim as standard input. The process that is started makes pid 1 of a
/// new PID namespace and ends at once.
pub(crate) fn main(bundle: &Path) -> io::Result<()> {
    let proof = SingleThreaded::verify()?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    match clone(proof, Namespaces::PID.and(Namespaces::MOUNT), None)? {
        Cloned::Parent { pid, .. } => wire::send(&socket, &Report::Launched { pid }, &[]),
        Cloned::Child => {
            let ended =
                Launcher::set_up(proof, socket.try_clone()?, bundle).and_then(Launcher::serve);
            if let Err(error) = &ended {
                wire::send(
                    &socket,
                    &Report::Broken {
                        message: chain(error),
                    },
                    &[],
                )?;
            }
            std::process::exit(i32::from(ended.is_err()))
        }
    }
}

impl Launcher {
    fn set_up(proof: SingleThreaded, socket: OwnedFd, bundle: &Path) -> Result<Self, StartError> {
        rustix::process::setsid().ok();
        drop(credentials::score(0));
        let spec = bundle.join("config.json");
        let spec = Spec::load(&spec)
            .map_err(io::Error::other)
            .attempt(|| format!("reading {}", spec.display()))?;
        let hierarchies =
            Hierarchies::find().attempt(|| "looking for control groups".to_owned())?;
        let cgroup = build_cgroup(&spec, bundle);
        let common = join_cgroup(proof, &hierarchies, &cgroup, &spec)
            .attempt(|| format!("joining control group {}", cgroup.display()))?;
        let places = Places::set_up(bundle)?;
        places.show_cgroups(&hierarchies, &common)?;
        let (filters, running) = (Filters::default(), Vec::new());
        Ok(Self {
            proof,
            socket,
            places,
            hierarchies,
            cgroup,
            common,
            filters,
            running,
        })
    }

    /// Serves until the shim is gone.
    fn serve(mut self) -> Result<(), StartError> {
        let mut children = SigSet::empty();
        children.add(Signal::SIGCHLD);
        children
            .thread_block()
            .attempt(|| "blocking SIGCHLD".to_owned())?;
        let signals =
            SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
                .attempt(|| "waiting for SIGCHLD".to_owned())?;
        while self
            .serve_once(&signals)
            .attempt(|| "serving the shim".to_owned())?
        {}
        Ok(())
    }

    fn serve_once(&mut self, signals: &SignalFd) -> io::Result<bool> {
        let mut polled = vec![
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
        ];
        polled.extend(
            self.running
                .iter()
                .filter_map(Running::set_up)
                .map(|set_up| PollFd::new(set_up, PollFlags::IN)),
        );
        match poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) => return Ok(true),
            other => other?,
        };
        let ordered = !polled[0].revents().is_empty();
        drop(polled);
        for running in &mut self.running {
            running.follow_set_up(&self.socket)?;
        }
        while signals.read_signal()?.is_some() {}
        self.reap()?;
        if !ordered {
            return Ok(true);
        }
        match wire::receive::<Order>(&self.socket)? {
            Some((order, descriptors)) => self.obey(order, descriptors).map(|()| true),
            None => Ok(false),
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        while let Some(ended) = wait_for(-1)? {
            for running in &mut self.running {
                running.follow_set_up(&self.socket)?;
            }
            // Others are middle processes, and orphans of visitors.
            if let Some(at) = self
                .running
                .iter()
                .position(|running| running.pid() == ended.pid)
            {
                let report = self.running.remove(at).finish(&ended, &self.common);
                wire::send(&self.socket, &report, &[])?;
            }
        }
        Ok(())
    }
}

/// Makes and joins the build's group; children will be born in it. Joining can make the kernel wait, so it happens once.
fn join_cgroup(
    proof: SingleThreaded,
    hierarchies: &Hierarchies,
    path: &Path,
    spec: &Spec,
) -> io::Result<Group> {
    let build = Group::at(hierarchies, path);
    build.create()?;
    let resources = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    if let Some(resources) = resources.filter(|resources| is_limited(resources)) {
        build.limit(resources)?;
    }
    let common = Group::at(hierarchies, &path.join(COMMON));
    common.create()?;
    let rules = resources
        .and_then(|resources| resources.devices().as_ref())
        .filter(|rules| !rules.is_empty());
    match rules {
        Some(rules) => {
            common.allow_devices(&rules.iter().map(DeviceRule::from).collect::<Vec<_>>())?;
        }
        None => common.allow_devices(&default_rules())?,
    }
    common.join(proof)?;
    Ok(common)
}

/// The path of a build's control group.
pub(crate) fn build_cgroup(spec: &Spec, bundle: &Path) -> PathBuf {
    let given = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().as_ref());
    given
        .filter(|path| path.is_absolute())
        .cloned()
        .unwrap_or_else(|| Path::new("/shipway").join(bundle.file_name().unwrap_or_default()))
}
