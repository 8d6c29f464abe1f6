//! Ends whatever was started below a directory and removes it, also after the process that started it was killed: by
//! the pids that were written down, then by what containerd's shims say of themselves, then mount by mount.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};

use crate::{Error, Result, error::OnFile as _, process::wait_until, report::say};

const END: Duration = Duration::from_secs(10);

/// Ends everything below `dir` and removes it. Does nothing where there is no such directory.
pub fn teardown(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    // The builder goes first, so that it can end its builds; containerd's shims outlive both.
    for name in ["registry", "shipway", "buildkit", "containerd"] {
        end_recorded(&dir.join("pids").join(name))?;
    }
    end_shims(dir)?;
    unmount_below(dir)?;
    fs::remove_dir_all(dir).on_file("removing", dir)
}

fn end_recorded(file: &Path) -> Result<()> {
    let Ok(text) = fs::read_to_string(file) else {
        return Ok(());
    };
    if let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) {
        end(pid, &file.display().to_string())?;
    }
    fs::remove_file(file).on_file("removing", file)
}

/// SIGTERM, then SIGKILL.
fn end(pid: Pid, what: &str) -> Result<()> {
    let gone = || {
        // A child of ours that nobody waits for stays as a zombie: it has ended all the same.
        let status =
            fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        status.is_empty()
            || status
                .rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim_start().starts_with('Z'))
    };
    for signal in [Signal::TERM, Signal::KILL] {
        if gone() || kill_process(pid, signal).is_err() {
            return Ok(());
        }
        if wait_until("", END, || Ok(gone())).is_ok() {
            return Ok(());
        }
    }
    Err(Error::Unexpected(format!(
        "{what}: process {} doesn't end",
        pid.as_raw_nonzero()
    )))
}

/// Shims are containerd's children no longer; they carry its socket's path among their arguments.
fn end_shims(dir: &Path) -> Result<()> {
    let socket = dir
        .join("containerd")
        .join("containerd.sock")
        .display()
        .to_string();
    for (pid, words) in processes() {
        let ours = words.iter().any(|word| word.starts_with(&socket));
        let shim = words
            .first()
            .is_some_and(|word| word.contains("containerd-shim"));
        if ours && shim {
            say(format_args!(
                "ending a shim that is left: {}",
                words.join(" ")
            ));
            end(pid, &words[0])?;
        }
    }
    Ok(())
}

/// Every process with its command line.
#[must_use]
pub fn processes() -> Vec<(Pid, Vec<String>)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| {
        entry
            .file_name()
            .to_str()?
            .parse()
            .ok()
            .and_then(Pid::from_raw)
    });
    let words = |pid: Pid| {
        let raw = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        let text = String::from_utf8_lossy(&raw).into_owned();
        Some((
            pid,
            text.split('\0')
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect(),
        ))
    };
    pids.filter_map(words).collect()
}

/// The mount points below `dir`, last mounted first.
pub fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let table =
        fs::read_to_string("/proc/self/mountinfo").on_file("reading", "/proc/self/mountinfo")?;
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescaped);
    let mut below = points
        .filter(|point| point.starts_with(dir))
        .collect::<Vec<_>>();
    below.reverse();
    Ok(below)
}

/// The table writes blanks and backslashes in octal.
fn unescaped(field: &str) -> PathBuf {
    let plain = field
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n");
    plain.replace("\\134", "\\").into()
}

fn unmount_below(dir: &Path) -> Result<()> {
    for point in mounts_below(dir)? {
        unmount(&point, UnmountFlags::DETACH)
            .map_err(Into::into)
            .on_file("unmounting", &point)?;
    }
    // Removing a tree through a mount that is still there would delete what is not ours.
    match mounts_below(dir)?.first() {
        None => Ok(()),
        Some(point) => Err(Error::Unexpected(format!(
            "{} is still mounted",
            point.display()
        ))),
    }
}
