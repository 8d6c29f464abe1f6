//! What a status of containerd means. It never hides containerd's own words: they become the cause.

use std::error::Error;

use shipway_backend::{BackendError, ErrorKind};
use tonic::{Code, Status};

/// What containerd answered, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Answer(String);

/// A failed call: what was attempted, and containerd's answer.
pub(crate) fn failed(attempt: impl Into<String>, status: &Status) -> BackendError {
    let kind = if is_down(status) {
        ErrorKind::Unavailable
    } else {
        kind_of(status.code())
    };
    BackendError::caused(kind, attempt, Answer(words(status)))
}

/// A connection's own errors say little; what lies under them says why.
fn words(status: &Status) -> String {
    let mut words = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        cause = error.source();
    }
    words
}

/// containerd was not there, or went away in the middle.
pub(crate) fn is_down(status: &Status) -> bool {
    // Only a status that was made on this side has an error under it.
    status.code() == Code::Unavailable || status.source().is_some()
}

/// containerd was not there: it has seen nothing of the call.
pub(crate) fn was_never_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Denied,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::Unimplemented => ErrorKind::Unsupported,
        Code::Unavailable | Code::DeadlineExceeded => ErrorKind::Unavailable,
        Code::DataLoss => ErrorKind::Corrupt,
        Code::Cancelled => ErrorKind::Cancelled,
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal => ErrorKind::Other,
    }
}
