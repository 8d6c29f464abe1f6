//! Names what can fail on the way to a running process, worded for the person who wrote the Dockerfile. It never decides
//! what happens then.

use std::error::Error;
use std::io;

use shipway_step::InvalidStep;

use super::identity::UnknownIdentity;

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The specification is not one.
    #[error(transparent)]
    Invalid(#[from] InvalidStep),
    /// A process's JSON could not be read.
    #[error("reading the process to start")]
    Json(#[from] serde_json::Error),
    /// The step to enter does not run.
    #[error("step {0} does not run")]
    NoStep(String),
    /// The root's passwd or group file lacks a name.
    #[error(transparent)]
    Identity(#[from] UnknownIdentity),
    /// The program is missing or can't be run.
    #[error("exec: {name:?}: {reason}")]
    Command {
        /// The program as given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel refuses the program.
    #[error("exec {}: {reason}", program.display())]
    Exec {
        /// The program as found.
        program: std::path::PathBuf,
        /// The kernel's reason.
        reason: String,
    },
    /// The specification asks for what steps don't have.
    #[error("{0} is not supported in build steps")]
    Unsupported(&'static str),
    /// The seccomp section can't be compiled.
    #[error("compiling the seccomp filter: {0}")]
    Seccomp(String),
    /// A system call failed.
    #[error("{attempt}")]
    System {
        /// What was attempted on what.
        attempt: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// The error and all its sources on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Says what was attempted when a system call fails.
pub(crate) trait Attempt<T> {
    /// Adds what was attempted.
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, StartError>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, StartError> {
        self.map_err(|error| StartError::System {
            attempt: what(),
            source: error.into(),
        })
    }
}
