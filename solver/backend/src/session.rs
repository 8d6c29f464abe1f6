//! What a build asks of its client while it runs. A service that a client does not offer answers with kind Unsupported.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shipway_model::metadata::SourceMeta;
use shipway_model::op::SourceOp;
use shipway_model::policy::Verdict;
use shipway_model::{Digest, Platform};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{BackendError, ByteStream};

/// The connected clients.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// The session of this id, waited for up to `patience`; `NotFound` says `no active session for <id>`.
    async fn get(&self, id: &str, patience: Duration) -> Result<Arc<dyn Session>, BackendError>;
}

/// One connected client.
pub trait Session: Send + Sync {
    /// Its id.
    fn id(&self) -> &str;
    /// Key that tells its context directories from other clients'; may be empty.
    fn shared_key(&self) -> &str;
    /// Resolves when the client is gone.
    fn closed(&self) -> futures::future::BoxFuture<'static, ()>;
    /// File transfer.
    fn files(&self) -> Arc<dyn Files>;
    /// Registry credentials.
    fn auth(&self) -> Arc<dyn Auth>;
    /// Secrets and ssh agents.
    fn secrets(&self) -> Arc<dyn Secrets>;
    /// Its own judgement of sources.
    fn policy(&self) -> Arc<dyn SourcePolicy>;
}

/// A client's own judgement of sources.
#[async_trait]
pub trait SourcePolicy: Send + Sync {
    /// What it says of a source, with what is known of it; before anything was asked that is nothing.
    async fn judge(
        &self,
        source: &SourceOp,
        platform: Option<&Platform>,
        known: Option<SourceMeta>,
    ) -> Result<Verdict, BackendError>;
}

/// Which files of a client's directory are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncRequest {
    /// Name of the directory, as the client offers it.
    pub name: String,
    /// Only what matches these; empty for all.
    pub include: Vec<String>,
    /// Not what matches these.
    pub exclude: Vec<String>,
    /// Only these paths, and what their symbolic links lead to; empty for all.
    pub follow: Vec<String>,
    /// Directories that may be listed beside the rest, those of each group by a call of their own. All below them that
    /// `exclude` leaves must be wanted. They change nothing of what is received but this: of a hard link between two
    /// groups, both names arrive as files.
    pub beside: Vec<Vec<String>>,
}

/// The order of a transfer's paths: by components, each by its bytes.
#[must_use]
pub fn in_transfer_order(one: &str, other: &str) -> Ordering {
    let key = |byte: u8| if byte == b'/' { 0 } else { byte };
    one.bytes().map(key).cmp(other.bytes().map(key))
}

/// One entry of a client's directory, as sent. Paths are relative, `/`-separated, without `.` or `..` components.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileStat {
    /// Path.
    pub path: String,
    /// Go's `os.FileMode`: permission in the low nine bits, directory bit 31, symbolic link bit 27.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a regular file.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub mod_time: i64,
    /// Target of a symbolic link, or first path of a hard link.
    pub link_name: String,
    /// Device numbers.
    pub dev_major: i64,
    /// Device numbers.
    pub dev_minor: i64,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// Takes a client's files. Calls come in order: every entry once, sorted by path component, data for wanted entries at any
/// time after, `end` last. Methods may block on the disk; the caller runs them where blocking is allowed.
pub trait SyncSink: Send {
    /// Takes an entry; `true` asks for its data.
    fn entry(&mut self, index: u32, stat: FileStat) -> Result<bool, BackendError>;
    /// Takes a piece of a wanted entry's data; an empty one ends it.
    fn data(&mut self, index: u32, data: &[u8]) -> Result<(), BackendError>;
    /// Everything has arrived.
    fn end(&mut self) -> Result<(), BackendError>;
}

/// A directory tree to send, under `prefix` (empty, or `linux_amd64/`-like for one of several platforms).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendTree {
    /// Path that is put before every entry's.
    pub prefix: String,
    /// The directory; may be a path through a file descriptor.
    pub root: PathBuf,
}

/// Progress of a transfer: bytes so far.
pub type Transferred = Arc<dyn Fn(u64) + Send + Sync>;

/// File transfer from and to a client.
#[async_trait]
pub trait Files: Send + Sync {
    /// Receives a directory; gives `sink` back after its `end`.
    async fn receive(
        &self,
        request: SyncRequest,
        sink: Box<dyn SyncSink>,
        progress: Transferred,
    ) -> Result<Box<dyn SyncSink>, BackendError>;
    /// Sends a stream to exporter number `exporter`, with its response as metadata; waits until the client has it.
    async fn send_stream(
        &self,
        exporter: usize,
        metadata: BTreeMap<String, String>,
        data: ByteStream,
    ) -> Result<(), BackendError>;
    /// Sends directories to exporter number `exporter`; `multi` says that prefixes tell platforms apart.
    async fn send_trees(
        &self,
        exporter: usize,
        trees: Vec<SendTree>,
        multi: bool,
        progress: Transferred,
    ) -> Result<(), BackendError>;
    /// Size of a blob in one of the client's content stores (`oci:<name>`, `local:<dir>`).
    async fn blob_size(&self, store: &str, digest: &Digest) -> Result<u64, BackendError>;
    /// A blob of one of the client's content stores.
    async fn read_blob(&self, store: &str, digest: &Digest) -> Result<ByteStream, BackendError>;
    /// Writes a blob into one of the client's content stores; fine where it is there.
    async fn write_blob(
        &self,
        store: &str,
        digest: &Digest,
        size: u64,
        data: ByteStream,
    ) -> Result<(), BackendError>;
    /// A stream that the client hands over under the URL `http://<host><path>`; it can be read once.
    async fn pull(&self, host: &str, path: &str) -> Result<ByteStream, BackendError>;
}

/// A user name and secret; both empty is anonymous. An empty user with a secret is an identity (refresh) token.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub secret: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A request for a bearer token.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TokenRequest {
    /// Registry.
    pub host: String,
    /// Where tokens are given out.
    pub realm: String,
    /// Service that the token is for.
    pub service: String,
    /// Scopes.
    pub scopes: Vec<String>,
}

/// A bearer token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Its text.
    pub token: String,
    /// For how long it is good.
    pub expires_in: Duration,
}

/// Registry credentials of a client.
#[async_trait]
pub trait Auth: Send + Sync {
    /// User name and secret for a registry.
    async fn credentials(&self, host: &str) -> Result<Credentials, BackendError>;
    /// A token fetched by the client itself; Unsupported where it cannot.
    async fn token(&self, request: &TokenRequest) -> Result<Token, BackendError>;
    /// Identity of the credentials that this client would use for a registry: clients with equal ones may share a token.
    async fn authority(&self, host: &str) -> Result<Vec<u8>, BackendError>;
}

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Secrets and ssh agents of a client.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// A secret's value; `NotFound` where the client has none of that id.
    async fn secret(&self, id: &str) -> Result<Vec<u8>, BackendError>;
    /// Checks that an ssh agent of that id is offered; an empty id is the default one.
    async fn check_agent(&self, id: &str) -> Result<(), BackendError>;
    /// Connects to an ssh agent.
    async fn connect_agent(&self, id: &str) -> Result<Box<dyn Duplex>, BackendError>;
}
