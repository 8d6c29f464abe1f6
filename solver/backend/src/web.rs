//! Files behind http and https URLs. It decides nothing about what an answer means.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::{BackendError, ByteStream};

/// What is asked of a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WebRequest {
    /// The URL, http or https; a user name and password in it are sent along.
    pub url: String,
    /// Headers only (`HEAD`), no body.
    pub head_only: bool,
    /// Headers beside those that every request has; one given here replaces the usual one.
    pub headers: Vec<(String, String)>,
}

/// What a server answered, redirects followed.
pub struct WebResponse {
    /// Status code.
    pub status: u16,
    /// Headers, names in lower case; of several with one name the first.
    pub headers: BTreeMap<String, String>,
    /// The body; it ends with an error where the connection breaks before its end.
    pub body: ByteStream,
}

impl WebResponse {
    /// A header's value, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// The web.
///
/// Law: every status is an answer; only a server that cannot be spoken to is an error.
#[async_trait]
pub trait Web: Send + Sync {
    /// Sends a request and waits for the head of its answer.
    async fn send(&self, request: WebRequest) -> Result<WebResponse, BackendError>;
}
