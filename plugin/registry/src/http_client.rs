//! One HTTP client per way of reaching a host. Decides which certificates count.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use reqwest::{Certificate, Client, ClientBuilder, Identity};
use shipway_backend::{BackendError, ErrorKind};
use shipway_config::KeyPair;

use crate::endpoint::Endpoint;

/// Redirects followed; registries need one or two.
const REDIRECTS: usize = 5;

/// How a host is spoken to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Whether its certificate must be right; if nothing is written, it must.
    pub(crate) verify: Option<bool>,
    /// PEM files with authorities to trust besides the machine's.
    pub(crate) authorities: Vec<PathBuf>,
    /// The certificate that it is shown.
    pub(crate) key_pair: Option<KeyPair>,
    /// Sent with each request.
    pub(crate) headers: HeaderMap,
    /// How long a connection may take to be made, where not as long as to any other host.
    pub(crate) connect_timeout: Option<Duration>,
}

/// The clients made so far; one for each host is enough, as long as the host is spoken to in the same way.
pub(crate) struct Clients {
    connect_timeout: Duration,
    made: Mutex<HashMap<String, Vec<(Reach, Client)>>>,
}

/// Has a TLS provider installed for this process.
pub(crate) fn install_provider() {
    static RING: Once = Once::new();
    RING.call_once(|| {
        // An error says that a provider is there already: as good.
        let _there = rustls::crypto::ring::default_provider().install_default();
    });
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
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let made = made.entry(endpoint.host.clone()).or_default();
        if let Some((_, client)) = made.iter().find(|(reach, _)| *reach == endpoint.reach) {
            return Ok(client.clone());
        }
        let client = self.make(endpoint)?;
        made.push((endpoint.reach.clone(), client.clone()));
        Ok(client)
    }

    fn make(&self, endpoint: &Endpoint) -> Result<Client, BackendError> {
        let attempt = || format!("preparing TLS for {}", endpoint.host);
        let authorities = authorities(&endpoint.reach)?;
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
        let reach = &endpoint.reach;
        let mut builder = Client::builder()
            .user_agent(concat!("shipway/", env!("CARGO_PKG_VERSION")))
            .default_headers(reach.headers.clone())
            .connect_timeout(reach.connect_timeout.unwrap_or(self.connect_timeout))
            .tcp_keepalive(Duration::from_secs(30))
            .redirect(reqwest::redirect::Policy::limited(REDIRECTS))
            .tls_danger_accept_invalid_certs(reach.verify == Some(false));
        if let Some(pair) = &reach.key_pair {
            let mut pem = read(&pair.cert)?;
            if pair.key != pair.cert {
                pem.push(b'\n');
                pem.extend(read(&pair.key)?);
            }
            let identity =
                Identity::from_pem(&pem).map_err(|error| malformed(&pair.cert, error))?;
            builder = builder.identity(identity);
        }
        Ok(builder)
    }
}

fn authorities(reach: &Reach) -> Result<Vec<Certificate>, BackendError> {
    let mut all = Vec::new();
    for path in &reach.authorities {
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
