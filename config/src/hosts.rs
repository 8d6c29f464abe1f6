//! What containerd's `hosts.toml` says of one registry: which hosts are asked in its place, for what and how. Pure; the file
//! format is containerd's, and so is what it means. A key that containerd does not know is an error that names it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::{KeyPair, parse_duration};

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidHosts {
    /// It is no TOML, or has a key that nobody knows.
    #[error(transparent)]
    Format(#[from] Box<toml::de::Error>),
    /// A key's value can't be used: the key, the value, what it should be.
    #[error("{0}: {1:?} is not {2}")]
    Value(&'static str, String, &'static str),
}

/// What a registry is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
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
pub struct HostEntry {
    /// Where it is; the registry itself if nothing is written.
    pub server: Option<Server>,
    /// What it may be asked for.
    pub capabilities: Vec<Purpose>,
    /// Whether its certificate must be right; if nothing is written, it must.
    pub verify: Option<bool>,
    /// PEM files with authorities to trust besides the machine's.
    pub authorities: Vec<PathBuf>,
    /// The certificate that it is shown; key and certificate may be one file.
    pub key_pair: Option<KeyPair>,
    /// Sent with each request: names and values that HTTP takes.
    pub headers: Vec<(String, String)>,
    /// How long a connection may take to be made, where not as long as to any other host.
    pub connect_timeout: Option<Duration>,
}

impl HostEntry {
    /// Whether it says anything of TLS.
    #[must_use]
    pub fn tells_of_tls(&self) -> bool {
        self.verify.is_some() || !self.authorities.is_empty() || self.key_pair.is_some()
    }
}

/// An address of the distribution API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `host[:port]`.
    pub host: String,
    /// Path before the repository's, without a slash at the end.
    pub prefix: String,
    /// Written with `http://`.
    pub plain: bool,
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

/// The hosts of the text of `hosts.toml` in `dir`, in the order in which they are asked; the last one is the registry's own.
pub fn parse(text: &str, dir: &Path) -> Result<Vec<HostEntry>, InvalidHosts> {
    let file: File = toml::from_str(text).map_err(Box::new)?;
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
#[must_use]
pub fn with_certificates(dir: &Path, mut names: Vec<String>) -> HostEntry {
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
        verify: None,
        authorities: names.iter().filter_map(|name| of(name, ".crt")).collect(),
        key_pair,
        headers: Vec::new(),
        connect_timeout: None,
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
        verify: host.skip_verify.map(|skip| !skip),
        authorities,
        key_pair: host.client.map(|client| client.pair(dir)).transpose()?,
        headers: headers(&host.header)?,
        connect_timeout: connect_timeout.transpose()?,
    })
}

fn server(address: &str, override_path: bool) -> Result<Option<Server>, InvalidHosts> {
    if address.is_empty() {
        return Ok(None);
    }
    let (scheme, rest) = address.split_once("://").unwrap_or(("https", address));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let named = !host.is_empty() && !host.ends_with(':') && host.chars().all(fits);
    if !matches!(scheme, "http" | "https") || !named {
        let expected = "an http or https address";
        return Err(InvalidHosts::Value("server", address.to_owned(), expected));
    }
    let mut prefix = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        prefix.push('/');
        prefix.push_str(part);
    }
    if !override_path && !prefix.ends_with("/v2") {
        prefix.push_str("/v2");
    }
    Ok(Some(Server {
        host: host.to_owned(),
        prefix,
        plain: scheme == "http",
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

fn headers(written: &BTreeMap<String, OneOrMore>) -> Result<Vec<(String, String)>, InvalidHosts> {
    // RFC 9110, tokens and field values.
    let token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    let visible = |c: u8| c == b'\t' || (c >= b' ' && c != 0x7f);
    let mut headers = Vec::new();
    for (name, values) in written {
        for value in values.as_slice() {
            if name.is_empty() || !name.bytes().all(token) || !value.bytes().all(visible) {
                return Err(InvalidHosts::Value(
                    "header",
                    name.clone(),
                    "an HTTP header",
                ));
            }
            headers.push((name.clone(), value.clone()));
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
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let headers = [("x-more", "2"), ("x-more", "3"), ("x-one", "1")];
        let headers = headers.map(|(name, value)| header(name, value));
        assert_eq!(entries[0].headers, headers);
        assert_eq!(entries[1].connect_timeout, Some(Duration::from_secs(2)));
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
            let entry = parsed(text).remove(0);
            let pair = pair.map(|(cert, key)| KeyPair {
                key: at(key),
                cert: at(cert),
            });
            assert_eq!((entry.authorities, entry.key_pair), (authorities, pair));
        }
        assert_eq!(parsed("skip_verify = true")[0].verify, Some(false));
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
        assert_eq!(entry.authorities, [path("a.crt"), path("b.crt")]);
        let pair = entry.key_pair.unwrap();
        assert_eq!((pair.cert, pair.key), (path("x.cert"), path("x.key")));
        let alone = with_certificates(Path::new("/d"), vec!["x.cert".to_owned()]);
        assert_eq!(alone.key_pair.unwrap().key, path("x.cert"));
    }
}
