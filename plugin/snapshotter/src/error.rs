//! What can go wrong in the layer store, one variant per thing that a caller may do about it. Never decides a gRPC
//! code: `service` maps these.

use std::{io, path::PathBuf, sync::Arc};

use crate::model::LayerId;

/// Outcome of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed store operation: what was attempted, on what.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No entry has this key or name.
    #[error("snapshot {0:?} does not exist")]
    NoEntry(String),
    /// The parent that a request names does not exist.
    #[error("parent snapshot {0:?} does not exist")]
    NoParent(String),
    /// The key or name is taken, or an alias for the requested reference exists now.
    #[error("snapshot {0:?} already exists")]
    EntryExists(String),
    /// The entry is the parent of others.
    #[error("cannot remove snapshot {0:?}: it has children, remove them first")]
    HasChildren(String),
    /// Only active entries can be committed; only active and view entries can be mounted.
    #[error("snapshot {key:?} is {kind}, which {attempt} does not accept")]
    WrongKind {
        /// The entry.
        key: String,
        /// Its kind, as containerd spells it.
        kind: &'static str,
        /// What was asked for.
        attempt: &'static str,
    },
    /// A parent must be committed.
    #[error("parent snapshot {0:?} is not committed")]
    ParentNotCommitted(String),
    /// The request itself makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The chain is longer than the kernel stacks.
    #[error("snapshot {key:?} has {depth} layers, overlayfs stacks at most {limit}")]
    TooDeep {
        /// The entry.
        key: String,
        /// How many lower directories it would need.
        depth: usize,
        /// The kernel's limit.
        limit: usize,
    },
    /// No such layer, or it is being deleted.
    #[error("layer {0} does not exist")]
    NoLayer(LayerId),
    /// The layer is not one that this process created and has yet to commit.
    #[error("layer {0} is not open for changes")]
    NotOpen(LayerId),
    /// A foreign directory cannot serve as a layer.
    #[error("{path} cannot be used in place: {why}", path = path.display())]
    UnusableForeign {
        /// The offending file or directory.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// The root directory's filesystem cannot hold overlay upper directories.
    #[error("the filesystem of {root} ({fs_type}) cannot hold overlay layers: {why}", root = root.display())]
    UnfitFilesystem {
        /// The store's root.
        root: PathBuf,
        /// Its filesystem's type.
        fs_type: String,
        /// Which trial failed.
        why: &'static str,
        /// The system's answer, if it was an error.
        #[source]
        source: Option<io::Error>,
    },
    /// Another process has the store open.
    #[error("the layer store at {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// A system call failed.
    #[error("{attempt} {path}", path = path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The metadata database failed.
    #[error("the layer store's metadata")]
    Metadata(#[source] Arc<redb::Error>),
    /// A record cannot be read.
    #[error("the record of {what} is damaged")]
    Damaged {
        /// Whose record.
        what: String,
        /// The decoder's complaint.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// Wraps a failed system call on `path`.
    pub(crate) fn io(
        attempt: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            attempt,
            path,
            source,
        }
    }
}

macro_rules! metadata_error {
    ($($source:ty),*) => {$(
        impl From<$source> for Error {
            fn from(source: $source) -> Self {
                Self::Metadata(Arc::new(source.into()))
            }
        }
    )*};
}

metadata_error!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError
);
