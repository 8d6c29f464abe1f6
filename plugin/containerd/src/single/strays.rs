//! Shims of steps that nobody knows: containerd 1.x leaves one behind where the daemon was killed while it made a task. They
//! are known by their arguments, which name the build, and therefore the daemon's instance.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::cgroups::remove_cgroup;

/// What the name of a step's container has between the build's and its own.
const STEP: &str = "-step-";

/// Kills the shims of this instance's steps whose build is none of `open`, with what they started.
pub(super) fn sweep(instance: &str, cgroup_parent: &str, open: &HashSet<String>) {
    for (pid, arguments) in processes() {
        let Some(build) = build_of(&arguments, instance) else {
            continue;
        };
        if open.contains(build) {
            continue;
        }
        tracing::info!(build, "ending a shim that was left behind");
        if let Err(error) = kill_process(pid, Signal::KILL) {
            tracing::debug!(build, %error, "ending a shim");
        }
        // What it started is there.
        remove_cgroup(&PathBuf::from(cgroup_parent).join(build));
    }
}

/// The build of the step that a shim with these arguments is for, if it is one of the instance.
fn build_of<'a>(arguments: &'a [String], instance: &str) -> Option<&'a str> {
    let program = Path::new(arguments.first()?).file_name()?;
    if program != "containerd-shim-runc-v2" {
        return None;
    }
    let mut pairs = arguments.windows(2);
    let id = pairs.find(|pair| pair[0] == "-id").map(|pair| &pair[1])?;
    let ours = id.starts_with(&format!("shipway-{instance}-"));
    let (build, _) = id.rsplit_once(STEP)?;
    ours.then_some(build)
}

fn processes() -> Vec<(Pid, Vec<String>)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let arguments = |pid: Pid| {
        let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        let words = line.split(|byte| *byte == 0);
        let words = words.map(|word| String::from_utf8_lossy(word).into_owned());
        Some((pid, words.collect()))
    };
    pids.filter_map(Pid::from_raw)
        .filter_map(arguments)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_is_known_by_its_container() {
        let shim = |program: &str, id: &str| {
            [
                program,
                "-namespace",
                "default",
                "-id",
                id,
                "-address",
                "/c",
            ]
            .map(str::to_owned)
        };
        let runc = "/usr/bin/containerd-shim-runc-v2";
        for (program, id, build) in [
            (runc, "shipway-i1-17-6-step-3", Some("shipway-i1-17-6")),
            (runc, "shipway-i2-17-6-step-3", None),
            (runc, "web", None),
            ("/bin/sh", "shipway-i1-17-6-step-3", None),
        ] {
            assert_eq!(build_of(&shim(program, id), "i1"), build, "{program} {id}");
        }
    }
}
