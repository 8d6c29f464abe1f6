//! What a status of containerd means. It never hides containerd's own words: they become the cause.

use std::error::Error;

use shipway_backend::{BackendError, ErrorKind};
use tonic::{Code, Status};

/// A failed call: what was attempted, and containerd's answer.
pub(crate) fn failed(attempt: impl Into<String>, status: &Status) -> BackendError {
    let kind = if is_down(status) {
        ErrorKind::Unavailable
    } else {
        ErrorKind::of_grpc(status.code().into())
    };
    BackendError::caused(kind, attempt, words(status))
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
    status.code() == Code::Unavailable || status.source().is_some() || is_untranslated(status)
}

/// containerd 1.6 leaves the errors of streams as its own words: a snapshotter that is away has this ending.
fn is_untranslated(status: &Status) -> bool {
    status.code() == Code::Unknown && status.message().ends_with(": unavailable")
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
