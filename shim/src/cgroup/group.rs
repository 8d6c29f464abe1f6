//! One control group: its directories in every hierarchy, who is in it, its counters, its end. It never sets limits.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::hierarchy::Hierarchies;
use crate::sys::SingleThreaded;

/// The v1 controllers whose groups a build is in. (cpuset's need settings before anybody can be in them.)
const JOINED: [&str; 8] = [
    "memory",
    "pids",
    "freezer",
    "cpu",
    "cpuacct",
    "blkio",
    "devices",
    "name=systemd",
];

/// A control group.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    directories: Vec<(Vec<String>, PathBuf)>,
    unified: bool,
}

impl Group {
    /// Names the group at a path, in every tree that builds are in.
    pub(crate) fn at(hierarchies: &Hierarchies, path: &Path) -> Self {
        Self::of_controllers(hierarchies, path, &JOINED)
    }

    /// Names the group at a path, in the v1 trees of these controllers only.
    pub(crate) fn of_controllers(hierarchies: &Hierarchies, path: &Path, wanted: &[&str]) -> Self {
        let unified = matches!(hierarchies, Hierarchies::Unified(_));
        Self {
            directories: hierarchies.directories(path, wanted),
            unified,
        }
    }

    /// The group that a process is in. The root group is nobody's own, and refused.
    pub(crate) fn of_process(hierarchies: &Hierarchies, pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let mut directories = Vec::new();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            if path == "/" {
                continue;
            }
            let wanted: Vec<&str> = controllers.split(',').collect();
            let unified = matches!(hierarchies, Hierarchies::Unified(_));
            if unified == controllers.is_empty() {
                directories.extend(hierarchies.directories(Path::new(path), &wanted));
            }
        }
        if directories.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the process has no control group of its own",
            ));
        }
        Ok(Self {
            directories,
            unified: matches!(hierarchies, Hierarchies::Unified(_)),
        })
    }

    /// Makes the directories; on v2 the parents pass on all the controllers that they have.
    pub(crate) fn create(&self) -> io::Result<()> {
        for (_, directory) in &self.directories {
            fs::create_dir_all(directory)?;
            if self.unified {
                pass_on_controllers(directory);
            }
        }
        Ok(())
    }

    /// Puts the calling process, and so its future children, into the group. On v1 it is moved as its only thread: a
    /// whole process is moved under a lock that the kernel gets 10 to 20 ms later on an idle machine.
    pub(crate) fn join(&self, _proof: SingleThreaded) -> io::Result<()> {
        let members = if self.unified {
            "cgroup.procs"
        } else {
            "tasks"
        };
        self.directories
            .iter()
            .try_for_each(|(_, directory)| fs::write(directory.join(members), "0"))
    }

    /// The directory of one controller; on v2 the only one there is.
    pub(crate) fn directory(&self, controller: &str) -> Option<&Path> {
        let found = self.directories.iter().find(|(controllers, _)| {
            self.unified || controllers.iter().any(|name| name == controller)
        });
        found.map(|(_, directory)| directory.as_path())
    }

    /// Its directories, each with the v1 controllers that it is for.
    pub(crate) fn directories(&self) -> &[(Vec<String>, PathBuf)] {
        &self.directories
    }

    /// Whether this is a group of v2.
    pub(crate) fn is_unified(&self) -> bool {
        self.unified
    }

    /// How many processes the kernel has killed in it for lack of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let file = if self.unified {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = self
            .directory("memory")
            .and_then(|memory| fs::read_to_string(memory.join(file)).ok());
        let text = text.unwrap_or_default();
        let counter = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        counter
            .and_then(|count| count.trim().parse().ok())
            .unwrap_or(0)
    }

    /// The most memory that it has used, in bytes, where the kernel keeps count.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        let file = if self.unified {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        };
        fs::read_to_string(self.directory("memory")?.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Stops all its processes, or lets them go on.
    pub(crate) fn freeze(&self, frozen: bool) -> io::Result<()> {
        let directory = self
            .directory("freezer")
            .ok_or(io::ErrorKind::Unsupported)?;
        if self.unified {
            return fs::write(
                directory.join("cgroup.freeze"),
                if frozen { "1" } else { "0" },
            );
        }
        fs::write(
            directory.join("freezer.state"),
            if frozen { "FROZEN" } else { "THAWED" },
        )
    }

    /// The pids of the processes in it and in the groups below it.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        if let Some((_, directory)) = self.directories.first() {
            collect_processes(directory, &mut pids);
        }
        pids
    }

    /// Kills all its processes and removes it and the groups below it. A group that is gone already is fine.
    pub(crate) fn destroy(&self) -> io::Result<()> {
        drop(self.freeze(false));
        let mut pause = Duration::from_millis(1);
        loop {
            for pid in self.processes() {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
            match self.remove() {
                Err(error)
                    if pause < Duration::from_secs(2)
                        && error.raw_os_error() == Some(libc::EBUSY) =>
                {
                    thread::sleep(pause);
                    pause *= 2;
                }
                other => return other,
            }
        }
    }

    /// Removes it and the groups below it, if no process is in them.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.directories
            .iter()
            .try_for_each(|(_, directory)| remove_tree(directory))
    }
}

fn pass_on_controllers(directory: &Path) {
    let ancestors: Vec<&Path> = directory.ancestors().skip(1).collect();
    for ancestor in ancestors.into_iter().rev() {
        let Ok(controllers) = fs::read_to_string(ancestor.join("cgroup.controllers")) else {
            continue;
        };
        for controller in controllers.split_whitespace() {
            // One that can't be passed on (a parent with processes) is one whose limits can't be set; setting one says so.
            drop(fs::write(
                ancestor.join("cgroup.subtree_control"),
                format!("+{controller}"),
            ));
        }
    }
}

fn collect_processes(directory: &Path, pids: &mut Vec<i32>) {
    let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    pids.extend(
        listed
            .lines()
            .filter_map(|line| line.parse::<i32>().ok())
            .filter(|pid| *pid > 0),
    );
    for child in children(directory) {
        collect_processes(&child, pids);
    }
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    children(directory)
        .iter()
        .try_for_each(|child| remove_tree(child))?;
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
