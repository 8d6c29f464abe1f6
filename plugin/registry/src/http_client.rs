//! One HTTP client per way of reaching a host. Decides which certificates count.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, Identity};
use shipway_backend::{BackendError, ErrorKind};
use shipway_config::Registry;

use crate::endpoint::Endpoint;

/// Redirects followed; registries need one or two.
const REDIRECTS: usize = 5;

/// The clients made so far.
pub(crate) struct Clients {
    connect_timeout: Duration,
    made: Mutex<HashMap<Key, Client>>,
}

/// Has a TLS provider installed for this process.
pub(crate) fn install_provider() {
    static RING: Once = Once::new();
    RING.call_once(|| {
        // An error says that a provider is there already: as good.
        let _there = rustls::crypto::ring::default_provider().install_default();
    });
}

/// What makes clients different from each other.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    host: String,
    unverified: bool,
}

impl Clients {
    pub(crate) fn new(connect_timeout: Duration) -> Self {
        install_provider();
        Self {
            connect_timeout,
            made: Mutex::default(),
        }
    }

    /// The client for a host.
    pub(crate) fn for_host(&self, endpoint: &Endpoint) -> Result<Client, BackendError> {
        let key = Key {
            host: endpoint.host.clone(),
            unverified: endpoint.unverified,
        };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = made.get(&key) {
            return Ok(client.clone());
        }
        let client = self.make(endpoint)?;
        made.insert(key, client.clone());
        Ok(client)
    }

    fn make(&self, endpoint: &Endpoint) -> Result<Client, BackendError> {
        let attempt = || format!("preparing TLS for {}", endpoint.host);
        let authorities = authorities(&endpoint.registry)?;
        let with_system = self
            .builder(endpoint)?
            .tls_certs_merge(authorities.iter().cloned())
            .build();
        if let Ok(client) = with_system {
            return Ok(client);
        }
        // A machine may have no authorities of its own: plain HTTP and private ones must work there too.
        let client = self.builder(endpoint)?.tls_certs_only(authorities).build();
        client.map_err(|error| BackendError::caused(ErrorKind::Other, attempt(), error))
    }

    fn builder(&self, endpoint: &Endpoint) -> Result<ClientBuilder, BackendError> {
        let mut builder = Client::builder()
            .user_agent(concat!("shipway/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect_timeout)
            .tcp_keepalive(Duration::from_secs(30))
            .redirect(reqwest::redirect::Policy::limited(REDIRECTS))
            .tls_danger_accept_invalid_certs(endpoint.unverified);
        if let Some(pair) = endpoint.registry.key_pairs.first() {
            let mut pem = read(&pair.cert)?;
            pem.push(b'\n');
            pem.extend(read(&pair.key)?);
            let identity =
                Identity::from_pem(&pem).map_err(|error| malformed(&pair.cert, error))?;
            builder = builder.identity(identity);
        }
        Ok(builder)
    }
}

fn authorities(registry: &Registry) -> Result<Vec<Certificate>, BackendError> {
    let mut all = Vec::new();
    for path in &registry.authorities {
        let bundle = Certificate::from_pem_bundle(&read(path)?);
        all.extend(bundle.map_err(|error| malformed(path, error))?);
    }
    Ok(all)
}

fn read(path: &Path) -> Result<Vec<u8>, BackendError> {
    fs::read(path).map_err(|error| {
        let attempt = format!("reading certificate {}", path.display());
        BackendError::caused(ErrorKind::Other, attempt, error)
    })
}

fn malformed(path: &Path, error: reqwest::Error) -> BackendError {
    let attempt = format!("reading certificate {}", path.display());
    BackendError::caused(ErrorKind::Corrupt, attempt, error)
}
