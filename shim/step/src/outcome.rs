//! Decides what a step leaves behind: the result file that outlives containerd's exit events. It never reads clocks.

use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};

/// What became of a step. The launcher writes it as JSON to the step's result file, complete or not at all, before
/// containerd learns of the exit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepOutcome {
    /// The exit code; `128 + n` for a step that ended by signal `n`.
    pub exit_code: u32,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Set when the step was never started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<StepFailure>,
    /// The kernel's OOM killer took a process of the step's cgroup while the step ran.
    #[serde(default)]
    pub oom_killed: bool,
    /// Highest memory use in bytes: of the step's own cgroup when it has one, else the largest resident set of one of
    /// its processes.
    pub peak_memory: u64,
    /// Processor time in user mode, of all its waited-for processes, in microseconds.
    pub user_cpu_us: u64,
    /// The same in the kernel.
    pub system_cpu_us: u64,
    /// Blocks of 512 bytes read from disk.
    pub read_blocks: u64,
    /// Blocks of 512 bytes written to disk.
    pub written_blocks: u64,
    /// When the process was started, in nanoseconds since 1970.
    pub started_at_ns: u64,
    /// When its end was noticed, in nanoseconds since 1970.
    pub exited_at_ns: u64,
}

/// Why a step's process could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFailure {
    /// The reason, worded as container runtimes do (`exec: "x": executable file not found in $PATH`).
    pub message: String,
}

impl StepOutcome {
    /// Reads the result file of a step; `None` when the step has left none.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(json) => Ok(Some(serde_json::from_slice(&json)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the result: into a pipe, where `path` is one (a line, for whoever holds it open; nobody does when the daemon
    /// has ended), else as a file, by way of a neighbour and a rename. It is not synced: it has to survive processes, not
    /// the machine.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut json = serde_json::to_vec(self)?;
        if fs::symlink_metadata(path).is_ok_and(|data| data.file_type().is_fifo()) {
            json.push(b'\n');
            let mut options = fs::OpenOptions::new();
            let mut pipe = options
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(path)?;
            return pipe.write_all(&json);
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let draft = path.with_file_name(name);
        let mut file = fs::File::create(&draft)?;
        file.write_all(&json)?;
        fs::rename(&draft, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_read_back_and_a_missing_one_is_none() {
        let path =
            std::env::temp_dir().join(format!("shipway-step-outcome-{}", std::process::id()));
        assert_eq!(StepOutcome::read(&path).unwrap(), None);
        let outcome = StepOutcome {
            exit_code: 137,
            signal: Some(9),
            oom_killed: true,
            ..Default::default()
        };
        outcome.write(&path).unwrap();
        assert_eq!(StepOutcome::read(&path).unwrap(), Some(outcome));
        fs::remove_file(&path).unwrap();
    }
}
