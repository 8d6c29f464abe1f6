//! Removes the control groups of builds, in every hierarchy, with whatever still runs in them. It makes none.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Where the hierarchies are.
pub(crate) const HIERARCHIES: &str = "/sys/fs/cgroup";
/// How long killed processes may take to leave their group.
const DEATH: Duration = Duration::from_secs(10);
/// Between two tries to remove a group that was not empty.
const PAUSE: Duration = Duration::from_millis(10);

/// Removes the group of this path (version 1, 2 or both) with the groups below it. Processes that are still in one are killed:
/// they belong to a build that has ended. Blocks until they are gone.
pub fn remove_cgroup(path: &Path) {
    let relative = path.strip_prefix("/").unwrap_or(path);
    for hierarchy in hierarchies() {
        remove_tree(&hierarchy.join(relative));
    }
}

/// As [`remove_cgroup`], for each group in `parent` whose name begins with `prefix`.
pub fn remove_cgroups(parent: &Path, prefix: &str) {
    let relative = parent.strip_prefix("/").unwrap_or(parent);
    for hierarchy in hierarchies() {
        let groups = below(&hierarchy.join(relative));
        let ours = |group: &PathBuf| {
            let name = group.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(prefix)
        };
        groups
            .into_iter()
            .filter(ours)
            .for_each(|g| remove_tree(&g));
    }
}

fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(HIERARCHIES);
    let mut all = below(&root);
    all.push(root);
    all
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let entries = entries.map(|entry| entry.path());
    entries.filter(|path| path.is_dir()).collect()
}

fn remove_tree(group: &Path) {
    for child in below(group) {
        remove_tree(&child);
    }
    let began = Instant::now();
    loop {
        match fs::remove_dir(group) {
            Err(error) if is_absent(error.kind()) => return,
            Err(error) if began.elapsed() > DEATH => {
                tracing::warn!(cgroup = %group.display(), %error, "a build's control group stays");
                return;
            }
            Err(_) => {
                kill_members(group);
                std::thread::sleep(PAUSE);
            }
            Ok(()) => return,
        }
    }
}

fn is_absent(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn kill_members(group: &Path) {
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in members
        .lines()
        .filter_map(|line| Pid::from_raw(line.parse().ok()?))
    {
        // One that has ended in the meantime is what is wanted.
        if let Err(error) = kill_process(pid, Signal::KILL) {
            tracing::debug!(?pid, %error, "killing what is left of a build");
        }
    }
}
