//! The `http` and `https` sources: one file in one layer, keyed by its content and its name, not by its URL. It decides
//! what is asked for and when the network is needed; `download` speaks to the server.

mod download;
mod name;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use shipway_cache::key;
use shipway_engine::{CacheMap, OpContext, Operation, VertexInfo};
use shipway_layers::Snapshot;
use shipway_model::failure::FailureKind;
use shipway_model::op::Pin;
use shipway_model::{Digest, Failure};
use tokio::sync::OnceCell;

use crate::Env;
use crate::env::unless_cancelled;

pub use download::Fetched;
pub(crate) use download::without_password;

/// Headers that a definition may set, as the key names them; others are dropped, as BuildKit does.
const HEADERS: [&str; 2] = ["Accept", "User-Agent"];

/// A file behind a URL, and how it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpFile {
    /// URL.
    url: String,
    /// Digest that it must have.
    checksum: Option<Digest>,
    /// Name that it gets; empty for the server's or the URL's.
    filename: String,
    /// Permission bits; 0 for the default.
    mode: u32,
    uid: u32,
    gid: u32,
    /// Secret that is the `Authorization` header.
    auth_secret: String,
    /// Sorted by name.
    headers: Vec<(String, String)>,
}

impl HttpFile {
    /// From the identifier, which is the URL, and the attributes.
    pub fn new(url: &str, attrs: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let mut file = Self {
            url: url.to_owned(),
            ..Self::default()
        };
        for (name, value) in attrs {
            match name.as_str() {
                "http.checksum" => file.checksum = Some(checksum(value)?),
                "http.filename" => value.clone_into(&mut file.filename),
                "http.perm" => file.mode = number(name, value)?,
                "http.uid" => file.uid = number(name, value)?,
                "http.gid" => file.gid = number(name, value)?,
                "http.authheadersecret" => value.clone_into(&mut file.auth_secret),
                "http.sig.pubkey" | "http.sig.signature" => {
                    let message = "signature verification of http sources is not supported";
                    return Err(Failure::of_kind(FailureKind::Unimplemented, message));
                }
                other => file.header(other, value),
            }
        }
        file.headers.sort();
        Ok(file)
    }

    fn header(&mut self, attr: &str, value: &str) {
        let name = attr.strip_prefix("http.header.");
        let known = name.and_then(|name| HEADERS.iter().find(|h| h.eq_ignore_ascii_case(name)));
        if let Some(name) = known {
            self.headers.push(((*name).to_owned(), value.to_owned()));
        }
    }

    fn key(&self, filename: &str, digest: &Digest, last_modified: &str) -> Digest {
        key::http(&key::Http {
            filename,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            digest,
            last_modified,
            auth_secret: &self.auth_secret,
            headers: &self.headers,
        })
    }
}

fn invalid(message: String) -> Failure {
    Failure::of_kind(FailureKind::InvalidArgument, message)
}

fn checksum(text: &str) -> Result<Digest, Failure> {
    text.parse()
        .map_err(|e: shipway_model::digest::InvalidDigest| invalid(e.to_string()))
}

/// A number as Go writes them: decimal, `0x…`, or octal with a leading 0.
fn number(name: &str, text: &str) -> Result<u32, Failure> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', b'o' | b'O', ..] => (&text[2..], 8),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    u32::from_str_radix(digits, radix)
        .map_err(|e| invalid(format!("attribute {name} is no number: {text:?}: {e}")))
}

/// A file from the web as a source.
pub struct HttpSource {
    info: VertexInfo,
    env: Arc<Env>,
    file: HttpFile,
    fetched: OnceCell<Fetched>,
}

impl HttpSource {
    /// A source from its identifier, which is the URL, and its attributes.
    pub fn new(
        info: VertexInfo,
        env: Arc<Env>,
        url: &str,
        attrs: &BTreeMap<String, String>,
    ) -> Result<Self, Failure> {
        let file = HttpFile::new(url, attrs)?;
        Ok(Self {
            info,
            env,
            file,
            fetched: OnceCell::new(),
        })
    }

    async fn fetched(&self, ctx: &OpContext) -> Result<&Fetched, Failure> {
        let sessions = ctx.sessions();
        let fetch = self
            .fetched
            .get_or_try_init(|| self.file.fetch(&self.env, &sessions));
        unless_cancelled(ctx, fetch).await
    }
}

#[async_trait]
impl Operation<Snapshot> for HttpSource {
    fn vertex(&self) -> &VertexInfo {
        &self.info
    }

    async fn cache_map(&self, ctx: &OpContext) -> Result<CacheMap<Snapshot>, Failure> {
        let key = if let Some(checksum) = &self.file.checksum {
            // What is pinned is keyed without asking anybody.
            let name = name::file_name(&self.file.url, &self.file.filename, None);
            self.file.key(&name, checksum, "")
        } else {
            let fetched = self.fetched(ctx).await?;
            let last_modified = fetched.last_modified_text();
            self.file
                .key(&fetched.filename, &fetched.digest, &last_modified)
        };
        Ok(CacheMap::new(key, 0))
    }

    async fn execute(
        &self,
        ctx: &OpContext,
        _inputs: Vec<Snapshot>,
    ) -> Result<Vec<Snapshot>, Failure> {
        let fetched = self.fetched(ctx).await?;
        Ok(vec![Snapshot::new([fetched.layer.clone()])])
    }

    fn facts(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        let digest = self.file.checksum;
        let digest = digest.or_else(|| self.fetched.get().map(|fetched| fetched.digest))?;
        Some(Arc::new(Pin::Digest(digest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_become_a_file() {
        let attrs = [
            ("http.perm", "0644"),
            ("http.uid", "1000"),
            ("http.gid", "0x10"),
            ("http.filename", "f"),
            ("http.header.user-agent", "me"),
            ("http.header.accept", "text/plain"),
            ("http.header.cookie", "dropped"),
        ];
        let attrs = attrs.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let file = HttpFile::new("http://h/f", &attrs).unwrap();
        assert_eq!((file.mode, file.uid, file.gid), (0o644, 1000, 16));
        let names: Vec<&str> = file.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["Accept", "User-Agent"]);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (attr, value) in [
            ("http.perm", "rw"),
            ("http.checksum", "md5:1"),
            ("http.sig.pubkey", "key"),
        ] {
            let attrs = BTreeMap::from([(attr.to_owned(), value.to_owned())]);
            assert!(HttpFile::new("http://h/f", &attrs).is_err(), "{attr}");
        }
    }
}
