//! Reaches the daemon: a Unix socket, or TCP with or without TLS. Decides nothing about what is said there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use shipway_proto::MESSAGE_LIMIT;
use shipway_proto::content::content_client::ContentClient;
use shipway_proto::control::InfoRequest;
use shipway_proto::control::control_client::ControlClient;
use shipway_proto::gateway::llb_bridge_client::LlbBridgeClient;
use shipway_proto::upkeep::upkeep_client::UpkeepClient;
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::args::{Global, Tls};
use crate::error::Error;

/// An open connection to the daemon. Cheap to clone; all clones share one connection.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    channel: Channel,
}

/// Where a daemon listens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A host and port.
    Tcp { authority: String, host: String },
}

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        if let Some(path) = text.strip_prefix("unix://") {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let unusable = |reason: &str| Error::flag("--addr", format!("{text:?}: {reason}"));
        let url = url::Url::parse(text).map_err(|error| unusable(&error.to_string()))?;
        match (url.scheme(), url.host_str()) {
            ("tcp", Some(host)) => {
                let authority = url.authority().to_owned();
                Ok(Self::Tcp {
                    authority,
                    host: host.to_owned(),
                })
            }
            ("tcp", None) => Err(unusable("no host")),
            _ => Err(unusable("only unix:// and tcp:// are supported")),
        }
    }
}

impl Daemon {
    /// Connects as the command line says.
    ///
    /// # Errors
    /// If the address or a certificate can't be used, or nobody answers in time.
    pub(crate) async fn connect(global: &Global) -> Result<Self, Error> {
        let address = Address::parse(&global.addr)?;
        let endpoint = endpoint(&address, &global.tls)?;
        loop {
            let attempt = Self::attempt(global, &address, &endpoint).await;
            match attempt {
                Err(Error::Connect { .. }) if global.wait.wait => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                other => return other,
            }
        }
    }

    async fn attempt(
        global: &Global,
        address: &Address,
        endpoint: &Endpoint,
    ) -> Result<Self, Error> {
        let failed = |reason: String| Error::Connect {
            address: global.addr.clone(),
            reason,
        };
        let dialing = dial(address, endpoint);
        let dialled = match global.patience() {
            Some(limit) => tokio::time::timeout(limit, dialing)
                .await
                .map_err(|_| failed("context deadline exceeded".to_owned()))?,
            None => dialing.await,
        };
        let daemon = Self {
            channel: dialled.map_err(|error| failed(innermost(&error)))?,
        };
        if global.wait.wait {
            let answered = daemon.control().info(InfoRequest {}).await;
            if let Err(status) = answered
                && status.code() == tonic::Code::Unavailable
            {
                return Err(failed(status.message().to_owned()));
            }
        }
        Ok(daemon)
    }

    /// The control service.
    pub(crate) fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    /// The bridge to the solver.
    pub(crate) fn bridge(&self) -> LlbBridgeClient<Channel> {
        LlbBridgeClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    /// What only Shipway's daemon serves.
    pub(crate) fn upkeep(&self) -> UpkeepClient<Channel> {
        UpkeepClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    /// The daemon's content store.
    pub(crate) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT)
    }
}

/// The most telling part of a connection error: its last cause.
fn innermost(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

async fn dial(address: &Address, endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
    match address {
        Address::Unix(path) => {
            let path = path.clone();
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            endpoint.connect_with_connector(connector).await
        }
        Address::Tcp { .. } => endpoint.connect().await,
    }
}

fn endpoint(address: &Address, tls: &Tls) -> Result<Endpoint, Error> {
    let unusable = |error: tonic::transport::Error| Error::flag("--addr", innermost(&error));
    let settings = tls_settings(tls)?;
    let (uri, host) = match address {
        Address::Unix(_) => ("http://localhost".to_owned(), "localhost"),
        Address::Tcp { authority, host } if settings.is_some() => {
            (format!("https://{authority}"), host.as_str())
        }
        Address::Tcp { authority, host } => (format!("http://{authority}"), host.as_str()),
    };
    let endpoint = Endpoint::from_shared(uri)
        .map_err(unusable)?
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20);
    match (address, settings) {
        (Address::Tcp { .. }, Some(settings)) => {
            let name = tls.tlsservername.as_deref().unwrap_or(host);
            endpoint
                .tls_config(settings.domain_name(name))
                .map_err(unusable)
        }
        _ => Ok(endpoint),
    }
}

fn tls_settings(tls: &Tls) -> Result<Option<ClientTlsConfig>, Error> {
    let (ca, cert, key) = match &tls.tlsdir {
        Some(dir) => (
            Some(one_of(dir, ["ca.pem", "ca.crt"])?),
            Some(one_of(dir, ["cert.pem", "tls.crt"])?),
            Some(one_of(dir, ["key.pem", "tls.key"])?),
        ),
        None => (
            tls.tlscacert.clone(),
            tls.tlscert.clone(),
            tls.tlskey.clone(),
        ),
    };
    if ca.is_none() && cert.is_none() && key.is_none() {
        return Ok(None);
    }
    let read =
        |path: &PathBuf| std::fs::read(path).map_err(Error::file("reading certificate", path));
    let mut settings = ClientTlsConfig::new();
    if let Some(ca) = &ca {
        settings = settings.ca_certificate(Certificate::from_pem(read(ca)?));
    }
    match (&cert, &key) {
        (Some(cert), Some(key)) => {
            settings = settings.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        (None, None) => {}
        _ => {
            return Err(Error::flag(
                "--tlscert",
                "needs --tlskey, and the other way round",
            ));
        }
    }
    Ok(Some(settings))
}

fn one_of(dir: &Path, names: [&str; 2]) -> Result<PathBuf, Error> {
    let found = names
        .iter()
        .map(|name| dir.join(name))
        .find(|path| path.exists());
    found.ok_or_else(|| {
        let reason = format!(
            "{} has neither {} nor {}",
            dir.display(),
            names[0],
            names[1]
        );
        Error::flag("--tlsdir", reason)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_their_transport() {
        assert_eq!(
            Address::parse("unix:///run/x").unwrap(),
            Address::Unix("/run/x".into())
        );
        let tcp = Address::Tcp {
            authority: "host:1234".into(),
            host: "host".into(),
        };
        assert_eq!(Address::parse("tcp://host:1234").unwrap(), tcp);
        for wrong in ["/run/x", "docker-container://x", "tcp://"] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }
}
