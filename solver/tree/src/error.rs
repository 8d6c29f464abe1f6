//! What can go wrong with a tree, each with what was attempted on which path. Texts of file operations are
//! those that BuildKit's users know (`lstat /x: no such file or directory`), because clients match on them.
//! It never decides how a caller reacts.

use std::io;
use std::path::{Path, PathBuf};

use shipway_model::Digest;

/// A failed operation on a tree.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{op} {}: {}", path.display(), reason(cause))]
    Io {
        /// What was attempted, as the name of the call.
        op: &'static str,
        /// On which path, inside the tree where it is one of a tree's.
        path: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
    /// Symbolic links lead in circles.
    #[error("{}: too many links", .0.display())]
    TooManyLinks(PathBuf),
    /// A selected path does not exist.
    #[error("{0:?}: not found")]
    NotFound(String),
    /// A wildcard that may not be empty matched nothing.
    #[error("{0} not found")]
    NoMatch(String),
    /// A directory meets something else at the destination.
    #[error("cannot copy to non-directory: {}", .0.display())]
    NotADirectory(PathBuf),
    /// A file meets a directory at the destination.
    #[error("cannot replace to directory {} with file", .0.display())]
    IsADirectory(PathBuf),
    /// A pattern cannot be read.
    #[error("syntax error in pattern {0:?}")]
    Pattern(String),
    /// A change of mode cannot be read.
    #[error("invalid mode {0:?}: invalid syntax")]
    Mode(String),
    /// An operation on the root that only other paths allow.
    #[error("{op} {}: {why}", path.display())]
    Refused {
        /// What was asked for.
        op: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// An archive holds an entry that is not acceptable.
    #[error("archive entry {entry:?}: {why}")]
    Entry {
        /// Name as written in the archive.
        entry: String,
        /// What is wrong with it.
        why: String,
    },
    /// An archive is larger than the caller allows.
    #[error("archive exceeds the limit of {limit} {what}")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// An archive or its compression cannot be read.
    #[error("reading archive: {0}")]
    Archive(io::Error),
    /// Bytes do not have the digest that they were announced with.
    #[error("{what} is {got}, expected {want}")]
    Digest {
        /// Which bytes.
        what: &'static str,
        /// Their digest.
        got: Digest,
        /// The one announced.
        want: Digest,
    },
    /// Stored bytes of an index cannot be read.
    #[error("stored index is damaged: {0}")]
    Index(&'static str),
    /// The other side of a transfer breaks its order.
    #[error("transfer of {}: {why}", path.display())]
    Transfer {
        /// Which entry.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The consumer of a stream failed.
    #[error("writing layer: {0}")]
    Sink(io::Error),
}

/// Result of an operation on a tree.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The system's words for an error, without the number and in lower case, as Go prints them.
fn reason(cause: &io::Error) -> String {
    let text = cause.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_lowercase().chain(chars).collect())
        .unwrap_or_default()
}

impl Error {
    /// Wraps a failed system call.
    pub fn io(op: &'static str, path: impl AsRef<Path>, cause: impl Into<io::Error>) -> Self {
        Self::Io {
            op,
            path: path.as_ref().to_path_buf(),
            cause: cause.into(),
        }
    }

    /// Whether something that was named does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Io { cause, .. } => cause.kind() == io::ErrorKind::NotFound,
            Self::NotFound(_) | Self::NoMatch(_) => true,
            _ => false,
        }
    }
}

/// Names the path that a failed call was made on: inside a tree, absolute.
pub(crate) trait Context<T> {
    fn on(self, op: &'static str, path: &Path) -> Result<T>;
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn on(self, op: &'static str, path: &Path) -> Result<T> {
        self.map_err(|e| Error::io(op, shown(path), e))
    }
}

impl<T> Context<T> for io::Result<T> {
    fn on(self, op: &'static str, path: &Path) -> Result<T> {
        self.map_err(|e| Error::io(op, shown(path), e))
    }
}

/// A path relative to a tree's root, as a user knows it.
pub(crate) fn shown(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_go_prints_them() {
        let error = Error::io("lstat", "/nodir", io::Error::from_raw_os_error(2));
        assert_eq!(error.to_string(), "lstat /nodir: no such file or directory");
        assert!(error.is_not_found());
    }
}
