//! What a registry's answers mean, and how they are worded: the reference, the host, the registry's own message.

use reqwest::{Response, StatusCode};
use serde::Deserialize;
use shipway_backend::{BackendError, ErrorKind};

/// Most of an error's body that is read.
const BODY: usize = 64 << 10;
/// Most of it that is shown.
const SHOWN: usize = 400;

/// The distribution specification's "Error Codes".
#[derive(Deserialize, Default)]
struct Body {
    #[serde(default)]
    errors: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The error of an answer that is a refusal; reads the rest of it.
pub(crate) async fn refused(attempt: &str, host: &str, response: Response) -> BackendError {
    let status = response.status();
    let body = read_some(response).await;
    classify(attempt, host, status, &body)
}

fn classify(attempt: &str, host: &str, status: StatusCode, body: &[u8]) -> BackendError {
    let errors = serde_json::from_slice::<Body>(body)
        .unwrap_or_default()
        .errors;
    let said = said(&errors, body);
    let is = |code: &str| errors.iter().any(|error| error.code == code);
    let answered = |what: &str| match said.as_str() {
        "" => format!("{host}: {what}"),
        said => format!("{host}: {what}: {said}"),
    };
    let (kind, why) = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let what = "access denied, repository does not exist or may require authorization";
            (ErrorKind::Denied, answered(what))
        }
        StatusCode::NOT_FOUND => (ErrorKind::NotFound, "not found".to_owned()),
        StatusCode::TOO_MANY_REQUESTS => (ErrorKind::Unavailable, answered("too many requests")),
        _ if is("DIGEST_INVALID") || is("SIZE_INVALID") => {
            (ErrorKind::Corrupt, answered("unexpected digest or size"))
        }
        status if status.is_server_error() => {
            (ErrorKind::Unavailable, answered(&unexpected(status)))
        }
        status => (ErrorKind::Other, answered(&unexpected(status))),
    };
    BackendError::caused(kind, attempt, why)
}

fn unexpected(status: StatusCode) -> String {
    format!("unexpected status {status}")
}

fn said(errors: &[Item], body: &[u8]) -> String {
    if errors.is_empty() {
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        // A proxy's page of HTML helps nobody.
        if text.starts_with('<') {
            return String::new();
        }
        return text.chars().take(SHOWN).collect();
    }
    let texts = errors.iter().map(|error| match error.message.as_str() {
        "" => error.code.clone(),
        message => message.to_owned(),
    });
    let text = texts.collect::<Vec<_>>().join(", ");
    text.chars().take(SHOWN).collect()
}

async fn read_some(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > BODY {
            body.truncate(BODY);
            break;
        }
    }
    body
}

/// The error of a request that got no answer.
pub(crate) fn unanswered(attempt: &str, host: &str, error: reqwest::Error) -> BackendError {
    let attempt = format!("{attempt} at {host}");
    // The address may hold a token in its query.
    BackendError::caused(ErrorKind::Unavailable, attempt, error.without_url())
}

/// The error of a host that went silent.
pub(crate) fn stalled(attempt: &str, host: &str) -> BackendError {
    let why = format!("{host} sends nothing");
    BackendError::caused(ErrorKind::Unavailable, attempt, why)
}

/// Which of two errors of two hosts is told: the later one, unless it only says that its host could not be asked.
pub(crate) fn telling(before: Option<BackendError>, error: BackendError) -> BackendError {
    match before {
        Some(before) if error.kind == ErrorKind::Unavailable => before,
        _ => error,
    }
}

/// What arrived is not what was asked for.
pub(crate) fn corrupt(attempt: &str, why: impl Into<String>) -> BackendError {
    BackendError::caused(ErrorKind::Corrupt, attempt, why.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_class_and_quotes_the_registry() {
        let errors = br#"{"errors":[{"code":"X","message":"go away"},{"code":"Y"}]}"#;
        let invalid = br#"{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}"#;
        for (status, body, kind, why) in [
            (404, &errors[..], ErrorKind::NotFound, "not found"),
            (
                401,
                errors,
                ErrorKind::Denied,
                "h: access denied, repository does not exist or may require authorization: go away, Y",
            ),
            (
                429,
                b"slow down",
                ErrorKind::Unavailable,
                "h: too many requests: slow down",
            ),
            (
                502,
                b"<html>",
                ErrorKind::Unavailable,
                "h: unexpected status 502 Bad Gateway",
            ),
            (
                400,
                invalid,
                ErrorKind::Corrupt,
                "h: unexpected digest or size: no",
            ),
            (
                418,
                b"",
                ErrorKind::Other,
                "h: unexpected status 418 I'm a teapot",
            ),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let error = classify("resolving x", "h", status, body);
            assert_eq!(error.kind, kind);
            assert_eq!(error.cause.unwrap().to_string(), why);
        }
    }
}
