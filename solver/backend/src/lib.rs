//! Traits for what the domain needs from the outside world, each with its law. Nothing here talks to anything.

pub mod blobs;
pub mod executor;
#[cfg(feature = "testing")]
pub mod fake;
pub mod images;
pub mod layers;
pub mod network;
pub mod registry;
pub mod session;
pub mod snapshots;
#[cfg(feature = "testing")]
#[expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a suite panics where a rule is broken"
)]
pub mod suite;
pub mod web;

use std::sync::Arc;

pub use blobs::{BlobInfo, BlobSlot, BlobWriter, Blobs};
pub use executor::{BuildTask, Executor, Exit, Process, Sandbox, StepIo};
pub use images::{Image, Images, Lease, LeaseKeeper, Leases};
pub use layers::{LayerId, LayerStore, LayerUpkeep, NewLayer, Pin, Usage};
pub use network::{NetworkUse, Networks};
pub use registry::{Registry, RegistryAccess};
pub use session::{Session, Sessions};
pub use snapshots::{Adoption, MountSpec, SnapshotNames, Snapshots};
pub use web::{Web, WebRequest, WebResponse};

/// A stream of chunks, each at most about a MiB.
pub type ByteStream = futures::stream::BoxStream<'static, Result<bytes::Bytes, BackendError>>;

/// One containerd namespace: what is stored and listed there.
#[derive(Clone)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
    /// Content.
    pub blobs: Arc<dyn Blobs>,
    /// Images.
    pub images: Arc<dyn Images>,
    /// Leases.
    pub leases: Arc<dyn Leases>,
    /// Snapshots of every snapshotter.
    pub snapshots: Arc<dyn Snapshots>,
    /// Tasks.
    pub executor: Arc<dyn Executor>,
}

/// The containerd that the daemon lives in.
#[async_trait::async_trait]
pub trait Host: Send + Sync {
    /// The namespace of this name; it needs not exist yet.
    fn namespace(&self, name: &str) -> Namespace;
    /// The server's UUID, asked for anew each time: containerd may have been replaced under a running daemon.
    async fn uuid(&self) -> Result<String, BackendError>;
    /// Name of every namespace.
    async fn namespaces(&self) -> Result<Vec<String>, BackendError>;
}

/// Class of a backend's error, as far as a caller may act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// What was named does not exist.
    NotFound,
    /// What should be made exists.
    AlreadyExists,
    /// Not allowed, or not without credentials.
    Denied,
    /// Cannot be done in this state.
    FailedPrecondition,
    /// The other side does not offer this.
    Unsupported,
    /// Not reachable, or gone in the middle.
    Unavailable,
    /// What arrived is not what its digest or size says, or is malformed.
    Corrupt,
    /// Ended on request.
    Cancelled,
    /// Anything else.
    Other,
}

impl ErrorKind {
    /// The class of a gRPC status code, by its number: containerd and clients answer with these.
    #[must_use]
    pub fn of_grpc(code: i32) -> Self {
        match code {
            1 => Self::Cancelled,
            4 | 14 => Self::Unavailable,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 | 16 => Self::Denied,
            9 => Self::FailedPrecondition,
            12 => Self::Unsupported,
            15 => Self::Corrupt,
            _ => Self::Other,
        }
    }
}

/// An error of a backend: what was attempted on what, its class and its cause.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}")]
pub struct BackendError {
    /// Class.
    pub kind: ErrorKind,
    /// What was attempted, on what; the cause's text is not in it.
    pub attempt: String,
    /// Why it failed.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl BackendError {
    /// An error without a cause of its own.
    #[must_use]
    pub fn new(kind: ErrorKind, attempt: impl Into<String>) -> Self {
        Self {
            kind,
            attempt: attempt.into(),
            cause: None,
        }
    }

    /// An error with its cause.
    #[must_use]
    pub fn caused(
        kind: ErrorKind,
        attempt: impl Into<String>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            kind,
            attempt: attempt.into(),
            cause: Some(cause.into()),
        }
    }

    /// True where what was named does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }
}

impl From<BackendError> for shipway_model::Failure {
    #[track_caller]
    fn from(error: BackendError) -> Self {
        use shipway_model::failure::FailureKind;
        let mut failure = Self::from_error(&error);
        failure.kind = match error.kind {
            ErrorKind::NotFound => FailureKind::NotFound,
            ErrorKind::Denied => FailureKind::PermissionDenied,
            ErrorKind::Cancelled => FailureKind::Cancelled,
            ErrorKind::Unsupported => FailureKind::Unimplemented,
            ErrorKind::AlreadyExists
            | ErrorKind::FailedPrecondition
            | ErrorKind::Unavailable
            | ErrorKind::Corrupt
            | ErrorKind::Other => failure.kind,
        };
        failure
    }
}
