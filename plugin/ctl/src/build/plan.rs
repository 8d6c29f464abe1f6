//! What one build is asked to do, checked and typed. No wire messages and no connection.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use shipway_proto::sourcepolicy;

use crate::args::outputs::CacheEntry;
use crate::error::Error;

/// Largest secret, in bytes, that a session carries.
pub const SECRET_LIMIT: u64 = 500 * 1024;

/// What is done when a step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OnError {
    /// The build ends.
    #[default]
    Stop,
    /// A shell opens in the failed step's filesystem before it ends.
    Shell,
    /// The failed step's filesystem is kept as an image that can be started.
    Keep,
}

/// Everything that the flags of a build say.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "two independent switches of the wire protocol"
)]
pub struct Plan {
    /// What is done when a step fails.
    pub on_error: OnError,
    /// Frontend; without one the definition comes from standard input.
    pub frontend: Option<String>,
    /// Options of the frontend.
    pub attrs: BTreeMap<String, String>,
    /// Ignore the cache for every vertex.
    pub no_cache: bool,
    /// Directories that the build may read, by name.
    pub locals: BTreeMap<String, PathBuf>,
    /// OCI layouts that the build may read, by name.
    pub layouts: BTreeMap<String, PathBuf>,
    /// Where results go.
    pub exports: Vec<Export>,
    /// Where cache goes.
    pub cache_exports: Vec<CacheEntry>,
    /// Where cache comes from.
    pub cache_imports: Vec<CacheEntry>,
    /// Secrets of steps.
    pub secrets: Vec<Secret>,
    /// SSH agents of steps, by id.
    pub agents: BTreeMap<String, Agent>,
    /// Privileges that the build may use.
    pub entitlements: Vec<String>,
    /// Rules for sources.
    pub policy: Option<sourcepolicy::Policy>,
    /// Force steps through the daemon's proxy.
    pub proxy_network: bool,
    /// TLS settings for token servers, by registry host.
    pub auth_tls: BTreeMap<String, AuthTls>,
}

/// One exporter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Its name.
    pub kind: String,
    /// Its settings, as the daemon gets them.
    pub attrs: BTreeMap<String, String>,
    /// What this side receives.
    pub sink: Sink,
}

/// What an exporter sends to this side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// Nothing: the result stays with the daemon.
    Daemon,
    /// A stream of bytes for standard output.
    Stdout,
    /// A stream of bytes for a file.
    File(PathBuf),
    /// Files for a directory.
    Directory(PathBuf, DirectoryMode),
    /// Blobs for an OCI layout.
    Store(PathBuf),
}

/// What happens to files that a directory already has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectoryMode {
    /// They stay unless replaced.
    Copy,
    /// Those that the result lacks are removed.
    Delete,
}

/// A secret and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// A file, read when asked for.
    File {
        /// Its id.
        id: String,
        /// The file.
        path: PathBuf,
    },
    /// A variable of this process.
    Env {
        /// Its id.
        id: String,
        /// The variable.
        name: String,
    },
}

impl Secret {
    /// A secret in a variable.
    #[must_use]
    pub fn env(id: String, name: String) -> Self {
        Self::Env { id, name }
    }

    /// A secret in a file.
    ///
    /// # Errors
    /// If the file is missing or larger than [`SECRET_LIMIT`].
    pub fn file(id: String, path: PathBuf) -> Result<Self, Error> {
        let meta = std::fs::metadata(&path).map_err(Error::file("opening secret", &path))?;
        if meta.len() > SECRET_LIMIT {
            let reason = format!("secret {id} too big. max size {SECRET_LIMIT}B");
            return Err(Error::flag("--secret", reason));
        }
        Ok(Self::File { id, path })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::File { id, .. } | Self::Env { id, .. } => id,
        }
    }
}

/// A socket that steps may speak to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agent {
    /// An SSH agent: requests that would change it are refused on its behalf.
    Ssh(PathBuf),
    /// Any socket, untouched.
    Raw(PathBuf),
}

impl Agent {
    /// Checks that a socket is there.
    ///
    /// # Errors
    /// If it is not, or is a key file: keys have to be added to an agent.
    pub fn open(path: PathBuf, raw: bool) -> Result<Self, Error> {
        let meta = std::fs::metadata(&path).map_err(Error::file("opening SSH agent", &path))?;
        if !meta.file_type().is_socket() {
            let reason = format!(
                "{} is not a socket; add key files to an agent with ssh-add",
                path.display()
            );
            return Err(Error::flag("--ssh", reason));
        }
        Ok(if raw {
            Self::Raw(path)
        } else {
            Self::Ssh(path)
        })
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &std::path::Path {
        match self {
            Self::Ssh(path) | Self::Raw(path) => path,
        }
    }
}

/// TLS settings for one registry's token server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthTls {
    /// Accept any certificate.
    pub insecure: bool,
    /// Further certificate authorities.
    pub authorities: Vec<PathBuf>,
    /// Client certificates with their keys.
    pub identities: Vec<(PathBuf, PathBuf)>,
}
