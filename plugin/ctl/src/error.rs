//! Everything that can go wrong at the command line. Decides wording; never prints.

use std::io;
use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag's value can't be used.
    #[error("invalid {flag}: {reason}")]
    Flag {
        /// The flag as it is typed.
        flag: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Something on the client's own disk failed.
    #[error("{doing} {}", path.display())]
    File {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A standard stream failed.
    #[error("{doing}")]
    Stream {
        /// What was attempted.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The daemon can't be reached.
    #[error("failed to dial {address:?}: {reason}; make sure the daemon is running")]
    Connect {
        /// Where it was looked for.
        address: String,
        /// Why that failed.
        reason: String,
    },
    /// A call failed; the status carries details.
    #[error("{doing}: {}", status.message())]
    Call {
        /// What was asked for.
        doing: &'static str,
        /// The daemon's answer.
        status: Box<tonic::Status>,
    },
    /// The daemon answered something unusable.
    #[error("{0}")]
    Answer(String),
    /// A template could not be read or applied.
    #[error("template: {0}")]
    Template(String),
    /// The user interrupted.
    #[error("context canceled")]
    Canceled,
}

impl Error {
    /// For `map_err` on a call.
    pub(crate) fn call(doing: &'static str) -> impl FnOnce(tonic::Status) -> Self {
        move |status| Self::Call {
            doing,
            status: Box::new(status),
        }
    }

    /// For `map_err` on a file operation.
    pub(crate) fn file(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            doing,
            path,
            source,
        }
    }

    /// A flag's value that can't be used.
    pub(crate) fn flag(flag: &'static str, reason: impl Into<String>) -> Self {
        Self::Flag {
            flag,
            reason: reason.into(),
        }
    }

    /// The whole chain in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }
}
