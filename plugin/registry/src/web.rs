//! Files from the web for builds. Decides what every request carries, how many redirects are followed and how long a
//! connection may stand still; what an answer means is the caller's business.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Method};
use shipway_backend::{BackendError, ErrorKind, Web, WebRequest, WebResponse};

/// As many redirects as Go's client follows.
const REDIRECTS: usize = 10;

/// A client for files on the web.
#[derive(Debug, Clone)]
pub struct WebClient(Client);

impl WebClient {
    /// A client that trusts the machine's certificate authorities.
    pub fn new(connect_timeout: Duration, stall_timeout: Duration) -> Result<Self, BackendError> {
        let builder = || builder(connect_timeout, stall_timeout);
        // A machine may have no authorities of its own: plain HTTP must work there too.
        let client = builder()
            .build()
            .or_else(|_| builder().tls_certs_only([]).build());
        client.map(Self).map_err(|error| {
            BackendError::caused(ErrorKind::Other, "preparing the web client", error)
        })
    }
}

fn builder(connect_timeout: Duration, stall_timeout: Duration) -> ClientBuilder {
    crate::http_client::install_provider();
    Client::builder()
        .user_agent(concat!(
            "shipway/",
            env!("CARGO_PKG_VERSION"),
            " (buildkit/v0.33)"
        ))
        .connect_timeout(connect_timeout)
        .read_timeout(stall_timeout)
        .redirect(Policy::limited(REDIRECTS))
}

#[async_trait]
impl Web for WebClient {
    async fn send(&self, request: WebRequest) -> Result<WebResponse, BackendError> {
        let method = if request.head_only {
            Method::HEAD
        } else {
            Method::GET
        };
        let shown = format!("{method} {}", redacted(&request.url));
        let failed = |error: reqwest::Error| {
            BackendError::caused(ErrorKind::Unavailable, shown.clone(), error.without_url())
        };
        let mut asked = self.0.request(method, &request.url);
        for (name, value) in &request.headers {
            asked = asked.header(name, value);
        }
        let response = asked.send().await.map_err(failed)?;
        let mut headers = BTreeMap::new();
        for (name, value) in response.headers() {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            headers.entry(name.as_str().to_owned()).or_insert(value);
        }
        let status = response.status().as_u16();
        let body = response.bytes_stream().map_err(move |error| {
            let attempt = format!("reading the answer to {shown}");
            BackendError::caused(ErrorKind::Unavailable, attempt, error.without_url())
        });
        Ok(WebResponse {
            status,
            headers,
            body: Box::pin(body),
        })
    }
}

/// A URL without a password.
fn redacted(url: &str) -> String {
    let Ok(mut parsed) = url::Url::parse(url) else {
        return url.to_owned();
    };
    if parsed.password().is_some() && parsed.set_password(Some("xxxxx")).is_err() {
        return url.to_owned();
    }
    parsed.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(redacted("http://u:p@h/x?y"), "http://u:xxxxx@h/x?y");
        assert_eq!(redacted("http://h/x"), "http://h/x");
    }

    #[tokio::test]
    async fn an_answer_comes_with_its_head_and_body() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/f", listener.local_addr().unwrap());
        let served = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap();
            let answer = "HTTP/1.1 404 Not Found\r\nETag: \"e\"\r\nContent-Length: 2\r\n\r\nno";
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&head[..read]).into_owned()
        };
        let client = WebClient::new(Duration::from_secs(5), Duration::from_secs(5)).unwrap();
        let headers = vec![("User-Agent".to_owned(), "mine".to_owned())];
        let asked = client.send(WebRequest {
            url,
            headers,
            ..WebRequest::default()
        });
        let (head, response) = tokio::join!(served, asked);
        let response = response.unwrap();
        assert_eq!(
            (response.status, response.header("etag")),
            (404, Some("\"e\""))
        );
        let body: Vec<bytes::Bytes> = response.body.try_collect().await.unwrap();
        assert_eq!(body.concat(), b"no");
        assert!(
            head.contains("user-agent: mine") && !head.contains("shipway/"),
            "{head}"
        );
    }
}
