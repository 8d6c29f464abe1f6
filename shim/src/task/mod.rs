//! The life of a task and its execs as containerd sees it. Pure: it is told what happened and says what is allowed; it never
//! starts, signals or publishes anything.

use std::collections::BTreeMap;
use std::time::SystemTime;

/// Names a process of a task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    /// The task's first process.
    Init,
    /// An exec.
    Exec(String),
}

impl Key {
    /// The name on the wire: an empty exec id means the first process.
    pub(crate) fn from_wire(exec_id: &str) -> Self {
        if exec_id.is_empty() {
            Self::Init
        } else {
            Self::Exec(exec_id.to_owned())
        }
    }

    /// The exec id, empty for the first process.
    pub(crate) fn exec_id(&self) -> &str {
        match self {
            Self::Init => "",
            Self::Exec(id) => id,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The exit code, or 128 + the signal.
    pub(crate) code: u32,
    pub(crate) at: SystemTime,
}

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Known, not started. (The first process already has a pid then.)
    Created,
    /// Being started.
    Starting,
    /// Running.
    Running,
    /// Ended; waiting to be deleted.
    Stopped(Exit),
}

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) phase: Phase,
    /// 0 as long as there is none.
    pub(crate) pid: u32,
}

/// Why a request can't be granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// There is no such exec.
    #[error("process {0:?} not found")]
    NotFound(String),
    /// The exec id is taken.
    #[error("process {0:?} already exists")]
    Exists(String),
    /// The process has ended, so there is nothing to signal.
    #[error("process already finished")]
    Finished,
    /// The process is in a phase in which this is not possible.
    #[error("cannot {what} a process that is {phase}")]
    Phase {
        /// What was asked.
        what: &'static str,
        /// Where the process is.
        phase: &'static str,
    },
}

/// A task: its first process and its execs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    processes: BTreeMap<Key, Process>,
    paused: bool,
}

impl Task {
    /// A task that has been created, with its first process waiting.
    pub(crate) fn new(pid: u32) -> Self {
        let init = Process {
            phase: Phase::Created,
            pid,
        };
        Self {
            processes: BTreeMap::from([(Key::Init, init)]),
            paused: false,
        }
    }

    /// A process.
    pub(crate) fn process(&self, key: &Key) -> Result<Process, Refusal> {
        self.processes
            .get(key)
            .copied()
            .ok_or_else(|| Refusal::NotFound(key.exec_id().to_owned()))
    }

    /// Whether its processes are stopped for now.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// All processes.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (&Key, &Process)> {
        self.processes.iter()
    }

    /// Adds an exec. It may be added as soon as the first process runs.
    pub(crate) fn add_exec(&mut self, key: &Key) -> Result<(), Refusal> {
        let init = self.process(&Key::Init)?;
        if init.phase != Phase::Running || self.paused {
            return Err(refuse("exec in", init.phase, self.paused));
        }
        if self.processes.contains_key(key) {
            return Err(Refusal::Exists(key.exec_id().to_owned()));
        }
        self.processes.insert(
            key.clone(),
            Process {
                phase: Phase::Created,
                pid: 0,
            },
        );
        Ok(())
    }

    /// Begins to start a process; only one start may be on its way.
    pub(crate) fn begin_start(&mut self, key: &Key) -> Result<(), Refusal> {
        if *key != Key::Init {
            let init = self.process(&Key::Init)?;
            if init.phase != Phase::Running || self.paused {
                return Err(refuse("start a process in", init.phase, self.paused));
            }
        }
        let process = self.process(key)?;
        if process.phase != Phase::Created {
            return Err(refuse("start", process.phase, false));
        }
        self.put(key, Phase::Starting, process.pid);
        Ok(())
    }

    /// The process runs.
    pub(crate) fn started(&mut self, key: &Key, pid: u32) {
        if self
            .process(key)
            .is_ok_and(|process| matches!(process.phase, Phase::Starting))
        {
            self.put(key, Phase::Running, pid);
        }
    }

    /// The process has ended, or could not be started. False when that was known already, or nobody knows it any more.
    pub(crate) fn exited(&mut self, key: &Key, exit: Exit) -> bool {
        match self.process(key) {
            Ok(Process {
                phase: Phase::Stopped(_),
                ..
            })
            | Err(_) => false,
            Ok(process) => {
                self.put(key, Phase::Stopped(exit), process.pid);
                true
            }
        }
    }

    /// The execs that have not ended. They end with the first process.
    pub(crate) fn live_execs(&self) -> Vec<Key> {
        let live = self.processes.iter().filter(|(key, process)| {
            **key != Key::Init && !matches!(process.phase, Phase::Stopped(_))
        });
        live.map(|(key, _)| key.clone()).collect()
    }

    /// The pid to signal.
    pub(crate) fn signalled(&self, key: &Key) -> Result<u32, Refusal> {
        let process = self.process(key)?;
        match process.phase {
            Phase::Stopped(_) => Err(Refusal::Finished),
            _ if process.pid == 0 => Err(refuse("signal", process.phase, false)),
            _ => Ok(process.pid),
        }
    }

    /// Begins a pause.
    pub(crate) fn pause(&mut self) -> Result<(), Refusal> {
        let init = self.process(&Key::Init)?;
        if init.phase != Phase::Running || self.paused {
            return Err(refuse("pause", init.phase, self.paused));
        }
        self.paused = true;
        Ok(())
    }

    /// Ends a pause.
    pub(crate) fn resume(&mut self) -> Result<(), Refusal> {
        if !self.paused {
            return Err(refuse("resume", self.process(&Key::Init)?.phase, false));
        }
        self.paused = false;
        Ok(())
    }

    /// Forgets a process that has ended, or an exec that was never started.
    pub(crate) fn delete(&mut self, key: &Key) -> Result<(Process, Exit), Refusal> {
        let process = self.process(key)?;
        let exit = match process.phase {
            Phase::Stopped(exit) => exit,
            Phase::Created if *key != Key::Init => Exit {
                code: 0,
                at: SystemTime::UNIX_EPOCH,
            },
            phase => return Err(refuse("delete", phase, false)),
        };
        self.processes.remove(key);
        Ok((process, exit))
    }

    fn put(&mut self, key: &Key, phase: Phase, pid: u32) {
        self.processes.insert(key.clone(), Process { phase, pid });
    }
}

fn refuse(what: &'static str, phase: Phase, paused: bool) -> Refusal {
    let phase = match phase {
        Phase::Created => "created",
        Phase::Starting => "starting",
        Phase::Running if paused => "paused",
        Phase::Running => "running",
        Phase::Stopped(_) => "stopped",
    };
    Refusal::Phase { what, phase }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: u32) -> Exit {
        Exit {
            code,
            at: SystemTime::UNIX_EPOCH,
        }
    }

    fn exec(id: &str) -> Key {
        Key::from_wire(id)
    }

    fn running() -> Task {
        let mut task = Task::new(7);
        task.begin_start(&Key::Init).unwrap();
        task.started(&Key::Init, 7);
        task
    }

    #[test]
    fn an_exec_lives_from_added_to_deleted() {
        let (mut task, key) = (running(), exec("s1"));
        task.add_exec(&key).unwrap();
        assert_eq!(task.add_exec(&key), Err(Refusal::Exists("s1".to_owned())));
        assert!(task.signalled(&key).is_err(), "nothing to signal yet");
        task.begin_start(&key).unwrap();
        assert!(task.begin_start(&key).is_err(), "one start at a time");
        assert!(task.delete(&key).is_err());
        task.started(&key, 9);
        assert_eq!(task.signalled(&key), Ok(9));
        assert!(task.exited(&key, exit(137)));
        assert!(!task.exited(&key, exit(0)), "the first exit counts");
        assert_eq!(task.signalled(&key), Err(Refusal::Finished));
        assert_eq!(task.delete(&key).unwrap().1, exit(137));
        assert_eq!(task.process(&key), Err(Refusal::NotFound("s1".to_owned())));
    }

    #[test]
    fn nothing_runs_in_a_task_that_does_not() {
        let mut task = Task::new(7);
        assert!(task.add_exec(&exec("a")).is_err());
        let mut task = running();
        task.add_exec(&exec("a")).unwrap();
        task.pause().unwrap();
        assert!(task.begin_start(&exec("a")).is_err());
        assert!(task.pause().is_err());
        task.resume().unwrap();
        assert!(task.resume().is_err());
        task.begin_start(&exec("a")).unwrap();
    }

    #[test]
    fn an_exit_may_overtake_the_news_of_the_start() {
        let mut task = running();
        task.add_exec(&exec("a")).unwrap();
        task.begin_start(&exec("a")).unwrap();
        task.exited(&exec("a"), exit(3));
        task.started(&exec("a"), 9);
        assert_eq!(
            task.process(&exec("a")).unwrap().phase,
            Phase::Stopped(exit(3))
        );
    }

    #[test]
    fn execs_that_live_are_those_not_stopped() {
        let mut task = running();
        for id in ["a", "b", "c"] {
            task.add_exec(&exec(id)).unwrap();
        }
        task.begin_start(&exec("b")).unwrap();
        task.exited(&exec("b"), exit(0));
        assert_eq!(task.live_execs(), [exec("a"), exec("c")]);
    }

    #[test]
    fn an_exec_that_was_never_started_can_be_deleted_but_a_created_task_cannot() {
        let mut task = running();
        task.add_exec(&exec("a")).unwrap();
        task.delete(&exec("a")).unwrap();
        assert!(Task::new(7).delete(&Key::Init).is_err());
    }
}
