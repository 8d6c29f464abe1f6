//! Gets a file from its server, or from an earlier download that the server says is still good.
//!
//! `<scratch>/http/<digest of what is asked for>.json` remembers the last download: its ETag, digest, name, time and layer.
//! Losing one costs a download. A file that has not changed keeps its layer, so that a result made of it stays one.

use std::collections::BTreeMap;
use std::fs::{FileTimes, OpenOptions};
use std::io::{Read, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shipway_backend::{LayerId, WebRequest, WebResponse};
use shipway_layers::{Building, Layer, StreamReader};
use shipway_model::{Digest, Failure};

use super::HttpFile;
use super::name::file_name;
use crate::env::SESSION_PATIENCE;
use crate::{Env, turns};

/// Permission bits of a file where none are asked for.
const DEFAULT_MODE: u32 = 0o600;

const NOT_MODIFIED: u16 = 304;

/// Host of URLs that stand for streams of the client (BuildKit's upload service).
const UPLOADS: &str = "buildkit-session";

/// A file that was fetched.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Digest of its content.
    pub digest: Digest,
    /// Its name.
    pub filename: String,
    /// Seconds since 1970 when the server says it was changed.
    pub last_modified: Option<u64>,
    /// Its layer: the file and nothing else.
    pub layer: Layer,
}

impl Fetched {
    /// When it was changed, as HTTP writes times; empty where unknown.
    pub(super) fn last_modified_text(&self) -> String {
        let time = self
            .last_modified
            .map(|seconds| httpdate::fmt_http_date(time(seconds)));
        time.unwrap_or_default()
    }
}

/// What is remembered of a download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    etag: String,
    digest: Digest,
    filename: String,
    last_modified: Option<u64>,
    layer: LayerId,
}

impl HttpFile {
    /// Digest, name and time of the file; without the network where the digest is given.
    pub async fn meta(
        &self,
        env: &Env,
        sessions: &[Arc<str>],
    ) -> Result<(Digest, String, Option<u64>), Failure> {
        if let Some(checksum) = self.checksum {
            return Ok((checksum, file_name(&self.url, &self.filename, None), None));
        }
        let fetched = self.fetch(env, sessions).await?;
        Ok((fetched.digest, fetched.filename, fetched.last_modified))
    }

    /// The file: as it was downloaded before where its server says so, else downloaded.
    pub async fn fetch(&self, env: &Env, sessions: &[Arc<str>]) -> Result<Fetched, Failure> {
        let file = self.record_file(env)?;
        let _turn = turns::take(format!("http:{}", file.display())).await;
        let known = read_record(&file).and_then(|record| {
            let layer = env.layers.open(record.layer).ok()?;
            Some((record, layer))
        });
        if let Some((record, layer)) = &known
            && self.checksum == Some(record.digest)
        {
            return Ok(fetched(record, layer.clone()));
        }
        let request = self.request(env, sessions).await?;
        if let Some((record, layer)) = &known
            && self.still_good(env, &request, record).await
        {
            self.check(record.digest)?;
            return Ok(fetched(record, layer.clone()));
        }
        let mut conditional = request;
        if let Some((record, _)) = known.as_ref().filter(|(record, _)| !record.etag.is_empty()) {
            conditional
                .headers
                .push(("If-None-Match".into(), record.etag.clone()));
        }
        let response = match self.upload(env, sessions).await {
            Some(response) => response?,
            None => env.web.send(conditional).await?,
        };
        match (response.status, known) {
            (NOT_MODIFIED, Some((record, layer))) => {
                self.check(record.digest)?;
                Ok(fetched(&record, layer))
            }
            (200..=299, known) => self.save(env, response, known, &file).await,
            (status, _) => Err(Failure::new(format!("invalid response status {status}"))),
        }
    }

    /// Refuses a file that isn't the one asked for, wherever it came from.
    fn check(&self, digest: Digest) -> Result<(), Failure> {
        match self.checksum {
            Some(want) if want != digest => {
                Err(Failure::new(format!("digest mismatch {digest}: {want}")))
            }
            _ => Ok(()),
        }
    }

    /// What a client hands over under a URL of its session; `None` for other URLs.
    async fn upload(
        &self,
        env: &Env,
        sessions: &[Arc<str>],
    ) -> Option<Result<WebResponse, Failure>> {
        let path = self.url.strip_prefix("http://")?.strip_prefix(UPLOADS)?;
        if !path.starts_with('/') {
            return None;
        }
        let mut last = Failure::new("no active sessions");
        for id in sessions {
            let asked = async {
                let session = env.sessions.get(id, SESSION_PATIENCE).await?;
                session.files().pull(UPLOADS, path).await
            };
            match asked.await {
                Ok(body) => {
                    return Some(Ok(WebResponse {
                        status: 200,
                        headers: BTreeMap::new(),
                        body,
                    }));
                }
                Err(error) => last = error.into(),
            }
        }
        Some(Err(last))
    }

    fn record_file(&self, env: &Env) -> Result<PathBuf, Failure> {
        let Self {
            url,
            filename,
            mode,
            uid,
            gid,
            auth_secret,
            headers,
            checksum: _,
        } = self;
        let asked = format!("{url}\0{filename}\0{mode}\0{uid}\0{gid}\0{auth_secret}\0{headers:?}");
        let dir = env.layers.upkeep().scratch_dir("http")?;
        Ok(dir.join(format!("{}.json", Digest::of(asked).hex())))
    }

    async fn request(&self, env: &Env, sessions: &[Arc<str>]) -> Result<WebRequest, Failure> {
        let mut headers = self.headers.clone();
        if let Some(value) = self.authorization(env, sessions).await? {
            headers.push(("Authorization".into(), value));
        }
        Ok(WebRequest {
            url: self.url.clone(),
            head_only: false,
            headers,
        })
    }

    async fn authorization(
        &self,
        env: &Env,
        sessions: &[Arc<str>],
    ) -> Result<Option<String>, Failure> {
        let text = |secret: Vec<u8>| String::from_utf8_lossy(&secret).into_owned();
        let wanted = &self.auth_secret;
        if !wanted.is_empty() {
            let secret = env.secret(sessions, wanted).await?;
            let missing = || Failure::new(format!("failed to retrieve HTTP auth secret {wanted}"));
            return secret.map(text).map(Some).ok_or_else(missing);
        }
        let host = host_of(&self.url);
        if let Some(token) = env
            .secret(sessions, &format!("HTTP_AUTH_TOKEN_{host}"))
            .await?
        {
            return Ok(Some(format!("Bearer {}", text(token))));
        }
        Ok(env
            .secret(sessions, &format!("HTTP_AUTH_HEADER_{host}"))
            .await?
            .map(text))
    }

    /// Asks for the head alone first: some servers give ETags but do not honour `If-None-Match`.
    async fn still_good(&self, env: &Env, request: &WebRequest, record: &Record) -> bool {
        if record.etag.is_empty() {
            return false;
        }
        let mut request = WebRequest {
            head_only: true,
            ..request.clone()
        };
        request
            .headers
            .push(("If-None-Match".into(), record.etag.clone()));
        let Ok(response) = env.web.send(request).await else {
            return false;
        };
        let same = match response.header("etag") {
            Some(etag) => etag_value(etag) == record.etag,
            None => response.status == NOT_MODIFIED,
        };
        same && matches!(response.status, 200 | NOT_MODIFIED)
    }

    async fn save(
        &self,
        env: &Env,
        response: WebResponse,
        known: Option<(Record, Layer)>,
        record_file: &Path,
    ) -> Result<Fetched, Failure> {
        let filename = file_name(
            &self.url,
            &self.filename,
            response.header("content-disposition"),
        );
        let last_modified = response.header("last-modified").and_then(parse_time);
        let etag = response
            .header("etag")
            .map(etag_value)
            .unwrap_or_default()
            .to_owned();
        let building = env.layers.begin()?;
        let (reader, feed) = StreamReader::new(response.body);
        let (file, name) = (self.clone(), filename.clone());
        let write = tokio::task::spawn_blocking(move || {
            let written = file.write(reader, &building, &name, last_modified);
            written.map(|digest| (building, digest))
        });
        let (written, ()) = tokio::join!(write, feed);
        let (building, digest) = written.map_err(|e| Failure::from_error(&e))??;
        self.check(digest)?;
        let unchanged = known.filter(|(record, _)| {
            (record.digest, &record.filename, record.last_modified)
                == (digest, &filename, last_modified)
        });
        let layer = match unchanged {
            Some((_, layer)) => layer,
            None => self.finish(building).await?,
        };
        let id = layer.id().expect("a finished layer is a directory");
        let record = Record {
            etag,
            digest,
            filename,
            last_modified,
            layer: id,
        };
        write_record(record_file, &record)?;
        Ok(fetched(&record, layer))
    }

    async fn finish(&self, building: Building) -> Result<Layer, Failure> {
        let description = format!("http url {}", without_password(&self.url));
        let finish = move || building.finish(&description, Timestamp::now());
        let layer = tokio::task::spawn_blocking(finish)
            .await
            .map_err(|e| Failure::from_error(&e))??;
        Ok(layer)
    }

    /// Writes the file into a new layer; gives its digest.
    fn write(
        &self,
        mut from: impl Read,
        to: &Building,
        name: &str,
        last_modified: Option<u64>,
    ) -> Result<Digest, Failure> {
        let path = to.fs().join(name);
        let mut write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            let mut hash = Sha256::new();
            let mut buffer = vec![0; 256 << 10];
            loop {
                let read = from.read(&mut buffer)?;
                if read == 0 {
                    break;
                }
                hash.update(&buffer[..read]);
                file.write_all(&buffer[..read])?;
            }
            std::os::unix::fs::fchown(&file, Some(self.uid), Some(self.gid))?;
            let mode = if self.mode == 0 {
                DEFAULT_MODE
            } else {
                self.mode
            };
            file.set_permissions(std::fs::Permissions::from_mode(mode & 0o7777))?;
            let modified = time(last_modified.unwrap_or(0));
            file.set_times(
                FileTimes::new()
                    .set_accessed(modified)
                    .set_modified(modified),
            )?;
            Ok::<_, std::io::Error>(Digest::from_bytes(hash.finalize().into()))
        };
        let shown = || format!("downloading {}", without_password(&self.url));
        write().map_err(|e| Failure::from_error(&e).context(shown()))
    }
}

fn fetched(record: &Record, layer: Layer) -> Fetched {
    Fetched {
        digest: record.digest,
        filename: record.filename.clone(),
        last_modified: record.last_modified,
        layer,
    }
}

/// The last download; none where its record is missing or damaged.
fn read_record(file: &Path) -> Option<Record> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// The caller holds the file's turn, so no other writer uses the fresh name.
fn write_record(file: &Path, record: &Record) -> Result<(), Failure> {
    let fresh = file.with_extension("new");
    let json = serde_json::to_vec(record).map_err(std::io::Error::other);
    let written = json.and_then(|json| {
        std::fs::write(&fresh, json)?;
        std::fs::rename(&fresh, file)
    });
    written.map_err(|e| {
        Failure::from_error(&e).context(format!("recording a download in {}", file.display()))
    })
}

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// HTTP's times are in GMT; some servers say so in other words, and BuildKit understands them.
fn parse_time(text: &str) -> Option<u64> {
    let text = match text.strip_suffix("UTC") {
        Some(rest) => format!("{rest}GMT"),
        None => text.to_owned(),
    };
    let time = httpdate::parse_http_date(&text).ok()?;
    Some(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())
}

/// An ETag for comparison: weak ones count as much as strong ones.
fn etag_value(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

/// Host of a URL without port and credentials.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    match host.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((v6, _)) => v6,
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// A URL to show.
pub(crate) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((user, host)) if user.contains(':') => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:xxxxx@{host}{path}")
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_known_by_its_name_alone() {
        for (url, host) in [
            ("http://u:p@h.io:80/x@y", "h.io"),
            ("https://[::1]:8/x", "::1"),
            ("http://h?x", "h"),
        ] {
            assert_eq!(host_of(url), host);
        }
        assert_eq!(without_password("http://u:p@h/x"), "http://u:xxxxx@h/x");
        assert_eq!(without_password("http://h/x:y@z"), "http://h/x:y@z");
    }

    #[test]
    fn times_are_those_of_http() {
        let text = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(parse_time(text), Some(784_111_777));
        assert_eq!(httpdate::fmt_http_date(time(784_111_777)), text);
        assert_eq!(
            parse_time("Sunday, 06-Nov-94 08:49:37 UTC"),
            Some(784_111_777)
        );
        assert_eq!(parse_time("yesterday"), None);
    }

    #[test]
    fn a_damaged_record_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("r.json");
        let record = Record {
            etag: "\"e\"".into(),
            digest: Digest::of("x"),
            filename: "f".into(),
            last_modified: Some(1),
            layer: LayerId(7),
        };
        write_record(&file, &record).unwrap();
        assert_eq!(read_record(&file), Some(record));
        std::fs::write(&file, b"{").unwrap();
        assert_eq!(read_record(&file), None);
    }
}
