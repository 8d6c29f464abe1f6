//! Rules of [`Session`](crate::Session) and what it offers, for a client that offers exactly what the constants here say.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use shipway_model::Digest;

use super::{broken_stream, bytes, collect, stream};
use crate::session::{Credentials, FileStat, SyncRequest, SyncSink, Transferred};
use crate::{BackendError, ErrorKind, Session};

/// Name of the directory that the client offers.
pub const DIRECTORY: &str = "context";
/// The regular files in it: paths and contents. Their directories are there too.
pub const FILES: &[(&str, &str)] = &[
    ("a/b/c", "deep"),
    ("a/d", ""),
    ("a.b", "between"),
    ("é", "beyond ascii"),
];
/// A symbolic link in it, and its target.
pub const LINK: (&str, &str) = ("link", "a/d");
/// A secret: id and value.
pub const SECRET: (&str, &str) = ("mysecret", "hush");
/// Credentials: registry, user, secret.
pub const CREDENTIALS: (&str, &str, &str) = ("h.example", "user", "secret");
/// The content store that the client offers.
pub const STORE: &str = "export";

/// Received files by path.
pub type Received = BTreeMap<String, (FileStat, Vec<u8>)>;

/// A sink that keeps everything in memory and wants what `wants` says.
#[derive(Clone)]
pub struct MemorySink {
    wants: fn(&FileStat) -> bool,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    paths: Vec<String>,
    files: Received,
    open: BTreeMap<u32, bool>,
    ended: bool,
}

impl MemorySink {
    /// A sink that wants what `wants` says.
    #[must_use]
    pub fn new(wants: fn(&FileStat) -> bool) -> Self {
        Self {
            wants,
            taken: Arc::default(),
        }
    }

    /// What has arrived, which must be complete.
    #[must_use]
    pub fn received(&self) -> Received {
        let taken = self.taken.lock().unwrap();
        assert!(taken.ended, "the sink was told of the end");
        assert!(
            taken.open.values().all(|ended| *ended),
            "each file has ended"
        );
        taken.files.clone()
    }
}

impl SyncSink for MemorySink {
    fn entry(&mut self, index: u32, stat: FileStat) -> Result<bool, BackendError> {
        let mut taken = self.taken.lock().unwrap();
        assert_eq!(
            taken.paths.len(),
            index as usize,
            "each entry once, in order"
        );
        taken.paths.push(stat.path.clone());
        let regular = stat.mode >> 19 == 0 && stat.link_name.is_empty();
        let wanted = (self.wants)(&stat);
        if wanted && regular {
            taken.open.insert(index, false);
        }
        taken.files.insert(stat.path.clone(), (stat, Vec::new()));
        Ok(wanted)
    }

    fn data(&mut self, index: u32, data: &[u8]) -> Result<(), BackendError> {
        let mut taken = self.taken.lock().unwrap();
        assert!(!taken.open[&index], "data of a wanted file before its end");
        taken.open.insert(index, data.is_empty());
        let path = taken.paths[index as usize].clone();
        let file = taken.files.get_mut(&path).unwrap();
        file.1.extend_from_slice(data);
        Ok(())
    }

    fn end(&mut self) -> Result<(), BackendError> {
        self.taken.lock().unwrap().ended = true;
        Ok(())
    }
}

/// A listener that does not care.
#[must_use]
pub fn silent() -> Transferred {
    Arc::new(|_| {})
}

/// Every rule.
pub async fn all(session: &dyn Session) {
    a_directory_arrives_with_what_was_wanted(session).await;
    a_directory_that_is_not_offered_is_refused(session).await;
    secrets_are_told_and_absent_ones_named(session).await;
    credentials_are_told_and_told_apart(session).await;
    blobs_are_written_and_read_back(session).await;
    a_broken_stream_fails_as_it_broke(session).await;
}

async fn receive(
    session: &dyn Session,
    name: &str,
    wants: fn(&FileStat) -> bool,
) -> Result<Received, BackendError> {
    let sink = MemorySink::new(wants);
    let request = SyncRequest {
        name: name.into(),
        ..Default::default()
    };
    let boxed = Box::new(sink.clone());
    drop(session.files().receive(request, boxed, silent()).await?);
    Ok(sink.received())
}

async fn a_directory_arrives_with_what_was_wanted(session: &dyn Session) {
    let all = receive(session, DIRECTORY, |_| true).await.unwrap();
    for (path, text) in FILES {
        assert_eq!(all[*path].1, text.as_bytes(), "{path}");
        assert_eq!(all[*path].0.size, text.len() as u64);
    }
    assert_eq!(all[LINK.0].0.link_name, LINK.1);
    assert_eq!(all["a/b"].0.mode >> 31, 1);
    assert_eq!(all.len(), FILES.len() + 3);
    let some = receive(session, DIRECTORY, |stat| stat.path == "a.b")
        .await
        .unwrap();
    assert_eq!(some.len(), all.len());
    assert_eq!(some["a.b"].1, b"between");
    assert_eq!(some["a/b/c"].1, b"");
}

async fn a_directory_that_is_not_offered_is_refused(session: &dyn Session) {
    let error = receive(session, "x", |_| true).await.unwrap_err();
    assert!(error.is_not_found());
    let cause = error.cause.as_ref().unwrap().to_string();
    assert_eq!(cause, "no access allowed to dir \"x\"");
}

async fn secrets_are_told_and_absent_ones_named(session: &dyn Session) {
    let secrets = session.secrets();
    assert_eq!(secrets.secret(SECRET.0).await.unwrap(), SECRET.1.as_bytes());
    let error = secrets.secret("zz").await.unwrap_err();
    assert!(error.is_not_found());
    let whole = format!("{error}: {}", error.cause.as_ref().unwrap());
    assert_eq!(whole, "secret zz: not found");
    let error = secrets.check_agent("").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
}

async fn credentials_are_told_and_told_apart(session: &dyn Session) {
    let auth = session.auth();
    let (host, username, secret) = CREDENTIALS;
    let expected = Credentials {
        username: username.into(),
        secret: secret.into(),
    };
    assert_eq!(auth.credentials(host).await.unwrap(), expected);
    assert_eq!(
        auth.credentials("other.example").await.unwrap(),
        Credentials::default()
    );
    let known = auth.authority(host).await.unwrap();
    assert_eq!(auth.authority(host).await.unwrap(), known);
    assert_ne!(auth.authority("other.example").await.unwrap(), known);
}

async fn blobs_are_written_and_read_back(session: &dyn Session) {
    let files = session.files();
    let data = bytes(3_000_000);
    let digest = Digest::of(&data);
    let absent = files.blob_size(STORE, &digest).await;
    assert!(absent.unwrap_err().is_not_found());
    for _ in 0..2 {
        let chunks = data.chunks(1 << 20).map(Bytes::copy_from_slice);
        let written = files.write_blob(STORE, &digest, 3_000_000, stream(chunks));
        written.await.unwrap();
    }
    assert_eq!(files.blob_size(STORE, &digest).await.unwrap(), 3_000_000);
    let read = files.read_blob(STORE, &digest).await.unwrap();
    assert!(collect(read).await.unwrap() == data);
    let lie = Digest::of(b"told");
    let lied = files.write_blob(STORE, &lie, 4, stream(["lie!".into()]));
    assert!(lied.await.is_err());
}

async fn a_broken_stream_fails_as_it_broke(session: &dyn Session) {
    let files = session.files();
    let broken = broken_stream(["x".into()]);
    let sent = files.write_blob(STORE, &Digest::of(b"xy"), 2, broken).await;
    assert_eq!(sent.unwrap_err().to_string(), "reading");
}
