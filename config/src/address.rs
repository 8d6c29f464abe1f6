//! A listening address: a unix socket, a TCP socket or one inherited from systemd.

use std::{fmt, path::PathBuf, str::FromStr};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket at an absolute path.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
    /// A socket handed over by systemd; with a name, the one whose `FileDescriptorName` it is.
    Inherited(Option<String>),
}

/// The text is no listening address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid address {0:?}: expected unix:///PATH, tcp://HOST:PORT or fd://[NAME]")]
pub struct InvalidAddress(String);

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(invalid())
            };
        }
        if let Some(host) = text.strip_prefix("tcp://") {
            let port = host
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse::<u16>().ok());
            return port.map(|_| Self::Tcp(host.to_owned())).ok_or_else(invalid);
        }
        match text.strip_prefix("fd://") {
            Some("") => Ok(Self::Inherited(None)),
            Some(name) => Ok(Self::Inherited(Some(name.to_owned()))),
            None => Err(invalid()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
            Self::Inherited(name) => write!(f, "fd://{}", name.as_deref().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for text in [
            "unix:///run/a.sock",
            "tcp://127.0.0.1:1234",
            "tcp://[::1]:1",
            "fd://",
            "fd://buildkit",
        ] {
            assert_eq!(
                text.parse::<Address>().map(|a| a.to_string()),
                Ok(text.to_owned())
            );
        }
    }

    #[test]
    fn other_schemes_and_relative_sockets_are_refused() {
        for text in ["/run/a.sock", "unix://run/a", "tcp://host", "npipe://x", ""] {
            assert_eq!(
                text.parse::<Address>(),
                Err(InvalidAddress(text.to_owned()))
            );
        }
    }
}
