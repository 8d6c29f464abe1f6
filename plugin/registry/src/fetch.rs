//! Fetches bytes and believes none that are not what the descriptor says. A transfer that breaks is taken up where it
//! broke.

use bytes::Bytes;
use futures::StreamExt as _;
use http::header::{ACCEPT, CONTENT_RANGE, RANGE};
use http::{HeaderValue, Method};
use reqwest::{Response, StatusCode};
use sha2::{Digest as _, Sha256};
use shipway_backend::{BackendError, ByteStream, ErrorKind, RegistryAccess};
use shipway_config::hosts::Purpose;
use shipway_model::{Descriptor, Digest, ImageRef};
use tokio::sync::OwnedSemaphorePermit;

use crate::client::{RegistryClient, pull_scope};
use crate::endpoint::Endpoint;
use crate::error::{corrupt, refused, stalled, telling, unanswered};
use crate::exchange::{Ask, Target};
use crate::http_client::Reach;
use crate::resolve::MANIFEST;

impl RegistryClient {
    pub(crate) async fn fetch_verified(
        &self,
        image: &ImageRef,
        descriptor: &Descriptor,
        access: &RegistryAccess,
    ) -> Result<ByteStream, BackendError> {
        let attempt = format!("fetching {} of {}", descriptor.digest, image.name());
        let is_manifest = descriptor.is_manifest() || descriptor.is_index();
        if is_manifest && descriptor.size > MANIFEST {
            let why = format!("manifest of {} bytes is too large", descriptor.size);
            return Err(corrupt(&attempt, why));
        }
        let mut source = Source {
            client: self.clone(),
            attempt,
            image: image.clone(),
            access: access.clone(),
            descriptor: descriptor.clone(),
            place: None,
        };
        let (response, permit) = source.find().await?;
        let transfer = Transfer {
            source,
            response: Some(response),
            _permit: permit,
            hasher: Sha256::new(),
            received: 0,
            failures: 0,
        };
        let chunks = futures::stream::unfold(Some(transfer), |transfer| async {
            let mut transfer = transfer?;
            match transfer.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(transfer))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(chunks.boxed())
    }
}

/// Where the bytes come from.
struct Source {
    client: RegistryClient,
    attempt: String,
    image: ImageRef,
    access: RegistryAccess,
    descriptor: Descriptor,
    /// The place that answered.
    place: Option<Place>,
}

/// A place that may have the bytes.
#[derive(Clone)]
enum Place {
    /// A path on a host.
    Registry(Endpoint, String),
    /// An address that the descriptor names.
    Foreign(Endpoint, url::Url),
}

impl Place {
    fn endpoint(&self) -> &Endpoint {
        match self {
            Self::Registry(endpoint, _) | Self::Foreign(endpoint, _) => endpoint,
        }
    }
}

impl Source {
    /// The first place that has it, in a state to be read.
    async fn find(&mut self) -> Result<(Response, Option<OwnedSemaphorePermit>), BackendError> {
        let mut last = None;
        for place in self.places().await? {
            let permit = self.client.exchange.transfer(&place.endpoint().host).await;
            match self.open(&place, 0).await {
                Ok(response) => {
                    self.place = Some(place);
                    return Ok((response, permit));
                }
                Err(error) => last = Some(telling(last, error)),
            }
        }
        Err(last.expect("there is always a host"))
    }

    async fn places(&self) -> Result<Vec<Place>, BackendError> {
        let settings = &self.client.exchange.settings;
        let digest = &self.descriptor.digest;
        let manifests = self.descriptor.is_manifest() || self.descriptor.is_index();
        let kinds: &[&str] = if manifests {
            &["manifests", "blobs"]
        } else {
            &["blobs"]
        };
        let foreign = self.descriptor.urls.iter().filter_map(|url| foreign(url));
        let insecure = self.access.insecure;
        let sources = settings
            .endpoints(&self.image, insecure, Purpose::Pull)
            .await?;
        let registry = sources.into_iter().flat_map(|endpoint| {
            let image = &self.image;
            kinds.iter().map(move |kind| {
                let path = endpoint.path(image, &format!("{kind}/{digest}"));
                Place::Registry(endpoint.clone(), path)
            })
        });
        Ok(foreign.chain(registry).collect())
    }

    /// An answer that begins at `offset`, or before it.
    async fn open(&self, place: &Place, offset: u64) -> Result<Response, BackendError> {
        let anonymous = RegistryAccess {
            auth: Vec::new(),
            insecure: false,
        };
        let endpoint = place.endpoint();
        let new = |access, path| Ask::new(&self.attempt, endpoint, access, Method::GET, path);
        let mut ask = match place {
            Place::Registry(_, path) => Ask {
                scopes: vec![pull_scope(&self.image.path)],
                ..new(&self.access, path.clone())
            },
            Place::Foreign(_, url) => Ask {
                target: Target::Url(url.clone()),
                ..new(&anonymous, String::new())
            },
        };
        let accepted = format!("{}, */*", self.descriptor.media_type);
        if let Ok(accepted) = HeaderValue::from_str(accepted.trim_start_matches(", ")) {
            ask.headers.insert(ACCEPT, accepted);
        }
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            ask.headers.insert(RANGE, range);
        }
        let response = self.client.exchange.send(&ask).await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            _ => Err(refused(&self.attempt, &endpoint.host, response).await),
        }
    }
}

/// The place of a layer that its owner wants to be fetched elsewhere.
fn foreign(address: &str) -> Option<Place> {
    let url = url::Url::parse(address).ok()?;
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    let endpoint = Endpoint {
        host: url.authority().to_owned(),
        prefix: String::new(),
        namespace: None,
        transport: crate::endpoint::Transport::Tls,
        reach: Reach::default(),
    };
    Some(Place::Foreign(endpoint, url))
}

/// A transfer under way.
struct Transfer {
    source: Source,
    response: Option<Response>,
    _permit: Option<OwnedSemaphorePermit>,
    hasher: Sha256,
    received: u64,
    /// Failures since the last byte.
    failures: u32,
}

impl Transfer {
    async fn next(&mut self) -> Result<Option<Bytes>, BackendError> {
        loop {
            match self.read().await {
                Ok(Some(chunk)) if chunk.is_empty() => {}
                Ok(Some(chunk)) => return self.take(chunk).map(Some),
                Ok(None) if self.received >= self.source.descriptor.size => return self.check(),
                Ok(None) => self.recover(self.ended_early()).await?,
                Err(error) if error.kind == ErrorKind::Unavailable => self.recover(error).await?,
                Err(error) => return Err(error),
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, BackendError> {
        let Some(response) = &mut self.response else {
            return Ok(None);
        };
        let patience = self.source.client.exchange.settings.stall_timeout;
        let (attempt, host) = (&self.source.attempt, self.source.host());
        match tokio::time::timeout(patience, response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(unanswered(attempt, host, error)),
            Err(_) => Err(stalled(attempt, host)),
        }
    }

    fn take(&mut self, chunk: Bytes) -> Result<Bytes, BackendError> {
        self.failures = 0;
        self.received += chunk.len() as u64;
        let size = self.source.descriptor.size;
        if self.received > size {
            return Err(self.lies(&format!("more than its {size} bytes")));
        }
        self.hasher.update(&chunk);
        Ok(chunk)
    }

    fn check(&mut self) -> Result<Option<Bytes>, BackendError> {
        let found = Digest::from_bytes(self.hasher.finalize_reset().into());
        if found == self.source.descriptor.digest {
            return Ok(None);
        }
        Err(self.lies(&format!("bytes with digest {found}")))
    }

    fn lies(&self, what: &str) -> BackendError {
        corrupt(
            &self.source.attempt,
            format!("{} sent {what}", self.source.host()),
        )
    }

    fn ended_early(&self) -> BackendError {
        let (received, size) = (self.received, self.source.descriptor.size);
        let why = format!(
            "{} sent {received} bytes instead of {size}",
            self.source.host()
        );
        // A registry that has no more of it is taken at its word after some tries.
        corrupt(&self.source.attempt, why)
    }

    /// Goes on where the transfer broke, unless it did so too often.
    async fn recover(&mut self, error: BackendError) -> Result<(), BackendError> {
        self.failures += 1;
        if self.failures >= self.source.client.exchange.settings.tries {
            return Err(error);
        }
        tracing::debug!(
            ?error,
            received = self.received,
            "taking a transfer up again"
        );
        let place = self.source.place.clone();
        let place = place.expect("a transfer has begun somewhere");
        let Ok(response) = self.source.open(&place, self.received).await else {
            return Err(error);
        };
        self.response = Some(response);
        self.skip_known().await
    }

    /// Drops what was received before, where the answer begins too early.
    async fn skip_known(&mut self) -> Result<(), BackendError> {
        let Some(response) = &self.response else {
            return Ok(());
        };
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT => range_start(response).unwrap_or(self.received),
            _ => 0,
        };
        let Some(mut known) = self.received.checked_sub(start) else {
            return Err(self.lies(&format!("a range that begins at {start}")));
        };
        while known > 0 {
            match self.read().await? {
                Some(chunk) if chunk.len() as u64 <= known => known -= chunk.len() as u64,
                Some(chunk) => {
                    let at = usize::try_from(known).unwrap_or(chunk.len());
                    self.put_back(chunk.slice(at..));
                    return Ok(());
                }
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Puts bytes that were read too early before what is still to come.
    fn put_back(&mut self, chunk: Bytes) {
        let Some(response) = self.response.take() else {
            return;
        };
        let head = futures::stream::iter([Ok(chunk)]);
        let body = reqwest::Body::wrap_stream(head.chain(response.bytes_stream()));
        self.response = Some(Response::from(http::Response::new(body)));
    }
}

impl Source {
    fn host(&self) -> &str {
        self.place
            .as_ref()
            .map_or("", |place| place.endpoint().host.as_str())
    }
}

fn range_start(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let range = range.strip_prefix("bytes ")?;
    range.split('-').next()?.trim().parse().ok()
}
