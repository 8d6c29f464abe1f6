//! Clients in memory: directories, secrets and credentials that a test puts there, and what the client was sent.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use shipway_model::metadata::SourceMeta;
use shipway_model::op::SourceOp;
use shipway_model::policy::Verdict;
use shipway_model::{Digest, Platform};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::lock;
use crate::session::{
    Auth, Credentials, Duplex, FileStat, Files, Secrets, SendTree, SourcePolicy, SyncRequest,
    SyncSink, Token, TokenRequest, Transferred,
};
use crate::suite::{collect, stream};
use crate::{BackendError, ByteStream, ErrorKind, Session, Sessions};

/// Go's mode bit of directories, and of symbolic links.
const DIR: u32 = 1 << 31;
const LINK: u32 = 1 << 27;

/// A client in memory. Clones are the same one.
#[derive(Clone)]
pub struct FakeSession {
    id: Arc<str>,
    closed: CancellationToken,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    directories: BTreeMap<String, Directory>,
    secrets: BTreeMap<String, Vec<u8>>,
    credentials: BTreeMap<String, Credentials>,
    blobs: BTreeMap<(String, Digest), Bytes>,
    uploads: BTreeMap<String, Bytes>,
    received: Vec<Received>,
    verdicts: VecDeque<Verdict>,
    judged: Vec<Judged>,
}

/// A source that was judged, by its identifier, and what was known of it.
pub type Judged = (String, Option<SourceMeta>);

/// Entries by path components, which is the order in which they are sent.
type Directory = BTreeMap<Vec<String>, (FileStat, Vec<u8>)>;

/// What a client was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A stream: exporter, metadata, bytes.
    Stream(usize, BTreeMap<String, String>, Vec<u8>),
    /// Directories: exporter, and for each its prefix and path.
    Trees(usize, Vec<(String, PathBuf)>),
}

impl FakeSession {
    /// A client that offers nothing.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            closed: CancellationToken::new(),
            state: Arc::default(),
        }
    }

    /// Has its policy give these verdicts.
    pub fn put_verdicts(&self, verdicts: impl IntoIterator<Item = Verdict>) {
        lock(&self.state).verdicts.extend(verdicts);
    }

    /// What its policy was asked.
    #[must_use]
    pub fn judged(&self) -> Vec<Judged> {
        lock(&self.state).judged.clone()
    }

    /// Puts a file into one of its directories; its parents are made too.
    pub fn put_file(&self, directory: &str, path: &str, data: impl Into<Vec<u8>>) {
        let data = data.into();
        let stat = FileStat {
            mode: 0o644,
            size: data.len() as u64,
            ..Default::default()
        };
        self.put(directory, path, stat, data);
    }

    /// Puts a symbolic link into one of its directories.
    pub fn put_link(&self, directory: &str, path: &str, target: &str) {
        let stat = FileStat {
            mode: LINK | 0o777,
            size: target.len() as u64,
            link_name: target.into(),
            ..Default::default()
        };
        self.put(directory, path, stat, Vec::new());
    }

    /// Puts an entry with these attributes into one of its directories; its path is filled in.
    pub fn put(&self, directory: &str, path: &str, mut stat: FileStat, data: Vec<u8>) {
        let mut state = lock(&self.state);
        let entries = state.directories.entry(directory.into()).or_default();
        let parts: Vec<String> = path.split('/').map(str::to_owned).collect();
        for depth in 1..parts.len() {
            let stat = FileStat {
                path: parts[..depth].join("/"),
                mode: DIR | 0o755,
                ..Default::default()
            };
            let dir = parts[..depth].to_vec();
            entries.entry(dir).or_insert_with(|| (stat, Vec::new()));
        }
        path.clone_into(&mut stat.path);
        entries.insert(parts, (stat, data));
    }

    /// Gives it a secret.
    pub fn put_secret(&self, id: &str, value: impl Into<Vec<u8>>) {
        lock(&self.state).secrets.insert(id.into(), value.into());
    }

    /// Gives it credentials.
    pub fn put_credentials(&self, host: &str, credentials: Credentials) {
        let mut state = lock(&self.state);
        state.credentials.insert(host.into(), credentials);
    }

    /// Puts a blob into one of its stores.
    pub fn put_blob(&self, store: &str, data: impl Into<Bytes>) -> Digest {
        let data = data.into();
        let digest = Digest::of(&data);
        lock(&self.state).blobs.insert((store.into(), digest), data);
        digest
    }

    /// Lets a stream be pulled from it, once.
    pub fn put_upload(&self, path: &str, data: impl Into<Bytes>) {
        lock(&self.state).uploads.insert(path.into(), data.into());
    }

    /// What it was sent so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        lock(&self.state).received.clone()
    }

    /// Makes the client leave.
    pub fn leave(&self) {
        self.closed.cancel();
    }

    fn blob(&self, store: &str, digest: &Digest) -> Result<Bytes, BackendError> {
        let key = (store.to_owned(), *digest);
        let found = lock(&self.state).blobs.get(&key).cloned();
        found.ok_or_else(|| absent(format!("reading {digest} from {store:?}"), "not found"))
    }
}

fn absent(attempt: String, why: &str) -> BackendError {
    BackendError::caused(ErrorKind::NotFound, attempt, why)
}

impl Session for FakeSession {
    fn id(&self) -> &str {
        &self.id
    }

    fn shared_key(&self) -> &'static str {
        ""
    }

    fn closed(&self) -> BoxFuture<'static, ()> {
        self.closed.clone().cancelled_owned().boxed()
    }

    fn files(&self) -> Arc<dyn Files> {
        Arc::new(self.clone())
    }

    fn auth(&self) -> Arc<dyn Auth> {
        Arc::new(self.clone())
    }

    fn secrets(&self) -> Arc<dyn Secrets> {
        Arc::new(self.clone())
    }

    fn policy(&self) -> Arc<dyn SourcePolicy> {
        Arc::new(self.clone())
    }
}

/// Gives the verdicts that it was told to give, in turn.
#[async_trait]
impl SourcePolicy for FakeSession {
    async fn judge(
        &self,
        source: &SourceOp,
        _platform: Option<&Platform>,
        known: Option<SourceMeta>,
    ) -> Result<Verdict, BackendError> {
        let mut state = lock(&self.state);
        state.judged.push((source.identifier.clone(), known));
        let verdict = state.verdicts.pop_front();
        let attempt = format!("judging {}", source.identifier);
        verdict.ok_or_else(|| absent(attempt, "no verdict is left"))
    }
}

#[async_trait]
impl Files for FakeSession {
    /// Patterns are ignored: every entry is sent.
    async fn receive(
        &self,
        request: SyncRequest,
        mut sink: Box<dyn SyncSink>,
        progress: Transferred,
    ) -> Result<Box<dyn SyncSink>, BackendError> {
        let attempt = format!("loading {:?} from the client", request.name);
        let directory = lock(&self.state).directories.get(&request.name).cloned();
        let Some(directory) = directory else {
            let why = format!("no access allowed to dir {:?}", request.name);
            return Err(absent(attempt, &why));
        };
        let mut sent = 0;
        for (index, (stat, data)) in (0..).zip(directory.into_values()) {
            let has_data = stat.mode >> 19 == 0 && stat.link_name.is_empty();
            if sink.entry(index, stat)? && has_data {
                for piece in data.chunks(32 << 10).chain([&[][..]]) {
                    sink.data(index, piece)?;
                }
                sent += data.len() as u64;
                progress(sent);
            }
        }
        sink.end()?;
        Ok(sink)
    }

    async fn send_stream(
        &self,
        exporter: usize,
        metadata: BTreeMap<String, String>,
        data: ByteStream,
    ) -> Result<(), BackendError> {
        let bytes = collect(data).await?;
        let received = Received::Stream(exporter, metadata, bytes);
        lock(&self.state).received.push(received);
        Ok(())
    }

    async fn send_trees(
        &self,
        exporter: usize,
        trees: Vec<SendTree>,
        _multi: bool,
        _progress: Transferred,
    ) -> Result<(), BackendError> {
        let trees = trees.into_iter().map(|tree| (tree.prefix, tree.root));
        let received = Received::Trees(exporter, trees.collect());
        lock(&self.state).received.push(received);
        Ok(())
    }

    async fn blob_size(&self, store: &str, digest: &Digest) -> Result<u64, BackendError> {
        Ok(self.blob(store, digest)?.len() as u64)
    }

    async fn read_blob(&self, store: &str, digest: &Digest) -> Result<ByteStream, BackendError> {
        Ok(stream([self.blob(store, digest)?]))
    }

    async fn write_blob(
        &self,
        store: &str,
        digest: &Digest,
        size: u64,
        data: ByteStream,
    ) -> Result<(), BackendError> {
        let bytes = collect(data).await?;
        if Digest::of(&bytes) != *digest || bytes.len() as u64 != size {
            let attempt = format!("writing {digest} to {store:?}");
            return Err(BackendError::new(ErrorKind::Corrupt, attempt));
        }
        self.put_blob(store, bytes);
        Ok(())
    }

    async fn pull(&self, host: &str, path: &str) -> Result<ByteStream, BackendError> {
        let attempt = format!("pulling {path} of {host} from the client");
        let missing = || BackendError::new(ErrorKind::NotFound, attempt);
        let data = lock(&self.state).uploads.remove(path).ok_or_else(missing)?;
        Ok(stream([data]))
    }
}

#[async_trait]
impl Auth for FakeSession {
    async fn credentials(&self, host: &str) -> Result<Credentials, BackendError> {
        let state = lock(&self.state);
        Ok(state.credentials.get(host).cloned().unwrap_or_default())
    }

    async fn token(&self, _request: &TokenRequest) -> Result<Token, BackendError> {
        Err(BackendError::new(
            ErrorKind::Unsupported,
            "fetching a token",
        ))
    }

    async fn authority(&self, host: &str) -> Result<Vec<u8>, BackendError> {
        let Credentials { username, secret } = self.credentials(host).await?;
        let digest = Digest::of(format!("{username}\0{secret}"));
        Ok(digest.as_bytes().to_vec())
    }
}

#[async_trait]
impl Secrets for FakeSession {
    async fn secret(&self, id: &str) -> Result<Vec<u8>, BackendError> {
        let found = lock(&self.state).secrets.get(id).cloned();
        found.ok_or_else(|| absent(format!("secret {id}"), "not found"))
    }

    async fn check_agent(&self, id: &str) -> Result<(), BackendError> {
        let attempt = format!("checking ssh agent {id:?}");
        Err(BackendError::new(ErrorKind::Unsupported, attempt))
    }

    async fn connect_agent(&self, id: &str) -> Result<Box<dyn Duplex>, BackendError> {
        let attempt = format!("connecting to ssh agent {id:?}");
        Err(BackendError::new(ErrorKind::Unsupported, attempt))
    }
}

/// Clients that a test lets in.
#[derive(Default)]
pub struct FakeSessions {
    sessions: Mutex<BTreeMap<String, FakeSession>>,
    arrived: Notify,
}

impl FakeSessions {
    /// Nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a client in.
    pub fn add(&self, session: FakeSession) {
        lock(&self.sessions).insert(session.id.to_string(), session);
        self.arrived.notify_waiters();
    }

    async fn wait_for(&self, id: &str) -> FakeSession {
        loop {
            let mut arrived = std::pin::pin!(self.arrived.notified());
            arrived.as_mut().enable();
            if let Some(session) = lock(&self.sessions).get(id) {
                return session.clone();
            }
            arrived.await;
        }
    }
}

#[async_trait]
impl Sessions for FakeSessions {
    async fn get(&self, id: &str, patience: Duration) -> Result<Arc<dyn Session>, BackendError> {
        let found = tokio::time::timeout(patience, self.wait_for(id)).await;
        let session = found.map_err(|_| {
            let attempt = format!("no active session for {id}");
            absent(attempt, "context deadline exceeded")
        })?;
        Ok(Arc::new(session))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::session as suite;

    #[tokio::test]
    async fn the_fake_passes_the_suite() {
        let session = FakeSession::new("s");
        for (path, text) in suite::FILES {
            session.put_file(suite::DIRECTORY, path, *text);
        }
        session.put_link(suite::DIRECTORY, suite::LINK.0, suite::LINK.1);
        session.put_secret(suite::SECRET.0, suite::SECRET.1);
        let (host, username, secret) = suite::CREDENTIALS;
        let credentials = Credentials {
            username: username.into(),
            secret: secret.into(),
        };
        session.put_credentials(host, credentials);
        suite::all(&session).await;
    }

    #[tokio::test]
    async fn a_session_is_waited_for() {
        let sessions = Arc::new(FakeSessions::new());
        let patience = Duration::from_secs(10);
        let add = async { sessions.add(FakeSession::new("s")) };
        let (found, ()) = tokio::join!(sessions.get("s", patience), add);
        assert_eq!(found.unwrap().id(), "s");
        let error = sessions.get("t", Duration::ZERO).await.err().unwrap();
        assert_eq!(error.to_string(), "no active session for t");
    }
}
