//! Rules of the client against a server that refuses, lies and breaks off.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use shipway_backend::session::{Auth, Credentials, Token, TokenRequest};
use shipway_backend::suite::collect;
use shipway_backend::{BackendError, ErrorKind, Registry as _, RegistryAccess};
use shipway_model::descriptor::OCI_LAYER;
use shipway_model::{Descriptor, Digest, ImageRef};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::{RegistryClient, Settings};

/// One answer: status, headers, pieces of the body; the connection breaks before a piece that is `None`.
type Answer = (u16, Vec<(&'static str, String)>, Vec<Option<Bytes>>);

/// A server that gives these answers in turn, whatever is asked, and keeps what was asked.
struct Server {
    host: String,
    asked: Arc<Mutex<Vec<String>>>,
    _running: JoinSet<()>,
}

type Answers = Arc<Mutex<VecDeque<Answer>>>;

async fn server(answers: Vec<Answer>) -> Server {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut running = JoinSet::new();
    running.spawn(serve(
        listener,
        Arc::new(Mutex::new(answers.into())),
        asked.clone(),
    ));
    Server {
        host,
        asked,
        _running: running,
    }
}

async fn serve(listener: TcpListener, answers: Answers, seen: Arc<Mutex<Vec<String>>>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (answers, seen) = (answers.clone(), seen.clone());
        let answer = service_fn(move |request: http::Request<Incoming>| {
            let (answers, seen) = (answers.clone(), seen.clone());
            async move { Ok::<_, Infallible>(answer(request, &answers, &seen).await) }
        });
        let http = hyper::server::conn::http1::Builder::new();
        connections.spawn(http.serve_connection(TokioIo::new(stream), answer));
    }
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

async fn answer(
    request: http::Request<Incoming>,
    answers: &Mutex<VecDeque<Answer>>,
    seen: &Mutex<Vec<String>>,
) -> http::Response<Body> {
    let header = |name: &str| {
        let value = request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok());
        value.map(|value| format!(" {value}")).unwrap_or_default()
    };
    let shown = header("authorization") + &header("range");
    let line = format!("{} {}{shown}", request.method(), request.uri());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    seen.lock()
        .unwrap()
        .push(format!("{line} {body}").trim().to_owned());
    let (status, headers, pieces) = answers
        .lock()
        .unwrap()
        .pop_front()
        .expect("one more request");
    let pieces = futures::stream::iter(pieces).then(async |piece| {
        // What came before is sent first.
        tokio::task::yield_now().await;
        let broken = || std::io::Error::other("broken off");
        piece.map(Frame::data).ok_or_else(broken)
    });
    let mut response = http::Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    let body = StreamBody::new(pieces);
    response.body(body.boxed_unsync()).unwrap()
}

fn ok(headers: Vec<(&'static str, String)>, body: &str) -> Answer {
    (
        200,
        headers,
        vec![Some(Bytes::copy_from_slice(body.as_bytes()))],
    )
}

fn client() -> RegistryClient {
    RegistryClient::new(Settings {
        tries: 3,
        stall_timeout: Duration::from_secs(5),
        ..Default::default()
    })
}

fn image(server: &Server) -> ImageRef {
    format!("{}/a/b:1", server.host).parse().unwrap()
}

fn access(auth: Vec<Arc<dyn Auth>>) -> RegistryAccess {
    RegistryAccess {
        auth,
        insecure: false,
    }
}

/// Leaves fetching tokens to the daemon.
struct Known(&'static str, &'static str);

#[async_trait]
impl Auth for Known {
    async fn credentials(&self, _: &str) -> Result<Credentials, BackendError> {
        Ok(Credentials {
            username: self.0.into(),
            secret: self.1.into(),
        })
    }

    async fn token(&self, _: &TokenRequest) -> Result<Token, BackendError> {
        Err(BackendError::new(ErrorKind::Unsupported, "token"))
    }

    async fn authority(&self, _: &str) -> Result<Vec<u8>, BackendError> {
        Err(BackendError::new(ErrorKind::Unsupported, "authority"))
    }
}

async fn fetch(
    server: &Server,
    client: &RegistryClient,
    descriptor: &Descriptor,
    access: &RegistryAccess,
) -> Result<Vec<u8>, BackendError> {
    let image = image(server);
    collect(client.fetch(&image, descriptor, access).await?).await
}

#[tokio::test]
async fn a_transfer_that_breaks_off_is_taken_up_where_it_broke() {
    let piece = |text: &'static str| Some(Bytes::from(text));
    let range = ("content-range", "bytes 5-9/10".to_owned());
    let server = server(vec![
        (200, vec![], vec![piece("01234"), None]),
        (206, vec![range], vec![piece("567"), None]),
        // One that knows no ranges begins again.
        (200, vec![], vec![piece("0123456789")]),
    ])
    .await;
    let descriptor = Descriptor::of(OCI_LAYER, b"0123456789");
    let got = fetch(&server, &client(), &descriptor, &access(vec![])).await;
    assert_eq!(got.unwrap(), b"0123456789");
    let asked = server.asked.lock().unwrap();
    let ranges: Vec<_> = asked
        .iter()
        .map(|line| line.rsplit(' ').next().unwrap())
        .collect();
    assert_eq!(ranges[1..], ["bytes=5-", "bytes=8-"]);
}

#[tokio::test]
async fn bytes_that_are_not_what_the_descriptor_says_are_an_error() {
    let told = Descriptor::new(OCI_LAYER, Digest::of(b"told"), 4);
    for (body, why) in [
        ("lie!", "sent bytes with digest"),
        ("told and more", "more than its 4 bytes"),
    ] {
        let server = server(vec![ok(vec![], body)]).await;
        let error = fetch(&server, &client(), &told, &access(vec![]))
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corrupt);
        assert!(error.to_string().contains(&told.digest.to_string()));
        let cause = error.cause.unwrap().to_string();
        assert!(cause.contains(why), "{cause}");
    }
    let server = server(vec![ok(vec![], "to"), ok(vec![], "to"), ok(vec![], "to")]).await;
    let error = fetch(&server, &client(), &told, &access(vec![]))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_passing_failure_is_waited_out() {
    let server = server(vec![
        (503, vec![], vec![]),
        (429, vec![("retry-after", "0".to_owned())], vec![]),
        ok(vec![], "x"),
    ])
    .await;
    let descriptor = Descriptor::of(OCI_LAYER, b"x");
    let got = fetch(&server, &client(), &descriptor, &access(vec![])).await;
    assert_eq!(got.unwrap(), b"x");
}

#[tokio::test]
async fn a_lasting_failure_is_quoted() {
    let body = r#"{"errors":[{"code":"X","message":"go away"}]}"#;
    let answer = || (503, vec![], vec![Some(Bytes::from(body))]);
    let server = server(vec![answer(), answer(), answer()]).await;
    let resolved = client().resolve(&image(&server), &access(vec![])).await;
    let error = resolved.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    let cause = error.cause.unwrap().to_string();
    assert!(
        cause.contains(&server.host) && cause.contains("503"),
        "{cause}"
    );
}

#[tokio::test]
async fn a_token_is_fetched_with_credentials_and_used_again() {
    let tokens = server(vec![
        (404, vec![], vec![]),
        ok(vec![], r#"{"token":"t","expires_in":300}"#),
    ])
    .await;
    let challenge = format!(
        "Bearer realm=\"http://{}/token\",service=\"s\"",
        tokens.host
    );
    let server = server(vec![
        (401, vec![("www-authenticate", challenge)], vec![]),
        ok(vec![], "x"),
        ok(vec![], "x"),
    ])
    .await;
    let client = client();
    let descriptor = Descriptor::of(OCI_LAYER, b"x");
    let access = access(vec![Arc::new(Known("user", "pass"))]);
    for _ in 0..2 {
        let got = fetch(&server, &client, &descriptor, &access).await;
        assert_eq!(got.unwrap(), b"x");
    }
    let path = format!("GET /v2/a/b/blobs/{}", descriptor.digest);
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(
        asked,
        [
            path.clone(),
            format!("{path} Bearer t"),
            format!("{path} Bearer t")
        ]
    );
    let scope = "scope=repository%3Aa%2Fb%3Apull";
    let asked = tokens.asked.lock().unwrap().clone();
    let post = format!(
        "POST /token client_id=buildkit-client&service=s&{scope}&grant_type=password&username=user&password=pass"
    );
    let get = format!("GET /token?service=s&{scope} Basic dXNlcjpwYXNz");
    assert_eq!(asked, [post, get]);
}

#[tokio::test]
async fn basic_credentials_are_shown_only_when_asked_for() {
    let challenge = ("www-authenticate", "Basic realm=\"x\"".to_owned());
    let server = server(vec![(401, vec![challenge], vec![]), ok(vec![], "x")]).await;
    let descriptor = Descriptor::of(OCI_LAYER, b"x");
    let access = access(vec![Arc::new(Known("user", "pass"))]);
    let got = fetch(&server, &client(), &descriptor, &access).await;
    assert_eq!(got.unwrap(), b"x");
    let asked = server.asked.lock().unwrap();
    assert!(asked[1].ends_with(" Basic dXNlcjpwYXNz"));
}

#[tokio::test]
async fn who_has_no_access_is_told_so_after_everybody_was_tried() {
    let challenge = || ("www-authenticate", "Basic realm=\"x\"".to_owned());
    let server = server(vec![
        (401, vec![challenge()], vec![]),
        (401, vec![challenge()], vec![]),
        (403, vec![], vec![Some(Bytes::from("no"))]),
    ])
    .await;
    let access = access(vec![Arc::new(Known("a", "1")), Arc::new(Known("b", "2"))]);
    let error = client()
        .resolve(&image(&server), &access)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    let cause = error.cause.unwrap().to_string();
    assert!(cause.contains("repository does not exist or may require authorization"));
}

#[tokio::test]
async fn a_manifest_without_a_digest_header_is_read_to_learn_it() {
    let kind = || ("content-type", "application/x; charset=utf-8".to_owned());
    let server = server(vec![ok(vec![kind()], ""), ok(vec![kind()], "{}")]).await;
    let resolved = client().resolve(&image(&server), &access(vec![])).await;
    assert_eq!(resolved.unwrap(), Descriptor::of("application/x", b"{}"));
}

#[tokio::test]
async fn a_silent_host_is_not_waited_for_again() {
    // The kernel takes connections; nobody ever answers them.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap();
    let client = RegistryClient::new(Settings {
        tries: 100,
        connect_timeout: Duration::from_millis(200),
        stall_timeout: Duration::from_millis(200),
        ..Default::default()
    });
    let image: ImageRef = format!("{host}/a/b:1").parse().unwrap();
    let access = access(vec![]);
    let resolving = client.resolve(&image, &access);
    let resolved = tokio::time::timeout(Duration::from_secs(20), resolving);
    let error = resolved.await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    drop(listener);
}
