//! Which hosts are asked for a repository, in which order and how. Pure but for reading certificates, which it leaves to
//! `http_client`.

use shipway_config::Registry;
use shipway_model::ImageRef;

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
    /// How the host is reached.
    pub(crate) registry: Registry,
    /// Certificates need not be right.
    pub(crate) unverified: bool,
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
    /// Hosts to pull from: mirrors first, in the order given.
    pub(crate) fn sources(&self, image: &ImageRef, insecure: bool) -> Vec<Endpoint> {
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
    pub(crate) fn origin(&self, image: &ImageRef, insecure: bool) -> Endpoint {
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
            unverified: insecure || registry.insecure,
            registry,
        }
    }
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
            assert_eq!(origin.unverified, insecure);
        }
    }
}
