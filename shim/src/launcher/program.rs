//! Turns the calling process, already inside its namespaces and root, into the program of a specification. It never makes
//! a namespace or a mount other than the console's.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use nix::sys::stat::{Mode, umask};
use oci_spec::runtime::Process;
use rustix::fs::{FileType, Gid, OFlags, Uid, fchown, fstat, open};
use rustix::mount::mount_bind;
use rustix::process::{chdir, ioctl_tiocsctty, setsid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::termios::{Winsize, tcsetwinsize};
use rustix::thread::set_no_new_privs;

use super::command::{errno_text, find};
use super::credentials::{Capable, assume, label, limit, score};
use super::error::{Attempt as _, StartError};
use super::identity::Identity;
use super::seccomp::Filter;
use super::wire::{self, SetUp};
use crate::sys::{install_seccomp, join_new_session_keyring, reset_signals};

/// Standard input, output and error; a missing one is `/dev/null`.
#[derive(Debug, Default)]
pub(crate) struct Streams(pub(crate) [Option<OwnedFd>; 3]);

/// A program about to replace this process.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    pub(crate) process: &'a Process,
    pub(crate) identity: Identity,
    /// The home directory, if the environment has none.
    pub(crate) home: String,
    pub(crate) streams: Streams,
    /// The host's `/dev/null`.
    pub(crate) null: &'a OwnedFd,
    pub(crate) filter: Option<Rc<Filter>>,
    /// Where to send the terminal's master.
    pub(crate) set_up: &'a OwnedFd,
    /// The terminal's size, columns and rows.
    pub(crate) size: Option<(u16, u16)>,
    /// Make the terminal `/dev/console`.
    pub(crate) console: bool,
}

impl Program<'_> {
    /// Becomes the program. Returns only to say why that was not possible.
    pub(crate) fn become_it(mut self) -> StartError {
        match self.try_become() {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn try_become(&mut self) -> Result<std::convert::Infallible, StartError> {
        let process = self.process;
        join_new_session_keyring().attempt(|| "joining a new session keyring".to_owned())?;
        // A process that leads a session already has it from the same launch.
        setsid().ok();
        if process.terminal().unwrap_or(false) {
            self.open_terminal()?;
        }
        self.connect_streams()?;
        let cwd = process.cwd();
        chdir(cwd)
            .map_err(std::io::Error::from)
            .map_err(|error| StartError::Command {
                name: cwd.display().to_string(),
                reason: format!("chdir to cwd failed: {}", errno_text(&error)),
            })?;
        let environment = self.environment();
        let path_variable = environment
            .iter()
            .find_map(|variable| variable.strip_prefix("PATH="));
        let args = process.args().as_deref().unwrap_or_default();
        let program = find(args.first().map_or("", String::as_str), path_variable)?;
        limit(process.rlimits().as_deref().unwrap_or_default())?;
        if let Some(oom_score) = process.oom_score_adj() {
            score(oom_score).attempt(|| "setting the OOM score".to_owned())?;
        }
        label(
            process.apparmor_profile().as_deref(),
            process.selinux_label().as_deref(),
        )?;
        umask(Mode::from_bits_truncate(
            process.user().umask().unwrap_or(0o022),
        ));
        self.restrict()?;
        let (args, environment) = (c_strings(args)?, c_strings(&environment)?);
        let path = c_strings(&[program.to_string_lossy().into_owned()])?.remove(0);
        let Err(error) = nix::unistd::execve(&path, &args, &environment);
        Err(StartError::Exec {
            program,
            reason: errno_text(&error.into()),
        })
    }

    fn environment(&self) -> Vec<String> {
        let mut environment = self.process.env().clone().unwrap_or_default();
        let home = environment
            .iter()
            .find_map(|variable| variable.strip_prefix("HOME="));
        if home.is_none_or(str::is_empty) {
            environment.retain(|variable| !variable.starts_with("HOME="));
            environment.push(format!("HOME={}", self.home));
        }
        environment
    }

    /// Without `no_new_privs` only a privileged process may install a filter, so it comes before the privileges go.
    fn restrict(&self) -> Result<(), StartError> {
        let install = |filter: &Rc<Filter>| {
            install_seccomp(&filter.program, filter.flags)
                .attempt(|| "installing the seccomp filter".to_owned())
        };
        let no_new_privileges = self.process.no_new_privileges().unwrap_or(false);
        if !no_new_privileges {
            self.filter.iter().try_for_each(install)?;
        }
        let capable = Capable::new(self.process.capabilities().as_ref());
        assume(&self.identity, &capable)?;
        if no_new_privileges {
            set_no_new_privs(true).attempt(|| "setting no_new_privs".to_owned())?;
        }
        // The filter may forbid what resetting needs, so the handlers go first where that is possible.
        reset_signals().attempt(|| "resetting signals".to_owned())?;
        if no_new_privileges {
            self.filter.iter().try_for_each(install)?;
        }
        Ok(())
    }

    fn open_terminal(&mut self) -> Result<(), StartError> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opening = || "opening a terminal".to_owned();
        let master = open("/dev/pts/ptmx", flags, rustix::fs::Mode::empty()).attempt(opening)?;
        unlockpt(&master).attempt(opening)?;
        let peer_flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, peer_flags).attempt(opening)?;
        let wanted = self.process.console_size().and_then(|size| {
            Some((
                u16::try_from(size.width()).ok()?,
                u16::try_from(size.height()).ok()?,
            ))
        });
        if let Some((columns, rows)) = self.size.or(wanted) {
            let size = Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            tcsetwinsize(&master, size).attempt(opening)?;
        }
        let uid = Some(Uid::from_raw(self.identity.uid));
        fchown(&slave, uid, None::<Gid>).attempt(opening)?;
        if self.console {
            let name = ptsname(&master, Vec::new()).attempt(opening)?;
            let console_flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
            let mode = rustix::fs::Mode::from_raw_mode(0o666);
            drop(
                open("/dev/console", console_flags, mode)
                    .attempt(|| "making /dev/console".to_owned())?,
            );
            mount_bind(&name, "/dev/console").attempt(|| "binding /dev/console".to_owned())?;
        }
        ioctl_tiocsctty(&slave).attempt(|| "taking the terminal".to_owned())?;
        wire::send(self.set_up, &SetUp::Terminal, &[master.as_fd()]).attempt(opening)?;
        let copies = [
            slave.try_clone().attempt(opening)?,
            slave.try_clone().attempt(opening)?,
            slave,
        ];
        self.streams = Streams(copies.map(Some));
        Ok(())
    }

    /// Pipes are given to the process's user, so that it may open `/dev/stdout` anew.
    fn connect_streams(&self) -> Result<(), StartError> {
        let connecting = || "connecting the standard streams".to_owned();
        let [input, output, error] = &self.streams.0;
        for stream in [input, output, error].into_iter().flatten() {
            let kind = FileType::from_raw_mode(fstat(stream).attempt(connecting)?.st_mode);
            if matches!(kind, FileType::Fifo | FileType::Socket) {
                let uid = Some(Uid::from_raw(self.identity.uid));
                fchown(stream, uid, None::<Gid>).attempt(connecting)?;
            }
        }
        dup2_stdin(input.as_ref().unwrap_or(self.null)).attempt(connecting)?;
        dup2_stdout(output.as_ref().unwrap_or(self.null)).attempt(connecting)?;
        dup2_stderr(error.as_ref().unwrap_or(self.null)).attempt(connecting)
    }
}

fn c_strings(strings: &[String]) -> Result<Vec<CString>, StartError> {
    let strings: Result<Vec<CString>, _> = strings
        .iter()
        .map(|string| CString::new(string.as_str()))
        .collect();
    strings
        .map_err(|_| StartError::Invalid(shipway_step::InvalidStep::Nul("an argument or variable")))
}
