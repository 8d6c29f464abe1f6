//! What containerd's `hosts.toml` says of one registry: which hosts are asked in its place, for what and how. Pure; the file
//! format is containerd's, and so is what it means. A key that containerd does not know is an error that names it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use shipway_config::{KeyPair, parse_duration};
use toml::Spanned;
use url::Url;

use crate::http_client::Reach;

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidHosts {
    /// It is no TOML, or has a key that nobody knows.
    #[error(transparent)]
    Format(#[from] toml::de::Error),
    /// A key's value can't be used.
    #[error("{0}: {1:?} is not {2}")]
    Value(&'static str, String, &'static str),
}

/// What a registry is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To tell what a tag stands for.
    Resolve,
    /// To give what a digest names.
    Pull,
    /// To take something.
    Push,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::Resolve, Self::Pull, Self::Push];
}

/// One host that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostEntry {
    /// Where it is; the registry itself if nothing is written.
    pub(crate) server: Option<Server>,
    /// What it may be asked for.
    pub(crate) capabilities: Vec<Purpose>,
    pub(crate) reach: Reach,
}

/// An address of the distribution API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// `host[:port]`.
    pub(crate) host: String,
    /// Path before the repository's, without a slash at the end.
    pub(crate) prefix: String,
    /// Written with `http://`.
    pub(crate) plain: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    server: String,
    host: BTreeMap<String, Spanned<Host>>,
    capabilities: Vec<String>,
    ca: Option<OneOrMore>,
    client: Option<Clients>,
    skip_verify: Option<bool>,
    header: BTreeMap<String, OneOrMore>,
    override_path: bool,
    dial_timeout: Option<String>,
}

/// The same keys as those of the file's top, but for `server` and `host`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Host {
    capabilities: Vec<String>,
    ca: Option<OneOrMore>,
    client: Option<Clients>,
    skip_verify: Option<bool>,
    header: BTreeMap<String, OneOrMore>,
    override_path: bool,
    dial_timeout: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Clients {
    One(String),
    More(Vec<ClientFiles>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ClientFiles {
    Together(String),
    Apart([String; 2]),
}

/// The hosts of the file `hosts.toml` in `dir`, in the order in which they are asked; the last one is the registry's own.
pub(crate) fn parse(text: &str, dir: &Path) -> Result<Vec<HostEntry>, InvalidHosts> {
    let file: File = toml::from_str(text)?;
    let mut mirrors: Vec<_> = file.host.into_iter().collect();
    // The order in the file counts, which a table does not keep.
    mirrors.sort_by_key(|(_, host)| host.span().start);
    let mut entries = Vec::with_capacity(mirrors.len() + 1);
    for (address, host) in mirrors {
        entries.push(entry(&address, host.into_inner(), dir)?);
    }
    let own = Host {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        header: file.header,
        override_path: file.override_path,
        dial_timeout: file.dial_timeout,
    };
    entries.push(entry(&file.server, own, dir)?);
    Ok(entries)
}

/// The registry itself, with the certificates that lie in its directory as Docker has them there: authorities as `*.crt`,
/// a client's certificate as `*.cert` beside its `*.key`, or with the key in the same file.
pub(crate) fn with_certificates(dir: &Path, mut names: Vec<String>) -> HostEntry {
    names.sort();
    let of = |name: &String, end: &str| name.ends_with(end).then(|| dir.join(name));
    let cert = names.iter().find_map(|name| of(name, ".cert"));
    let key_pair = cert.map(|cert| {
        let key = cert.with_extension("key");
        let apart = names.iter().any(|name| dir.join(name) == key);
        let key = if apart { key } else { cert.clone() };
        KeyPair { key, cert }
    });
    HostEntry {
        server: None,
        capabilities: Purpose::ALL.to_vec(),
        reach: Reach {
            authorities: names.iter().filter_map(|name| of(name, ".crt")).collect(),
            key_pair,
            ..Reach::default()
        },
    }
}

fn entry(address: &str, host: Host, dir: &Path) -> Result<HostEntry, InvalidHosts> {
    let server = server(address, host.override_path)?;
    let authorities = host.ca.map(|ca| ca.into_paths(dir)).unwrap_or_default();
    let connect_timeout = host.dial_timeout.as_deref().map(|text| {
        let invalid = |_| InvalidHosts::Value("dial_timeout", text.to_owned(), "a duration");
        parse_duration(text).map_err(invalid)
    });
    Ok(HostEntry {
        // As containerd: what may be asked of a registry whose address is not written is not limited.
        capabilities: match server {
            Some(_) => capabilities(&host.capabilities)?,
            None => Purpose::ALL.to_vec(),
        },
        server,
        reach: Reach {
            verify: host.skip_verify.map(|skip| !skip),
            authorities,
            key_pair: host.client.map(|client| client.pair(dir)).transpose()?,
            headers: headers(&host.header)?,
            connect_timeout: connect_timeout.transpose()?,
        },
    })
}

fn server(address: &str, override_path: bool) -> Result<Option<Server>, InvalidHosts> {
    if address.is_empty() {
        return Ok(None);
    }
    let written = if address.starts_with("http") {
        address.to_owned()
    } else {
        format!("https://{address}")
    };
    let invalid = || InvalidHosts::Value("server", address.to_owned(), "an http or https address");
    let url = Url::parse(&written).map_err(|_| invalid())?;
    if !matches!(url.scheme(), "http" | "https") || url.authority().is_empty() {
        return Err(invalid());
    }
    // Its own words: a URL forgets a port that goes without saying, which here says that plain HTTP is meant.
    let rest = written.split_once("://").map_or("", |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    let path = url.path().trim_end_matches('/');
    let prefix = if override_path || path.ends_with("/v2") {
        path.to_owned()
    } else {
        format!("{path}/v2")
    };
    Ok(Some(Server {
        host: host.to_owned(),
        prefix,
        plain: url.scheme() == "http",
    }))
}

fn capabilities(names: &[String]) -> Result<Vec<Purpose>, InvalidHosts> {
    if names.is_empty() {
        return Ok(Purpose::ALL.to_vec());
    }
    let mut found = Vec::new();
    for name in names {
        match name.to_lowercase().as_str() {
            "resolve" => found.push(Purpose::Resolve),
            "pull" => found.push(Purpose::Pull),
            "push" => found.push(Purpose::Push),
            // Nothing here asks for what refers to an image.
            "referrers" => {}
            _ => {
                let known = "pull, resolve, push or referrers";
                return Err(InvalidHosts::Value("capabilities", name.clone(), known));
            }
        }
    }
    Ok(found)
}

fn headers(written: &BTreeMap<String, OneOrMore>) -> Result<HeaderMap, InvalidHosts> {
    let mut headers = HeaderMap::new();
    for (name, values) in written {
        let invalid = || InvalidHosts::Value("header", name.clone(), "an HTTP header");
        let key: HeaderName = name.parse().map_err(|_| invalid())?;
        for value in values.as_slice() {
            let value = HeaderValue::from_str(value).map_err(|_| invalid())?;
            headers.append(&key, value);
        }
    }
    Ok(headers)
}

impl OneOrMore {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::More(more) => more,
        }
    }

    fn into_paths(self, dir: &Path) -> Vec<PathBuf> {
        self.as_slice().iter().map(|path| dir.join(path)).collect()
    }
}

impl Clients {
    /// TLS shows one certificate; more than one is refused rather than left out.
    fn pair(self, dir: &Path) -> Result<KeyPair, InvalidHosts> {
        let mut pairs = match self {
            Self::One(file) => vec![ClientFiles::Together(file)],
            Self::More(pairs) => pairs,
        };
        let (Some(pair), true) = (pairs.pop(), pairs.is_empty()) else {
            let count = format!("a list of {}", pairs.len() + 1);
            return Err(InvalidHosts::Value("client", count, "one certificate"));
        };
        let (cert, key) = match pair {
            ClientFiles::Together(file) => (file.clone(), file),
            ClientFiles::Apart([cert, key]) => (cert, key),
        };
        Ok(KeyPair {
            key: dir.join(key),
            cert: dir.join(cert),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DIR: &str = "/certs/h";

    fn parsed(text: &str) -> Vec<HostEntry> {
        parse(text, Path::new(DIR)).unwrap()
    }

    #[test]
    fn hosts_are_asked_in_the_files_order_and_the_server_last() {
        let text = r#"
            server = "https://origin.example"
            [host."http://z.example:5000/hub"]
            capabilities = ["pull", "Resolve"]
            [host."http://z.example:5000/hub".header]
            x-one = "1"
            x-more = ["2", "3"]
            [host."a.example/api"]
            override_path = true
            dial_timeout = "2s"
        "#;
        let entries = parsed(text);
        let servers: Vec<_> = entries
            .iter()
            .map(|entry| entry.server.clone().unwrap())
            .map(|server| (server.plain, server.host + &server.prefix))
            .collect();
        assert_eq!(
            servers,
            [
                (true, "z.example:5000/hub/v2".to_owned()),
                (false, "a.example/api".to_owned()),
                (false, "origin.example/v2".to_owned()),
            ]
        );
        let capabilities = |at: usize| entries[at].capabilities.clone();
        assert_eq!(capabilities(0), [Purpose::Pull, Purpose::Resolve]);
        assert_eq!(capabilities(1), Purpose::ALL);
        assert_eq!(entries[0].reach.headers.get_all("X-More").iter().count(), 2);
        assert_eq!(
            entries[1].reach.connect_timeout,
            Some(Duration::from_secs(2))
        );
    }

    #[test]
    fn files_are_beside_it_and_written_in_every_way_that_containerd_takes() {
        let at = |name: &str| Path::new(DIR).join(name);
        for (text, authorities, pair) in [
            ("ca = 'ca.pem'", vec![at("ca.pem")], None),
            (
                "ca = ['a', '/b']\nclient = 'both'",
                vec![at("a"), "/b".into()],
                Some(("both", "both")),
            ),
            ("client = ['both']", vec![], Some(("both", "both"))),
            ("client = [['c', 'k']]", vec![], Some(("c", "k"))),
        ] {
            let reach = parsed(text).remove(0).reach;
            let pair = pair.map(|(cert, key)| KeyPair {
                key: at(key),
                cert: at(cert),
            });
            assert_eq!((reach.authorities, reach.key_pair), (authorities, pair));
        }
        assert_eq!(
            parsed("skip_verify = true")[0].reach.verify,
            Some(false),
            "of the registry itself"
        );
    }

    #[test]
    fn an_empty_file_changes_nothing() {
        let entries = parsed("");
        assert_eq!(entries, [with_certificates(Path::new(DIR), Vec::new())]);
        assert_eq!(entries[0].server, None);
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        for (text, part) in [
            ("capabilities = ['fly']\nserver = 'x'", "\"fly\" is not"),
            ("mirror = 'x'", "unknown field `mirror`"),
            ("[host.'ftp://x']\nfoo = 1", "unknown field `foo`"),
            (
                "[host.'http:']",
                "\"http:\" is not an http or https address",
            ),
            ("client = ['a', 'b']", "is not one certificate"),
            ("header = {'a b' = 'x'}", "\"a b\" is not an HTTP header"),
            ("dial_timeout = 'soon'", "\"soon\" is not a duration"),
        ] {
            let error = parse(text, Path::new(DIR)).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn certificates_without_a_file_are_dockers() {
        let names = ["x.cert", "x.key", "b.crt", "a.crt", "note"].map(str::to_owned);
        let entry = with_certificates(Path::new("/d"), names.to_vec());
        let path = |name: &str| Path::new("/d").join(name);
        assert_eq!(entry.reach.authorities, [path("a.crt"), path("b.crt")]);
        let pair = entry.reach.key_pair.unwrap();
        assert_eq!((pair.cert, pair.key), (path("x.cert"), path("x.key")));
        let alone = with_certificates(Path::new("/d"), vec!["x.cert".to_owned()]);
        assert_eq!(alone.reach.key_pair.unwrap().key, path("x.cert"));
    }
}
