//! Uploads blobs and manifests. What is there already is not sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Body, Response, StatusCode};
use shipway_backend::{BackendError, ByteStream, RegistryAccess};
use shipway_config::hosts::Purpose;
use shipway_model::{Descriptor, Digest, ImageRef};
use tokio::sync::oneshot;
use url::Url;

use crate::client::{RegistryClient, pull_scope, push_scope};
use crate::endpoint::Endpoint;
use crate::error::{corrupt, refused, stalled, unanswered};
use crate::exchange::{Ask, Target};

impl RegistryClient {
    pub(crate) async fn find_or_mount(
        &self,
        image: &ImageRef,
        digest: &Digest,
        mount_from: Option<&str>,
        access: &RegistryAccess,
    ) -> Result<bool, BackendError> {
        let attempt = format!("looking for {digest} in {}", image.name());
        let push = Push::new(self, image, access, &attempt).await?;
        let path = push.endpoint.path(image, &format!("blobs/{digest}"));
        let response = push.send(Method::HEAD, path, vec![]).await?;
        match response.status() {
            StatusCode::OK => return Ok(true),
            StatusCode::NOT_FOUND => {}
            _ => return Err(refused(&attempt, &push.endpoint.host, response).await),
        }
        match mount_from.filter(|from| *from != image.path) {
            Some(from) => push.mount(digest, from).await,
            None => Ok(false),
        }
    }

    pub(crate) async fn upload_blob(
        &self,
        image: &ImageRef,
        descriptor: &Descriptor,
        data: ByteStream,
        access: &RegistryAccess,
    ) -> Result<(), BackendError> {
        let attempt = format!("pushing {} to {}", descriptor.digest, image.name());
        let push = Push::new(self, image, access, &attempt).await?;
        let _permit = self.exchange.transfer(&push.endpoint.host).await;
        let path = push.endpoint.path(image, "blobs/uploads/");
        let response = push.send(Method::POST, path, vec![]).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(());
        }
        if response.status() != StatusCode::ACCEPTED {
            return Err(refused(&attempt, &push.endpoint.host, response).await);
        }
        let mut location = push.location(&response)?;
        let digest = descriptor.digest.to_string();
        location.query_pairs_mut().append_pair("digest", &digest);
        push.put(location, descriptor.size, data).await
    }

    pub(crate) async fn put_manifest(
        &self,
        image: &ImageRef,
        descriptor: &Descriptor,
        bytes: Bytes,
        access: &RegistryAccess,
    ) -> Result<(), BackendError> {
        let digest = descriptor.digest.to_string();
        let version = image.tag.as_deref().unwrap_or(&digest);
        let attempt = format!("pushing {}:{version}", image.name());
        if Digest::of(&bytes) != descriptor.digest {
            let why = format!("its bytes have digest {}", Digest::of(&bytes));
            return Err(corrupt(&attempt, why));
        }
        let push = Push::new(self, image, access, &attempt).await?;
        let path = push.endpoint.path(image, &format!("manifests/{version}"));
        let mut ask = push.ask(Method::PUT, path, vec![]);
        ask.body = bytes;
        if let Ok(media_type) = HeaderValue::from_str(&descriptor.media_type) {
            ask.headers.insert(CONTENT_TYPE, media_type);
        }
        let response = self.exchange.send(&ask).await?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(refused(&attempt, &push.endpoint.host, response).await)
    }
}

/// Something that is being pushed to a repository.
struct Push<'a> {
    client: &'a RegistryClient,
    image: &'a ImageRef,
    access: &'a RegistryAccess,
    attempt: &'a str,
    endpoint: Endpoint,
}

impl<'a> Push<'a> {
    async fn new(
        client: &'a RegistryClient,
        image: &'a ImageRef,
        access: &'a RegistryAccess,
        attempt: &'a str,
    ) -> Result<Self, BackendError> {
        let settings = &client.exchange.settings;
        let endpoints = settings.endpoints(image, access.insecure, Purpose::Push);
        let endpoint = endpoints.await?.swap_remove(0);
        Ok(Self {
            client,
            image,
            access,
            attempt,
            endpoint,
        })
    }

    fn ask(&self, method: Method, path: String, more: Vec<String>) -> Ask<'_> {
        let mut scopes = more;
        scopes.push(push_scope(&self.image.path));
        Ask {
            scopes,
            ..Ask::new(self.attempt, &self.endpoint, self.access, method, path)
        }
    }

    async fn send(
        &self,
        method: Method,
        path: String,
        scopes: Vec<String>,
    ) -> Result<Response, BackendError> {
        let ask = self.ask(method, path, scopes);
        self.client.exchange.send(&ask).await
    }

    /// Whether the registry could take the blob from another of its repositories.
    async fn mount(&self, digest: &Digest, from: &str) -> Result<bool, BackendError> {
        let escaped = utf8_percent_encode(from, NON_ALPHANUMERIC);
        let uploads = format!("blobs/uploads/?mount={digest}&from={escaped}");
        let path = self.endpoint.path(self.image, &uploads);
        let response = self
            .send(Method::POST, path, vec![pull_scope(from)])
            .await?;
        match response.status() {
            StatusCode::CREATED => Ok(true),
            StatusCode::ACCEPTED => {
                self.abandon(&response).await;
                Ok(false)
            }
            // What cannot be read cannot be mounted, but still be sent.
            status if status.is_client_error() => Ok(false),
            _ => Err(refused(self.attempt, &self.endpoint.host, response).await),
        }
    }

    /// Ends an upload that the registry has begun and nobody wants.
    async fn abandon(&self, response: &Response) {
        let Ok(location) = self.location(response) else {
            return;
        };
        let mut ask = self.ask(Method::DELETE, String::new(), vec![]);
        ask.target = Target::Url(location);
        if let Err(error) = self.client.exchange.send(&ask).await {
            tracing::debug!(?error, "an upload that was not wanted stays");
        }
    }

    /// Where an upload goes on, which may be anywhere.
    fn location(&self, response: &Response) -> Result<Url, BackendError> {
        let location = response.headers().get(LOCATION);
        let location = location.and_then(|value| value.to_str().ok());
        let joined = location.and_then(|location| response.url().join(location).ok());
        joined.ok_or_else(|| {
            let why = format!("{} does not say where to", self.endpoint.host);
            corrupt(self.attempt, why)
        })
    }

    async fn put(&self, location: Url, size: u64, data: ByteStream) -> Result<(), BackendError> {
        let sent = Arc::new(AtomicU64::new(0));
        let (body, broken) = counted(data, sent.clone());
        let client = self.client.exchange.client(&self.endpoint)?;
        let mut request = client
            .put(location.clone())
            .header(CONTENT_LENGTH, size)
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(body);
        // The token is the registry's, not that of whoever it sends us to.
        if location.authority() == self.endpoint.host {
            let ask = self.ask(Method::PUT, String::new(), vec![]);
            if let Some(header) = self.client.exchange.authorization(&ask).await? {
                request = request.header(AUTHORIZATION, header);
            }
        }
        let patience = self.client.exchange.settings.stall_timeout;
        let host = &self.endpoint.host;
        let response = tokio::select! {
            response = request.send() => response,
            () = standstill(&sent, size, patience) => return Err(stalled(self.attempt, host)),
        };
        let response = match response {
            Ok(response) => response,
            Err(error) => {
                // The data's own error says more than the request that it broke.
                let own = broken.await.ok();
                return Err(own.unwrap_or_else(|| unanswered(self.attempt, host, error)));
            }
        };
        if response.status() == StatusCode::CREATED || response.status() == StatusCode::NO_CONTENT {
            return self.check_sent(size, &sent);
        }
        Err(refused(self.attempt, host, response).await)
    }

    fn check_sent(&self, size: u64, sent: &AtomicU64) -> Result<(), BackendError> {
        let sent = sent.load(Ordering::Relaxed);
        if sent == size {
            return Ok(());
        }
        Err(corrupt(
            self.attempt,
            format!("{sent} bytes instead of {size}"),
        ))
    }
}

/// A body that counts what is taken from it, and what says why it broke.
fn counted(data: ByteStream, sent: Arc<AtomicU64>) -> (Body, oneshot::Receiver<BackendError>) {
    let (report, broken) = oneshot::channel();
    let mut report = Some(report);
    let counted = data
        .inspect_ok(move |chunk| {
            sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        })
        .map(move |chunk| {
            chunk.map_err(|error| {
                let words = error.to_string();
                if let Some(report) = report.take() {
                    // Nobody asks where the registry has answered already.
                    let _unheard: Result<(), BackendError> = report.send(error);
                }
                std::io::Error::other(words)
            })
        });
    (Body::wrap_stream(counted), broken)
}

/// How much longer than over a piece of data a registry may take over the whole of it.
const DIGESTING: u32 = 10;

/// Resolves when nothing more was taken for so long.
async fn standstill(sent: &AtomicU64, size: u64, patience: Duration) {
    let mut before = u64::MAX;
    loop {
        let now = sent.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
        let all = now >= size;
        tokio::time::sleep(if all { patience * DIGESTING } else { patience }).await;
    }
}
