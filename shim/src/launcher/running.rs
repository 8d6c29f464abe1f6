//! A step or visitor from its clone to its last trace. It decides what is reported about it, never when it starts.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use shipway_step::{StepFailure, StepOutcome};

use super::seccomp::Filter;
use super::stubs::Stubs;
use super::wire::{self, Report, SetUp};
use crate::cgroup::Group;
use crate::sys::Ended;

/// What only steps have.
#[derive(Debug)]
pub(crate) struct StepTraces {
    /// The root: it outlives the step's mount namespace, so that stubs can be removed through it.
    pub(crate) root: OwnedFd,
    pub(crate) stubs: Stubs,
    pub(crate) result: Option<PathBuf>,
    /// The step's own control group.
    pub(crate) group: Option<Group>,
    pub(crate) filter: Option<Rc<Filter>>,
    /// The OOM kills of the group that it is in, before it started.
    pub(crate) oom_kills_before: u64,
}

/// A process of the launcher.
#[derive(Debug)]
pub(crate) struct Running {
    id: String,
    pid: i32,
    pidfd: OwnedFd,
    /// The socket to the child, until it is the program.
    set_up: Option<OwnedFd>,
    failure: Option<String>,
    terminal: Option<OwnedFd>,
    started_at_ns: u64,
    step: Option<StepTraces>,
}

impl Running {
    pub(crate) fn new(
        id: String,
        (pid, pidfd): (i32, OwnedFd),
        set_up: OwnedFd,
        step: Option<StepTraces>,
    ) -> Self {
        let (failure, terminal) = (None, None);
        Self {
            id,
            pid,
            pidfd,
            set_up: Some(set_up),
            failure,
            terminal,
            started_at_ns: now(),
            step,
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn set_up(&self) -> Option<&OwnedFd> {
        self.set_up.as_ref()
    }

    /// What a visitor needs of it, if it is a step whose program runs.
    pub(crate) fn as_host(&self) -> Option<(&OwnedFd, Option<&Rc<Filter>>)> {
        let step = self.step.as_ref().filter(|_| self.set_up.is_none())?;
        Some((&self.pidfd, step.filter.as_ref()))
    }

    /// Takes what the child has said; at the socket's end reports that the program runs.
    pub(crate) fn follow_set_up(&mut self, shim: &OwnedFd) -> io::Result<()> {
        while let Some(set_up) = &self.set_up {
            match wire::receive::<SetUp>(set_up) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
                Ok(Some((SetUp::Terminal, descriptors))) => {
                    self.terminal = descriptors.into_iter().next();
                }
                Ok(Some((SetUp::Replaced { pid }, descriptors))) => {
                    self.pid = pid;
                    self.pidfd = descriptors
                        .into_iter()
                        .next()
                        .ok_or(io::ErrorKind::InvalidData)?;
                }
                Ok(Some((SetUp::Failed { message }, _))) => self.failure = Some(message),
                Ok(None) => {
                    self.set_up = None;
                    self.report_start(shim)?;
                }
            }
        }
        Ok(())
    }

    fn report_start(&mut self, shim: &OwnedFd) -> io::Result<()> {
        if self.failure.is_some() {
            return Ok(());
        }
        let report = Report::Started {
            id: self.id.clone(),
        };
        let terminal = self.terminal.take();
        match &terminal {
            Some(terminal) => wire::send(shim, &report, &[self.pidfd.as_fd(), terminal.as_fd()]),
            None => wire::send(shim, &report, &[self.pidfd.as_fd()]),
        }
    }

    /// Cleans up after the process and says what became of it. `common` is the group of processes without their own.
    pub(crate) fn finish(mut self, ended: &Ended, common: &Group) -> Report {
        let failure = self.failure.take();
        let mut outcome = StepOutcome {
            exit_code: ended.code,
            signal: ended.signal,
            failure: failure.clone().map(|message| StepFailure { message }),
            oom_killed: false,
            peak_memory: ended.peak_memory,
            user_cpu_us: ended.user_cpu_us,
            system_cpu_us: ended.system_cpu_us,
            read_blocks: ended.read_blocks,
            written_blocks: ended.written_blocks,
            started_at_ns: self.started_at_ns,
            exited_at_ns: now(),
        };
        if let Some(step) = self.step.take() {
            step.finish(&mut outcome, common);
        }
        match failure {
            Some(message) => Report::Failed {
                id: self.id,
                message,
            },
            None => Report::Exited {
                id: self.id,
                outcome,
            },
        }
    }
}

impl StepTraces {
    /// What can't be cleaned up is not worth losing the step's result: a stub that stays is an empty file in a layer.
    fn finish(self, outcome: &mut StepOutcome, common: &Group) {
        let group = self.group.as_ref().unwrap_or(common);
        outcome.oom_killed = outcome.exit_code != 0 && group.oom_kills() > self.oom_kills_before;
        if let Some(own) = &self.group {
            outcome.peak_memory = own.peak_memory().unwrap_or(outcome.peak_memory);
            drop(own.destroy());
        }
        drop(self.stubs.remove(&self.root));
        drop(self.root);
        if let Some(result) = &self.result {
            drop(outcome.write(result));
        }
    }
}

pub(crate) fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
