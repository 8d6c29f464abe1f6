//! Daemons under our care: started with a log file, known by a pid that is written down, ended by it.

use std::{
    fs::{self, File},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Error, Result, command::spell, error::OnFile as _};

/// A running daemon. Dropping it ends it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    pid_file: PathBuf,
}

/// How long a daemon has from its start to its first accepted connection.
const START: Duration = Duration::from_secs(20);
/// How long a daemon has between SIGTERM and SIGKILL.
const STOP: Duration = Duration::from_secs(20);
/// Between two looks at something that tells nobody when it changes.
const POLL: Duration = Duration::from_millis(10);

impl Daemon {
    /// Starts `command` as `name`; its output goes to `dir/NAME.log`, its pid to `dir/pids/NAME`.
    pub fn start(name: &str, dir: &Path, command: &mut Command) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let pids = dir.join("pids");
        fs::create_dir_all(&pids).on_file("creating", &pids)?;
        // What it writes to its temporary directory ends with the stand, however it ends.
        let scratch = dir.join("tmp");
        fs::create_dir_all(&scratch).on_file("creating", &scratch)?;
        command.env("TMPDIR", &scratch);
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .on_file("opening", &log)?;
        let err = out.try_clone().on_file("sharing", &log)?;
        // A group of its own, so that Ctrl-C reaches us and we end it in order.
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err);
        let child = (command.spawn()).map_err(|source| Error::Start {
            command: spell(command),
            source,
        })?;
        let pid_file = pids.join(name);
        fs::write(&pid_file, child.id().to_string()).on_file("writing", &pid_file)?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            pid_file,
        })
    }

    /// Waits until `socket` accepts connections.
    pub fn wait_for_socket(&mut self, socket: &Path) -> Result<()> {
        self.wait_until(
            &format!("accept connections at {}", socket.display()),
            || UnixStream::connect(socket).is_ok(),
        )
    }

    /// Waits until `ready` says so, or the daemon ends, or it took too long.
    pub fn wait_until(&mut self, what: &str, ready: impl Fn() -> bool) -> Result<()> {
        let began = Instant::now();
        while !ready() {
            let gone = self
                .child
                .try_wait()
                .on_file("waiting for", &self.log)?
                .is_some();
            if gone || began.elapsed() > START {
                return Err(self.late(what, gone));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn late(&self, what: &str, gone: bool) -> Error {
        let verb = if gone { "ended and did not" } else { "did not" };
        Error::Late {
            what: format!("{} {verb} {what}", self.name),
            seconds: START.as_secs(),
            log: Some(self.log_tail()),
        }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of what it logged.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().collect::<Vec<_>>();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> Result<u64> {
        let path = PathBuf::from(format!("/proc/{}/status", self.pid()));
        let status = fs::read_to_string(&path).on_file("reading", &path)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.map(|kib| kib * 1024)
            .ok_or_else(|| Error::Unexpected(format!("no VmRSS in {}", path.display())))
    }

    /// Ends it at once, without a chance to clean up.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().on_file("killing", &self.log)?;
        self.child.wait().on_file("waiting for", &self.log)?;
        self.forget()
    }

    /// Asks it to end and waits; kills it if it doesn't. Says whether it ended by itself.
    pub fn stop(&mut self) -> Result<bool> {
        if self
            .child
            .try_wait()
            .on_file("waiting for", &self.log)?
            .is_some()
        {
            self.forget()?;
            return Ok(true);
        }
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)
            .map_err(Into::into)
            .on_file("ending", &self.log)?;
        let began = Instant::now();
        while began.elapsed() < STOP {
            if self
                .child
                .try_wait()
                .on_file("waiting for", &self.log)?
                .is_some()
            {
                self.forget()?;
                return Ok(true);
            }
            std::thread::sleep(POLL);
        }
        self.kill()?;
        Ok(false)
    }

    fn forget(&self) -> Result<()> {
        match fs::remove_file(&self.pid_file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).on_file("removing", &self.pid_file)
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(e) = self.stop() {
            crate::report::say(format_args!("ending {}: {e}", self.name));
        }
    }
}

/// Waits until `ready` says so, for something that announces nothing.
pub fn wait_until(what: &str, limit: Duration, ready: impl Fn() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !ready()? {
        if began.elapsed() > limit {
            return Err(Error::Late {
                what: format!("not {what}"),
                seconds: limit.as_secs(),
                log: None,
            });
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
