//! Runs commands to their end and keeps what they wrote.

use std::{
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use crate::{Error, Result};

/// What a command wrote, and how long it took.
#[derive(Debug, Clone)]
pub struct Done {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Whether it exited with 0.
    pub success: bool,
    /// From its start to its end.
    pub took: Duration,
}

/// How a command reads in messages.
#[must_use]
pub fn spell(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs `command` to its end, whatever that is.
pub fn finish(command: &mut Command) -> Result<Done> {
    let began = Instant::now();
    let output = output(command)?;
    Ok(Done {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        success: output.status.success(),
        took: began.elapsed(),
    })
}

/// Runs `command`; an exit code other than 0 is an error with all that it wrote.
pub fn succeed(command: &mut Command) -> Result<Done> {
    let began = Instant::now();
    let output = output(command)?;
    let took = began.elapsed();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(Done {
            stdout,
            stderr,
            success: true,
            took,
        });
    }
    let command = spell(command);
    Err(Error::Failed {
        command,
        status: output.status,
        output: format!("{stdout}{stderr}"),
    })
}

/// Runs `command`, which must fail; returns all that it wrote.
pub fn fail(command: &mut Command) -> Result<String> {
    let done = finish(command)?;
    if done.success {
        let command = spell(command);
        return Err(Error::Unexpected(format!(
            "{command} succeeded:\n{}{}",
            done.stdout, done.stderr
        )));
    }
    Ok(done.stdout + &done.stderr)
}

fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null());
    command.output().map_err(|source| Error::Start {
        command: spell(command),
        source,
    })
}
