//! Which hosts are asked for a repository, in which order and how. Files are read by `hosts_dir` and, where they are
//! certificates, by `http_client`.

use http::{HeaderMap, HeaderName, HeaderValue};
use shipway_backend::{BackendError, ErrorKind};
use shipway_config::Registry;
use shipway_config::hosts::{HostEntry, Purpose};
use shipway_model::ImageRef;

use crate::hosts_dir;
use crate::http_client::Reach;
use crate::settings::Settings;

/// One host that may answer for a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `host[:port]` that is connected to.
    pub(crate) host: String,
    /// Path before the repository's, without a slash at the end: `/v2`, `/v2/mirror`.
    pub(crate) prefix: String,
    /// A mirror is told whose repository is meant.
    pub(crate) namespace: Option<String>,
    pub(crate) transport: Transport,
    /// How the host is spoken to.
    pub(crate) reach: Reach,
}

/// Over what a host is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// TLS only.
    Tls,
    /// TLS, or plain HTTP where the host does not speak TLS.
    TlsOrPlain,
    /// Plain HTTP only.
    Plain,
}

impl Settings {
    /// The hosts to ask, in order; at least one. What is written of a registry in the daemon's own configuration comes before
    /// what containerd's directories say of it.
    pub(crate) async fn endpoints(
        &self,
        image: &ImageRef,
        insecure: bool,
        purpose: Purpose,
    ) -> Result<Vec<Endpoint>, BackendError> {
        let own = [&image.host, image.registry_host()];
        let written = if own.iter().any(|name| self.hosts.contains_key(*name)) {
            None
        } else {
            hosts_dir::find(&self.hosts_dirs, &image.host).await?
        };
        let endpoints = match written {
            Some(entries) => from_entries(entries, image, insecure, purpose),
            None if purpose == Purpose::Push => vec![self.origin(image, insecure)],
            None => self.sources(image, insecure),
        };
        if endpoints.is_empty() {
            let attempt = format!("finding a registry for {image}");
            let why = format!("no hosts.toml of {} lets any host {purpose:?}", image.host);
            return Err(BackendError::caused(ErrorKind::Denied, attempt, why));
        }
        Ok(endpoints)
    }

    /// Hosts to pull from: mirrors first, in the order given.
    fn sources(&self, image: &ImageRef, insecure: bool) -> Vec<Endpoint> {
        let mirrors = self.hosts.get(&image.host);
        let mirrors = mirrors.map(|registry| registry.mirrors.as_slice());
        let mut endpoints: Vec<Endpoint> = mirrors
            .unwrap_or_default()
            .iter()
            .map(|mirror| self.mirror(mirror, &image.host))
            .collect();
        endpoints.push(self.origin(image, insecure));
        endpoints
    }

    /// The host that the reference names.
    fn origin(&self, image: &ImageRef, insecure: bool) -> Endpoint {
        let host = image.registry_host();
        let registry = self.registry(&[&image.host, host]);
        Endpoint::new(host, "/v2".to_owned(), registry, insecure)
    }

    fn mirror(&self, mirror: &str, of: &str) -> Endpoint {
        let (host, path) = mirror.split_once('/').unwrap_or((mirror, ""));
        let path = path.trim_matches('/');
        let prefix = if path.is_empty() {
            "/v2".to_owned()
        } else {
            format!("/v2/{path}")
        };
        let host = if host == "docker.io" {
            "registry-1.docker.io"
        } else {
            host
        };
        let namespace = (host != of).then(|| of.to_owned());
        Endpoint {
            namespace,
            ..Endpoint::new(host, prefix, self.registry(&[host]), false)
        }
    }

    fn registry(&self, names: &[&str]) -> Registry {
        let mut known = names.iter().filter_map(|name| self.hosts.get(*name));
        known.next().cloned().unwrap_or_default()
    }
}

/// What entries of a `hosts.toml` make of a reference; `insecure` is about the registry itself, the last of them.
fn from_entries(
    entries: Vec<HostEntry>,
    image: &ImageRef,
    insecure: bool,
    purpose: Purpose,
) -> Vec<Endpoint> {
    let last = entries.len().saturating_sub(1);
    let able = entries.into_iter().enumerate();
    let able = able.filter(|(_, entry)| entry.capabilities.contains(&purpose));
    able.map(|(at, entry)| Endpoint::from_entry(entry, image, insecure && at == last))
        .collect()
}

impl Endpoint {
    fn new(host: &str, prefix: String, registry: Registry, insecure: bool) -> Self {
        let transport = match registry.plain_http {
            Some(true) if !insecure => Transport::Plain,
            Some(false) if !insecure => Transport::Tls,
            Some(_) => Transport::TlsOrPlain,
            None if insecure || is_local(host) => Transport::TlsOrPlain,
            None => Transport::Tls,
        };
        Self {
            host: host.to_owned(),
            prefix,
            namespace: None,
            transport,
            reach: Reach {
                verify: (insecure || registry.insecure).then_some(false),
                authorities: registry.authorities,
                key_pair: registry.key_pairs.into_iter().next(),
                ..Reach::default()
            },
        }
    }

    fn from_entry(entry: HostEntry, image: &ImageRef, insecure: bool) -> Self {
        let own = image.registry_host();
        let of_tls = entry.tells_of_tls();
        let (host, prefix, transport) = match entry.server {
            Some(server) => {
                // As containerd: who writes of TLS wants it to be tried, unless the port can only mean the other.
                let ambiguous = of_tls && !server.host.ends_with(":80");
                let transport = match (server.plain, ambiguous) {
                    (true, true) => Transport::TlsOrPlain,
                    (true, false) => Transport::Plain,
                    (false, _) => Transport::Tls,
                };
                (server.host, server.prefix, transport)
            }
            None if is_local(own) => (own.to_owned(), "/v2".to_owned(), Transport::TlsOrPlain),
            None => (own.to_owned(), "/v2".to_owned(), Transport::Tls),
        };
        Self {
            namespace: (host != own).then(|| image.host.clone()),
            host,
            prefix,
            transport: if insecure {
                Transport::TlsOrPlain
            } else {
                transport
            },
            reach: Reach {
                verify: if insecure { Some(false) } else { entry.verify },
                authorities: entry.authorities,
                key_pair: entry.key_pair,
                headers: headers(&entry.headers),
                connect_timeout: entry.connect_timeout,
            },
        }
    }
}

/// Headers that were checked when they were read.
fn headers(written: &[(String, String)]) -> HeaderMap {
    let parsed = written.iter().map(|(name, value)| {
        let name: HeaderName = name.parse().expect("a checked name");
        (name, HeaderValue::from_str(value).expect("a checked value"))
    });
    let mut headers = HeaderMap::new();
    for (name, value) in parsed {
        headers.append(name, value);
    }
    headers
}

/// A host that can only be this machine.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_matches(['[', ']']);
    let address = name.parse::<std::net::IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

impl Endpoint {
    /// The path of something in a repository, with its query.
    pub(crate) fn path(&self, image: &ImageRef, rest: &str) -> String {
        let mut path = format!("{}/{}/{rest}", self.prefix, image.path);
        if let Some(namespace) = &self.namespace {
            path.push(if rest.contains('?') { '&' } else { '?' });
            path.push_str("ns=");
            path.push_str(namespace);
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(host: &str, registry: Registry) -> Settings {
        Settings {
            hosts: [(host.to_owned(), registry)].into(),
            ..Default::default()
        }
    }

    #[test]
    fn mirrors_come_before_the_host_and_are_told_its_name() {
        let registry = Registry {
            mirrors: vec!["m.example/hub".into(), "localhost:5000".into()],
            ..Default::default()
        };
        let image: ImageRef = "busybox".parse().unwrap();
        let sources = settings("docker.io", registry).sources(&image, false);
        let paths: Vec<_> = sources
            .iter()
            .map(|s| format!("{}{}", s.host, s.path(&image, "manifests/latest")))
            .collect();
        assert_eq!(
            paths,
            [
                "m.example/v2/hub/library/busybox/manifests/latest?ns=docker.io",
                "localhost:5000/v2/library/busybox/manifests/latest?ns=docker.io",
                "registry-1.docker.io/v2/library/busybox/manifests/latest",
            ]
        );
        let transports: Vec<_> = sources.iter().map(|s| s.transport).collect();
        let (tls, any) = (Transport::Tls, Transport::TlsOrPlain);
        assert_eq!(transports, [tls, any, tls]);
    }

    #[test]
    fn only_a_local_or_insecure_host_may_do_without_tls() {
        let image = |host: &str| format!("{host}/x").parse::<ImageRef>().unwrap();
        let plain = |plain_http| Registry {
            plain_http,
            ..Default::default()
        };
        for (host, plain_http, insecure, expected) in [
            ("h.example", None, false, Transport::Tls),
            ("h.example", None, true, Transport::TlsOrPlain),
            ("h.example", Some(true), false, Transport::Plain),
            ("h.example", Some(true), true, Transport::TlsOrPlain),
            ("localhost:1", None, false, Transport::TlsOrPlain),
            ("localhost", None, false, Transport::TlsOrPlain),
            ("127.0.0.1:1", None, false, Transport::TlsOrPlain),
            ("localhost:1", Some(false), false, Transport::Tls),
        ] {
            let origin = settings(host, plain(plain_http)).origin(&image(host), insecure);
            assert_eq!(
                origin.transport, expected,
                "{host} {plain_http:?} {insecure}"
            );
            assert_eq!(origin.reach.verify, insecure.then_some(false));
        }
    }

    fn entries(text: &str) -> Vec<HostEntry> {
        shipway_config::hosts::parse(text, std::path::Path::new("/d")).unwrap()
    }

    fn shown(entries: Vec<HostEntry>, image: &str, purpose: Purpose) -> Vec<String> {
        let image: ImageRef = image.parse().unwrap();
        let endpoints = from_entries(entries, &image, false, purpose);
        let one = |at: &Endpoint| format!("{:?} {}{}", at.transport, at.host, at.path(&image, "x"));
        endpoints.iter().map(one).collect()
    }

    #[test]
    fn hosts_of_a_file_are_asked_for_what_they_can_do() {
        let text = r#"
            [host."http://m.example:5000"]
            capabilities = ["pull"]
            [host."http://s.example/hub"]
            skip_verify = true
            capabilities = ["pull", "resolve"]
        "#;
        let of = |purpose| shown(entries(text), "busybox", purpose);
        let pulled_from = "Plain m.example:5000/v2/library/busybox/x?ns=docker.io";
        let asked = "TlsOrPlain s.example/hub/v2/library/busybox/x?ns=docker.io";
        let own = "Tls registry-1.docker.io/v2/library/busybox/x";
        assert_eq!(of(Purpose::Pull), [pulled_from, asked, own]);
        assert_eq!(of(Purpose::Resolve), [asked, own]);
        assert_eq!(of(Purpose::Push), [own]);
        let server = || entries("server = 'http://other.example:80'\nskip_verify = true");
        let other = "Plain other.example:80/v2/a/x?ns=h.example";
        assert_eq!(shown(server(), "h.example/a", Purpose::Push), [other]);
        let local = shown(entries(""), "localhost:5000/a", Purpose::Pull);
        assert_eq!(local, ["TlsOrPlain localhost:5000/v2/a/x"]);
    }

    #[tokio::test]
    async fn the_daemons_own_words_of_a_registry_come_first() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("_default")).unwrap();
        let file = dir.path().join("_default/hosts.toml");
        std::fs::write(file, "server = 'm.example'\ncapabilities = ['pull']").unwrap();
        let settings = Settings {
            hosts_dirs: vec![dir.path().to_owned()],
            ..settings("own.example", Registry::default())
        };
        for (image, host) in [
            ("own.example/a", "own.example"),
            ("h.example/a", "m.example"),
        ] {
            let image = image.parse().unwrap();
            let found = settings.endpoints(&image, false, Purpose::Pull).await;
            assert_eq!(found.unwrap()[0].host, host);
        }
        let image = "h.example/a".parse().unwrap();
        let refused = settings.endpoints(&image, false, Purpose::Push).await;
        assert_eq!(refused.unwrap_err().kind, ErrorKind::Denied);
    }
}
