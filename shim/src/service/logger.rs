//! Starts the logging program that a `binary://` stream names. It never reads what is logged.

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::pipe::{PipeFlags, pipe_with};

use super::helper::own_program;

/// Whose output is logged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) id: String,
    pub(crate) namespace: String,
}

/// A logging program with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    path: PathBuf,
    args: Vec<String>,
}

impl Program {
    /// Reads `path?key=value&key=value`; keys and values become arguments in turn.
    pub(crate) fn parse(text: &str) -> Self {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let args = pairs.flat_map(|pair| {
            let (key, value) = pair
                .split_once('=')
                .map_or((pair, None), |(key, value)| (key, Some(value)));
            std::iter::once(decoded(key)).chain(value.map(decoded))
        });
        Self {
            path: PathBuf::from(decoded(path)),
            args: args.collect(),
        }
    }

    /// Starts it and waits until it is ready; gives what a process writes its output and errors to.
    pub(crate) fn start(&self, subject: &Subject) -> io::Result<[OwnedFd; 2]> {
        let (output, to_output) = pipe_with(PipeFlags::CLOEXEC)?;
        let (error, to_error) = pipe_with(PipeFlags::CLOEXEC)?;
        let (ready, to_ready) = pipe_with(PipeFlags::CLOEXEC)?;
        // The program wants its pipes as descriptors 3 to 5: a process of our own moves them there.
        let child = own_program()
            .arg("logger")
            .arg(&self.path)
            .args(&self.args)
            .env("CONTAINER_ID", &subject.id)
            .env("CONTAINER_NAMESPACE", &subject.namespace)
            .stdin(Stdio::from(output))
            .stdout(Stdio::from(error))
            .stderr(Stdio::from(to_ready))
            .spawn()?;
        drop(child);
        // It says so by a byte, or by closing the pipe.
        let _count = std::fs::File::from(ready).read(&mut [0])?;
        Ok([to_output, to_error])
    }
}

/// Runs as `logger PROGRAM ARGS…`, fresh and single-threaded, with the three pipes as standard streams. The lowest free
/// descriptors are 3, 4 and 5 then.
pub(crate) fn main(mut args: impl Iterator<Item = std::ffi::OsString>) -> io::Result<()> {
    let program = args.next().ok_or(io::ErrorKind::InvalidInput)?;
    let moved = [
        rustix::io::dup(io::stdin())?,
        rustix::io::dup(io::stdout())?,
        rustix::io::dup(io::stderr())?,
    ];
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    let error = Command::new(program).args(args).exec();
    drop(moved);
    Err(error)
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match (
            first,
            hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()),
        ) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (byte, _) => {
                bytes.push(if *byte == b'+' { b' ' } else { *byte });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_becomes_arguments() {
        let program =
            Program::parse("/usr/bin/nerdctl?_NERDCTL_INTERNAL_LOGGING=%2Fvar%2Flib%2Fn&flag");
        assert_eq!(program.path, PathBuf::from("/usr/bin/nerdctl"));
        assert_eq!(
            program.args,
            ["_NERDCTL_INTERNAL_LOGGING", "/var/lib/n", "flag"]
        );
    }
}
