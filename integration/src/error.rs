//! What can go wrong on a stand. Messages carry what a reader of a failed run needs: the command, its output, the log.

use std::{io, path::PathBuf, process::ExitStatus};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a stand, a client or a check failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory.
    #[error("{doing} {}", path.display())]
    File {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A command that isn't installed, or can't be started.
    #[error("starting {command}")]
    Start {
        /// The command.
        command: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A command that failed.
    #[error("{command}: {status}\n{output}")]
    Failed {
        /// The command.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        output: String,
    },
    /// Something that should have happened by now.
    #[error("{what} within {seconds} s{}", log.as_deref().map(|l| format!("; its log ends:\n{l}")).unwrap_or_default())]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// The end of the log of whoever should have done it.
        log: Option<String>,
    },
    /// A tool that the machine lacks.
    #[error("{what} is missing: {remedy}")]
    Missing {
        /// The tool.
        what: String,
        /// The command that gets it.
        remedy: &'static str,
    },
    /// Something that should be so and isn't.
    #[error("{0}")]
    Unexpected(String),
}

/// Adds what was attempted on which file to a system error.
pub(crate) trait OnFile<T> {
    /// `doing` is a participle: "reading", "creating".
    fn on_file(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> OnFile<T> for io::Result<T> {
    fn on_file(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::File {
            doing,
            path: path.into(),
            source,
        })
    }
}
