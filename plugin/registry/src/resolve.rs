//! What a reference names now: asks the mirrors and then the host, and takes no digest unseen that the reference did not
//! give.

use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use reqwest::{Response, StatusCode};
use shipway_backend::{BackendError, RegistryAccess};
use shipway_config::hosts::Purpose;
use shipway_model::descriptor::{DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use shipway_model::{Descriptor, Digest, ImageRef};

use crate::client::{RegistryClient, pull_scope};
use crate::endpoint::Endpoint;
use crate::error::{corrupt, refused, stalled, telling, unanswered};
use crate::exchange::Ask;

/// The header that names what a manifest's address stands for.
const CONTENT_DIGEST: &str = "docker-content-digest";
/// Largest manifest; BuildKit's limit.
pub(crate) const MANIFEST: u64 = 8 << 20;

impl RegistryClient {
    pub(crate) async fn resolve_reference(
        &self,
        image: &ImageRef,
        access: &RegistryAccess,
    ) -> Result<Descriptor, BackendError> {
        // What a digest names, any host that has it may give.
        let purpose = match image.digest {
            Some(_) => Purpose::Pull,
            None => Purpose::Resolve,
        };
        let settings = &self.exchange.settings;
        let sources = settings.endpoints(image, access.insecure, purpose).await?;
        let mut last = None;
        for endpoint in &sources {
            match self.resolve_at(endpoint, image, access).await {
                Ok(descriptor) => return Ok(descriptor),
                Err(error) => {
                    tracing::debug!(%image, host = endpoint.host, ?error, "not resolved here");
                    last = Some(telling(last, error));
                }
            }
        }
        Err(last.expect("there is always a host"))
    }

    async fn resolve_at(
        &self,
        endpoint: &Endpoint,
        image: &ImageRef,
        access: &RegistryAccess,
    ) -> Result<Descriptor, BackendError> {
        let attempt = image.to_string();
        let head = self.manifest(endpoint, image, access, Method::HEAD);
        let response = head.await?;
        if response.status() == StatusCode::OK
            && let Some(descriptor) = described(image, &response, &attempt)?
        {
            return Ok(descriptor);
        }
        let answered = response.status();
        if answered != StatusCode::OK && answered != StatusCode::METHOD_NOT_ALLOWED {
            return Err(refused(&attempt, &endpoint.host, response).await);
        }
        // The registry does not say all that is needed: read it and see.
        let get = self.manifest(endpoint, image, access, Method::GET);
        let response = get.await?;
        if response.status() != StatusCode::OK {
            return Err(refused(&attempt, &endpoint.host, response).await);
        }
        let media_type = media_type(&response);
        let bytes = self.read_manifest(endpoint, response, &attempt).await?;
        let descriptor = Descriptor::of(&media_type, &bytes);
        confirm(image, descriptor, &attempt)
    }

    async fn manifest(
        &self,
        endpoint: &Endpoint,
        image: &ImageRef,
        access: &RegistryAccess,
        method: Method,
    ) -> Result<Response, BackendError> {
        let attempt = image.to_string();
        let path = endpoint.path(image, &format!("manifests/{}", version(image)));
        let ask = Ask {
            scopes: vec![pull_scope(&image.path)],
            headers: accept(),
            ..Ask::new(&attempt, endpoint, access, method, path)
        };
        self.exchange.send(&ask).await
    }

    async fn read_manifest(
        &self,
        endpoint: &Endpoint,
        mut response: Response,
        attempt: &str,
    ) -> Result<Vec<u8>, BackendError> {
        let patience = self.exchange.settings.stall_timeout;
        let mut bytes = Vec::new();
        loop {
            let chunk = tokio::time::timeout(patience, response.chunk()).await;
            let chunk = chunk.map_err(|_| stalled(attempt, &endpoint.host))?;
            let chunk = chunk.map_err(|error| unanswered(attempt, &endpoint.host, error))?;
            let Some(chunk) = chunk else { return Ok(bytes) };
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > MANIFEST {
                return Err(corrupt(
                    attempt,
                    format!("manifest is larger than {MANIFEST} bytes"),
                ));
            }
        }
    }
}

/// What a manifest is asked for by.
pub(crate) fn version(image: &ImageRef) -> String {
    match (&image.digest, &image.tag) {
        (Some(digest), _) => digest.to_string(),
        (None, Some(tag)) => tag.clone(),
        (None, None) => "latest".to_owned(),
    }
}

fn accept() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let types = [
        DOCKER_MANIFEST,
        DOCKER_INDEX,
        OCI_MANIFEST,
        OCI_INDEX,
        "*/*",
    ]
    .join(", ");
    if let Ok(types) = HeaderValue::from_str(&types) {
        headers.insert(ACCEPT, types);
    }
    headers
}

fn media_type(response: &Response) -> String {
    let header = response.headers().get(CONTENT_TYPE);
    let text = header.and_then(|value| value.to_str().ok());
    let text = text.unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_owned()
}

/// What the headers alone say; `None` where that is not enough.
fn described(
    image: &ImageRef,
    response: &Response,
    attempt: &str,
) -> Result<Option<Descriptor>, BackendError> {
    let text = |key: &str| response.headers().get(key).and_then(|v| v.to_str().ok());
    let size = text(CONTENT_LENGTH.as_str()).and_then(|size| size.parse::<u64>().ok());
    let digest = text(CONTENT_DIGEST).and_then(|digest| digest.parse::<Digest>().ok());
    let digest = image.digest.filter(|_| digest.is_none()).or(digest);
    let (Some(size), Some(digest)) = (size, digest) else {
        return Ok(None);
    };
    let media_type = media_type(response);
    if media_type.is_empty() || size == 0 {
        return Ok(None);
    }
    if size > MANIFEST {
        return Err(corrupt(
            attempt,
            format!("manifest of {size} bytes is too large"),
        ));
    }
    confirm(image, Descriptor::new(&media_type, digest, size), attempt).map(Some)
}

/// Refuses what is not what the reference's own digest says.
fn confirm(
    image: &ImageRef,
    descriptor: Descriptor,
    attempt: &str,
) -> Result<Descriptor, BackendError> {
    match image.digest {
        Some(digest) if digest != descriptor.digest => Err(corrupt(
            attempt,
            format!("registry has {} instead", descriptor.digest),
        )),
        _ => Ok(descriptor),
    }
}
