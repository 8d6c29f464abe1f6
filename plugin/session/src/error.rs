//! What a client's status means to the domain. It never hides the client's own words: they become the cause.

use shipway_backend::{BackendError, ErrorKind};
use tonic::Status;

/// A failed call: what was attempted, and the client's answer.
pub(crate) fn refused(attempt: impl Into<String>, status: &Status) -> BackendError {
    let cause = plain(status.message()).to_owned();
    BackendError::caused(ErrorKind::of_grpc(status.code().into()), attempt, cause)
}

/// An error about bytes that make no sense.
pub(crate) fn malformed(attempt: impl Into<String>, why: impl Into<String>) -> BackendError {
    BackendError::caused(ErrorKind::Corrupt, attempt, why.into())
}

/// The client left in the middle.
pub(crate) fn gone(session: &str) -> BackendError {
    BackendError::new(
        ErrorKind::Unavailable,
        format!("session {session}: client is gone"),
    )
}

/// What was said, without the wrapping that Go puts around a status which is an error of another call.
fn plain(message: &str) -> &str {
    let wrapped = message.strip_prefix("rpc error: code = ");
    wrapped
        .and_then(|rest| rest.split_once(" desc = "))
        .map_or(message, |(_, said)| said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_quoted_without_gos_wrapping() {
        assert_eq!(plain("rpc error: code = NotFound desc = no x"), "no x");
        assert_eq!(plain("rpc error: odd"), "rpc error: odd");
        assert_eq!(plain("no x"), "no x");
    }
}
