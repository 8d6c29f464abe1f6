//! Fetches a token with a client's credentials, for clients that leave it to the daemon (the distribution specification's
//! "Token Authentication" and `OAuth2`). Never keeps a password.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, StatusCode};
use serde::Deserialize;
use shipway_backend::session::{Credentials, Token, TokenRequest};
use shipway_backend::{BackendError, ErrorKind};
use url::Url;

use crate::error::{refused, stalled, unanswered};

/// Who asks.
const CLIENT_ID: &str = "buildkit-client";
/// Good for this long where the server does not say.
const DEFAULT_LIFE: u64 = 60;
/// No token is this long.
const ANSWER: u64 = 1 << 20;

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

/// Fetches a token; anonymously where there are no credentials.
pub(crate) async fn fetch_token(
    client: &Client,
    request: &TokenRequest,
    credentials: &Credentials,
    patience: Duration,
) -> Result<Token, BackendError> {
    let attempt = format!(
        "fetching a token for {} from {}",
        request.host, request.realm
    );
    let realm = Url::parse(&request.realm)
        .map_err(|error| BackendError::caused(ErrorKind::Corrupt, &attempt, error))?;
    let source = Source {
        client,
        request,
        realm,
        attempt,
        patience,
    };
    if credentials.secret.is_empty() {
        return source.read(source.get(None)).await;
    }
    match source.read(source.post(credentials)).await {
        // Servers that know only the older way say so in various manners.
        Err(error) if error.kind != ErrorKind::Unavailable && !credentials.username.is_empty() => {
            source.read(source.get(Some(credentials))).await
        }
        answer => answer,
    }
}

struct Source<'a> {
    client: &'a Client,
    request: &'a TokenRequest,
    realm: Url,
    attempt: String,
    patience: Duration,
}

impl Source<'_> {
    /// The older way.
    fn get(&self, credentials: Option<&Credentials>) -> RequestBuilder {
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if !self.request.service.is_empty() {
                query.append_pair("service", &self.request.service);
            }
            for scope in &self.request.scopes {
                query.append_pair("scope", scope);
            }
        }
        let request = self.client.get(url);
        match credentials {
            Some(known) => request.basic_auth(&known.username, Some(&known.secret)),
            None => request,
        }
    }

    /// The `OAuth2` way.
    fn post(&self, credentials: &Credentials) -> RequestBuilder {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("client_id", CLIENT_ID)
            .append_pair("service", &self.request.service)
            .append_pair("scope", &self.request.scopes.join(" "));
        if credentials.username.is_empty() {
            form.append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", &credentials.secret);
        } else {
            form.append_pair("grant_type", "password")
                .append_pair("username", &credentials.username)
                .append_pair("password", &credentials.secret);
        }
        let kind = "application/x-www-form-urlencoded";
        self.client
            .post(self.realm.clone())
            .header(http::header::CONTENT_TYPE, kind)
            .body(form.finish())
    }

    async fn read(&self, request: RequestBuilder) -> Result<Token, BackendError> {
        let host = self.realm.host_str().unwrap_or_default();
        let answer = async {
            let response = request.send().await;
            let response = response.map_err(|error| unanswered(&self.attempt, host, error))?;
            if response.status() != StatusCode::OK {
                return Err(refused(&self.attempt, host, response).await);
            }
            if response
                .content_length()
                .is_some_and(|length| length > ANSWER)
            {
                return Err(self.senseless("it is too long"));
            }
            let bytes = response.bytes().await;
            bytes.map_err(|error| unanswered(&self.attempt, host, error))
        };
        let answer = tokio::time::timeout(self.patience, answer).await;
        let bytes = answer.map_err(|_| stalled(&self.attempt, host))??;
        let answer: Answer =
            serde_json::from_slice(&bytes).map_err(|_| self.senseless("it is no token's JSON"))?;
        let token = [answer.token, answer.access_token]
            .into_iter()
            .find(|token| !token.is_empty())
            .ok_or_else(|| self.senseless("it has no token"))?;
        // The specification's least, also for servers that say less.
        let seconds = answer.expires_in.max(DEFAULT_LIFE);
        Ok(Token {
            token,
            expires_in: Duration::from_secs(seconds),
        })
    }

    fn senseless(&self, why: &str) -> BackendError {
        BackendError::caused(
            ErrorKind::Corrupt,
            &self.attempt,
            format!("the answer: {why}"),
        )
    }
}
