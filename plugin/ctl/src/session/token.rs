//! Bearer tokens fetched for the daemon, so that it never sees the user's password. Speaks the two forms that token
//! servers know: OAuth by POST, and the older GET with basic authentication.

use std::collections::BTreeMap;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Certificate, Client, Identity, Response, StatusCode};
use serde::Deserialize;
use shipway_proto::filesync::{FetchTokenRequest, FetchTokenResponse};

use super::docker_config::Credentials;
use crate::build::plan::AuthTls;
use crate::error::Error;

/// How long a token lives, in seconds, if its server doesn't say.
const DEFAULT_LIFE: i64 = 60;

/// As whom tokens are asked for.
const CLIENT_ID: &str = "buildkit-client";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    token: String,
    access_token: String,
    expires_in: i64,
    issued_at: Option<jiff::Timestamp>,
}

/// Fetches a token from the realm that the registry named.
pub(super) async fn fetch(
    request: &FetchTokenRequest,
    credentials: &Credentials,
    tls: &BTreeMap<String, AuthTls>,
) -> Result<FetchTokenResponse, Error> {
    let client = client(&request.realm, tls.get(&request.host))?;
    let answer = match credentials {
        Credentials::Anonymous => get(&client, request, None).await?,
        Credentials::Registry(token) => {
            let (token, expires_in) = (token.clone(), DEFAULT_LIFE);
            return Ok(FetchTokenResponse {
                token,
                expires_in,
                issued_at: 0,
            });
        }
        Credentials::Identity(_) | Credentials::Password { .. } => {
            post(&client, request, credentials).await?
        }
    };
    let token = if answer.access_token.is_empty() {
        answer.token
    } else {
        answer.access_token
    };
    if token.is_empty() {
        return Err(Error::Answer(format!("{} gave no token", request.realm)));
    }
    let expires_in = if answer.expires_in == 0 {
        DEFAULT_LIFE
    } else {
        answer.expires_in
    };
    let issued_at = answer.issued_at.map_or(0, jiff::Timestamp::as_second);
    Ok(FetchTokenResponse {
        token,
        expires_in,
        issued_at,
    })
}

/// What a client of the token server is built on.
fn client(realm: &str, tls: Option<&AuthTls>) -> Result<Client, Error> {
    // Another part of the process may have installed one already; any will do.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder();
    if realm.starts_with("http://") {
        // Works on machines without any certificate authorities, too.
        builder = builder.tls_certs_only([]);
    }
    if let Some(tls) = tls {
        builder = builder.tls_danger_accept_invalid_certs(tls.insecure);
        for path in &tls.authorities {
            let pem = std::fs::read(path).map_err(Error::file("reading certificate", path))?;
            builder =
                builder.tls_certs_merge(Certificate::from_pem_bundle(&pem).map_err(unusable)?);
        }
        for (cert, key) in &tls.identities {
            let mut pem = std::fs::read(key).map_err(Error::file("reading key", key))?;
            pem.extend(std::fs::read(cert).map_err(Error::file("reading certificate", cert))?);
            builder = builder.identity(Identity::from_pem(&pem).map_err(unusable)?);
        }
    }
    builder.build().map_err(unusable)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unusable(error: reqwest::Error) -> Error {
    Error::Answer(format!("token server: {}", chain(&error)))
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

async fn get(
    client: &Client,
    request: &FetchTokenRequest,
    basic: Option<(&str, &str)>,
) -> Result<Answer, Error> {
    let mut url = url::Url::parse(&request.realm)
        .map_err(|error| Error::Answer(format!("realm {:?}: {error}", request.realm)))?;
    url.query_pairs_mut()
        .append_pair("service", &request.service);
    for scope in &request.scopes {
        url.query_pairs_mut().append_pair("scope", scope);
    }
    let mut call = client.get(url);
    if let Some((name, password)) = basic {
        call = call.basic_auth(name, Some(password));
    }
    read(call.send().await.map_err(unusable)?).await
}

async fn post(
    client: &Client,
    request: &FetchTokenRequest,
    credentials: &Credentials,
) -> Result<Answer, Error> {
    let (form, basic) = oauth_form(request, credentials);
    let kind = "application/x-www-form-urlencoded; charset=utf-8";
    let call = client
        .post(&request.realm)
        .header(CONTENT_TYPE, kind)
        .body(form);
    let response = call.send().await.map_err(unusable)?;
    match response.status() {
        // Servers that know only the older form answer one of these.
        StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED => get(client, request, Some(basic)).await,
        StatusCode::METHOD_NOT_ALLOWED if !basic.0.is_empty() => {
            get(client, request, Some(basic)).await
        }
        _ => read(response).await,
    }
}

/// The OAuth request, and the name and password for a server that knows only the older form.
fn oauth_form<'a>(
    request: &FetchTokenRequest,
    credentials: &'a Credentials,
) -> (String, (&'a str, &'a str)) {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("client_id", CLIENT_ID);
    form.append_pair("service", &request.service);
    if !request.scopes.is_empty() {
        form.append_pair("scope", &request.scopes.join(" "));
    }
    let basic = match credentials {
        Credentials::Password { username, password } => {
            form.append_pair("grant_type", "password");
            form.append_pair("username", username)
                .append_pair("password", password);
            (username.as_str(), password.as_str())
        }
        Credentials::Identity(token) => {
            form.append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", token);
            ("", token.as_str())
        }
        Credentials::Anonymous | Credentials::Registry(_) => ("", ""),
    };
    (form.finish(), basic)
}

async fn read(response: Response) -> Result<Answer, Error> {
    let (status, url) = (response.status(), response.url().clone());
    let body = response.bytes().await.map_err(unusable)?;
    if !status.is_success() {
        return Err(Error::Answer(format!(
            "unexpected status from {url}: {status}"
        )));
    }
    serde_json::from_slice(&body)
        .map_err(|error| Error::Answer(format!("token from {url}: {error}")))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn is_complete(request: &[u8]) -> bool {
        let text = String::from_utf8_lossy(request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            return false;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        body.len() >= length.map_or(0, |length| length.parse().unwrap())
    }

    /// Serves one canned answer per connection and gives the requests back.
    async fn serve(listener: TcpListener, answers: &[&str]) -> Vec<String> {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !is_complete(&request) {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            requests.push(String::from_utf8(request).unwrap());
        }
        requests
    }

    fn answer(status: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
    }

    async fn fetch_from(
        credentials: Credentials,
        answers: &[&str],
    ) -> (FetchTokenResponse, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let realm = format!("http://{}/token", listener.local_addr().unwrap());
        let request = FetchTokenRequest {
            realm,
            service: "s".into(),
            scopes: vec!["repository:a:pull".into()],
            ..FetchTokenRequest::default()
        };
        let tls = BTreeMap::new();
        let (fetched, requests) = tokio::join!(
            fetch(&request, &credentials, &tls),
            serve(listener, answers)
        );
        (fetched.unwrap(), requests)
    }

    #[tokio::test]
    async fn without_credentials_a_token_is_got() {
        let ok = answer(
            "200 OK",
            r#"{"token":"t","issued_at":"2024-01-01T00:00:00Z"}"#,
        );
        let (token, requests) = fetch_from(Credentials::Anonymous, &[&ok]).await;
        assert_eq!(
            (token.token.as_str(), token.expires_in),
            ("t", DEFAULT_LIFE)
        );
        assert!(requests[0].starts_with("GET /token?service=s&scope=repository%3Aa%3Apull HTTP"));
        assert!(!requests[0].contains("authorization"));
    }

    #[tokio::test]
    async fn a_server_without_oauth_is_asked_the_older_way() {
        let missing = answer("404 Not Found", "");
        let ok = answer("200 OK", r#"{"access_token":"t","expires_in":300}"#);
        let credentials = Credentials::Password {
            username: "u".into(),
            password: "p".into(),
        };
        let (token, requests) = fetch_from(credentials, &[&missing, &ok]).await;
        assert_eq!((token.token.as_str(), token.expires_in), ("t", 300));
        assert!(requests[0].contains("grant_type=password&username=u&password=p"));
        assert!(requests[1].contains("authorization: Basic dTpw"));
    }
}
