//! What goes wrong with a network: what was attempted, on which file, plugin or namespace.

use std::io;
use std::path::PathBuf;

use shipway_backend::{BackendError, ErrorKind};

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A file or directory could not be read, written or mounted.
    #[error("{attempt} {}", path.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The configuration is no JSON.
    #[error("reading CNI configuration {origin}")]
    Json {
        /// Where it is written.
        origin: String,
        /// Why it failed.
        #[source]
        source: serde_json::Error,
    },
    /// The configuration means nothing.
    #[error("CNI configuration {origin}: {why}")]
    Configuration {
        /// Where it is written.
        origin: String,
        /// What is wrong with it.
        why: String,
    },
    /// A plugin that the configuration names is not there.
    #[error("CNI plugin {} is missing", .0.display())]
    NoPlugin(PathBuf),
    /// A plugin could not be run, or answered what cannot be read.
    #[error("running CNI plugin {plugin} ({command}): {why}")]
    Plugin {
        /// Its name.
        plugin: String,
        /// `ADD` or `DEL`.
        command: &'static str,
        /// What it said.
        why: String,
    },
    /// The kernel refused to remove an interface.
    #[error("removing network interface {name}")]
    Interface {
        /// Its name.
        name: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl NetworkError {
    pub(crate) fn file(
        attempt: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            attempt,
            path,
            source,
        }
    }
}

impl From<NetworkError> for BackendError {
    fn from(error: NetworkError) -> Self {
        Self::caused(ErrorKind::Other, "making a network for a step", error)
    }
}
