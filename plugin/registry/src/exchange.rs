//! One request to one host until there is an answer: over which transport, with which authorization, and again after a
//! passing failure. It never reads a body that it hands back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method};
use reqwest::{Client, Response, StatusCode};
use shipway_backend::{BackendError, ErrorKind, RegistryAccess};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use crate::challenge::{self, Challenge};
use crate::endpoint::{Endpoint, Transport};
use crate::error::{stalled, unanswered};
use crate::http_client::Clients;
use crate::settings::Settings;
use crate::tokens::{Asker, Tokens, Wanted};

/// First pause before a request is repeated.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause, also when a registry asks for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// What all requests share.
pub(crate) struct Exchange {
    pub(crate) settings: Settings,
    clients: Clients,
    tokens: Tokens,
    hosts: Mutex<HashMap<String, Host>>,
}

/// What is known of a host.
struct Host {
    challenge: Option<Challenge>,
    plain: bool,
    transfers: Arc<Semaphore>,
}

/// One request, which may be sent several times.
pub(crate) struct Ask<'a> {
    /// What it is for, for errors.
    pub(crate) attempt: &'a str,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) access: &'a RegistryAccess,
    /// What a token has to allow.
    pub(crate) scopes: Vec<String>,
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Where a request goes.
pub(crate) enum Target {
    /// A path on the endpoint.
    Path(String),
    /// A whole address, as the registry gave it.
    Url(Url),
}

impl<'a> Ask<'a> {
    pub(crate) fn new(
        attempt: &'a str,
        endpoint: &'a Endpoint,
        access: &'a RegistryAccess,
        method: Method,
        path: String,
    ) -> Self {
        Self {
            attempt,
            endpoint,
            access,
            scopes: Vec::new(),
            method,
            target: Target::Path(path),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    fn askers(&self) -> Vec<Asker> {
        if self.access.auth.is_empty() {
            return vec![None];
        }
        self.access.auth.iter().cloned().map(Some).collect()
    }
}

impl Exchange {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            clients: Clients::new(settings.connect_timeout),
            tokens: Tokens::new(settings.stall_timeout),
            hosts: Mutex::default(),
            settings,
        }
    }

    /// The first answer that is not a challenge which some asker can meet.
    pub(crate) async fn send(&self, ask: &Ask<'_>) -> Result<Response, BackendError> {
        let mut last = None;
        for asker in ask.askers() {
            let answer = self.send_as(ask, &asker).await;
            match &answer {
                Ok(response) if !is_denied(response) => return answer,
                _ => last = Some(answer),
            }
        }
        last.expect("there is always somebody who asks")
    }

    async fn send_as(&self, ask: &Ask<'_>, asker: &Asker) -> Result<Response, BackendError> {
        let client = self.clients.for_host(ask.endpoint)?;
        let mut header = self.authorize(ask, asker, &client, None).await?;
        let response = self.send_with(ask, &client, header.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let Some(challenge) = challenge::parse(response.headers()) else {
            return Ok(response);
        };
        self.with_host(&ask.endpoint.host, |host| host.challenge = Some(challenge));
        let before = header.take();
        header = self.authorize(ask, asker, &client, before.as_ref()).await?;
        match header {
            Some(header) if before.as_ref() != Some(&header) => {
                self.send_with(ask, &client, Some(&header)).await
            }
            _ => Ok(response),
        }
    }

    /// What is to be shown to a host that is known to want something.
    async fn authorize(
        &self,
        ask: &Ask<'_>,
        asker: &Asker,
        client: &Client,
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, BackendError> {
        let host = &ask.endpoint.host;
        let Some(challenge) = self.with_host(host, |host| host.challenge.clone()) else {
            return Ok(None);
        };
        let wanted = Wanted {
            host,
            challenge: &challenge,
            scopes: &ask.scopes,
            refused,
        };
        self.tokens.authorize(asker, client, wanted).await
    }

    /// The headers for a request that cannot be repeated, after another one to the same host was answered.
    pub(crate) async fn authorization(
        &self,
        ask: &Ask<'_>,
    ) -> Result<Option<HeaderValue>, BackendError> {
        let client = self.clients.for_host(ask.endpoint)?;
        let mut last = Ok(None);
        for asker in ask.askers() {
            last = self.authorize(ask, &asker, &client, None).await;
            if matches!(last, Ok(Some(_))) {
                break;
            }
        }
        last
    }

    async fn send_with(
        &self,
        ask: &Ask<'_>,
        client: &Client,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, BackendError> {
        let mut pause = PAUSE;
        for _ in 1..self.settings.tries {
            let began = Instant::now();
            let answer = self.send_once(ask, client, authorization).await;
            // A host that was silent all that time is not waited for again.
            if answer.is_err() && began.elapsed() >= self.patience() {
                return answer;
            }
            let wait = match &answer {
                Ok(response) if is_passing(response.status()) => {
                    asked_pause(response.headers()).unwrap_or(pause)
                }
                Err(error) if error.kind == ErrorKind::Unavailable => pause,
                _ => return answer,
            };
            tokio::time::sleep(wait.min(LONGEST_PAUSE)).await;
            pause *= 2;
        }
        self.send_once(ask, client, authorization).await
    }

    async fn send_once(
        &self,
        ask: &Ask<'_>,
        client: &Client,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, BackendError> {
        let host = &ask.endpoint.host;
        let plain = self.is_plain(ask.endpoint);
        let answer = self.transmit(ask, client, authorization, plain).await?;
        match answer {
            Err(error) if !plain && falls_back(ask.endpoint, &error) => {
                let again = self.transmit(ask, client, authorization, true).await?;
                if again.is_ok() {
                    self.with_host(host, |host| host.plain = true);
                }
                again.map_err(|error| unanswered(ask.attempt, host, error))
            }
            answer => answer.map_err(|error| unanswered(ask.attempt, host, error)),
        }
    }

    async fn transmit(
        &self,
        ask: &Ask<'_>,
        client: &Client,
        authorization: Option<&HeaderValue>,
        plain: bool,
    ) -> Result<reqwest::Result<Response>, BackendError> {
        let host = &ask.endpoint.host;
        let url = match &ask.target {
            Target::Path(path) => address(host, path, plain, ask.attempt)?,
            Target::Url(url) => url.clone(),
        };
        let mut request = client
            .request(ask.method.clone(), url)
            .headers(ask.headers.clone());
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if !ask.body.is_empty() {
            request = request.body(ask.body.clone());
        }
        let answer = tokio::time::timeout(self.patience(), request.send()).await;
        answer.map_err(|_| stalled(ask.attempt, host))
    }

    /// How long a host may take to begin its answer.
    fn patience(&self) -> Duration {
        self.settings.connect_timeout + self.settings.stall_timeout
    }

    /// The client for requests that are not sent by `send`.
    pub(crate) fn client(&self, endpoint: &Endpoint) -> Result<Client, BackendError> {
        self.clients.for_host(endpoint)
    }

    /// Waits for one of the host's transfers to end, where there are too many.
    pub(crate) async fn transfer(&self, host: &str) -> Option<OwnedSemaphorePermit> {
        let transfers = self.with_host(host, |host| host.transfers.clone());
        // Never closed.
        transfers.acquire_owned().await.ok()
    }

    fn is_plain(&self, endpoint: &Endpoint) -> bool {
        match endpoint.transport {
            Transport::Tls => false,
            Transport::Plain => true,
            Transport::TlsOrPlain => self.with_host(&endpoint.host, |host| host.plain),
        }
    }

    fn with_host<T>(&self, name: &str, act: impl FnOnce(&mut Host) -> T) -> T {
        let mut hosts: MutexGuard<'_, _> =
            self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = hosts.entry(name.to_owned()).or_insert_with(|| Host {
            challenge: None,
            plain: false,
            transfers: Arc::new(Semaphore::new(self.settings.concurrency.max(1))),
        });
        act(host)
    }
}

fn address(host: &str, path: &str, plain: bool, attempt: &str) -> Result<Url, BackendError> {
    let scheme = if plain { "http" } else { "https" };
    Url::parse(&format!("{scheme}://{host}{path}"))
        .map_err(|error| BackendError::caused(ErrorKind::Other, attempt, error))
}

fn is_denied(response: &Response) -> bool {
    matches!(
        response.status(),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
    )
}

/// A failure that may be over in a moment.
fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

fn asked_pause(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// TLS failed because the host does not speak it: not because its certificate is wrong, nor because nobody is there.
fn falls_back(endpoint: &Endpoint, error: &reqwest::Error) -> bool {
    if endpoint.transport != Transport::TlsOrPlain || !error.is_connect() {
        return false;
    }
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && error.kind() == std::io::ErrorKind::ConnectionRefused
        {
            return false;
        }
        if error.to_string().contains("invalid peer certificate") {
            return false;
        }
        cause = error.source();
    }
    true
}
