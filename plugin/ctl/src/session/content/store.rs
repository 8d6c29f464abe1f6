//! One OCI layout: blobs by digest, and writes under way. A blob appears whole or not at all.
//!
//! ```text
//! blobs/sha256/<hex>      finished blobs
//! ingest/<uuid>           writes under way, removed when they end
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use shipway_proto::content::{Info, Status as WriteStatus};
use tonic::Status;

use crate::error::Error;

/// A layout on disk.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    ingests: Mutex<BTreeMap<String, Shared>>,
}

/// A write under way.
#[derive(Debug)]
pub(super) struct Ingest {
    path: PathBuf,
    file: File,
    hash: Sha256,
    pub(super) offset: i64,
    pub(super) total: i64,
    pub(super) expected: String,
    pub(super) started: prost_types::Timestamp,
    pub(super) updated: prost_types::Timestamp,
    /// A call is writing it now.
    pub(super) busy: bool,
}

/// A write that its calls and questions about it share.
pub(super) type Shared = Arc<Mutex<Ingest>>;

/// A panic elsewhere leaves at worst a write that is never committed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a part of a blob.
pub(super) struct Reader {
    file: File,
    offset: i64,
    left: u64,
}

impl Reader {
    /// The next piece and where it lies.
    pub(super) fn next(&mut self, limit: usize) -> Result<Option<(i64, Vec<u8>)>, Status> {
        let wanted = usize::try_from(self.left).unwrap_or(limit).min(limit);
        let mut piece = vec![0; wanted];
        let n = self
            .file
            .read(&mut piece)
            .map_err(|error| failed("reading blob", &error))?;
        if n == 0 {
            return Ok(None);
        }
        piece.truncate(n);
        let at = self.offset;
        self.offset += (n as u64).cast_signed();
        self.left -= n as u64;
        Ok(Some((at, piece)))
    }
}

fn failed(doing: &str, error: &std::io::Error) -> Status {
    match error.kind() {
        std::io::ErrorKind::NotFound => Status::not_found(format!("{doing}: {error}")),
        _ => Status::unknown(format!("{doing}: {error}")),
    }
}

pub(super) fn now() -> prost_types::Timestamp {
    SystemTime::now().into()
}

impl Store {
    /// Opens a layout; it is made when the first blob is written.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(Error::file("creating", dir))?;
        Ok(Self {
            dir: dir.to_owned(),
            ingests: Mutex::default(),
        })
    }

    /// Whether a blob is there.
    pub(crate) fn has(&self, digest: &str) -> bool {
        self.path(digest).is_ok_and(|path| path.is_file())
    }

    /// Where a blob lies. Refuses what is no SHA-256 digest, so that no path is made from anything else.
    fn path(&self, digest: &str) -> Result<PathBuf, Status> {
        let hex = digest.strip_prefix("sha256:").filter(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        });
        let hex = hex.ok_or_else(|| Status::invalid_argument(format!("digest {digest:?}")))?;
        Ok(self.dir.join("blobs/sha256").join(hex))
    }

    pub(super) fn info(&self, digest: &str) -> Result<Info, Status> {
        let path = self.path(digest)?;
        let meta = std::fs::metadata(&path)
            .map_err(|error| failed(&format!("content {digest}"), &error))?;
        let time = meta.modified().ok().map(Into::into);
        Ok(Info {
            digest: digest.to_owned(),
            size: meta.len().cast_signed(),
            created_at: time,
            updated_at: time,
            labels: BTreeMap::new(),
        })
    }

    pub(super) fn list(&self) -> Result<Vec<Info>, Status> {
        let entries = match std::fs::read_dir(self.dir.join("blobs/sha256")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|error| failed("listing blobs", &error))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let digests = names.map(|name| format!("sha256:{name}"));
        digests
            .filter(|digest| self.has(digest))
            .map(|digest| self.info(&digest))
            .collect()
    }

    pub(super) fn delete(&self, digest: &str) -> Result<(), Status> {
        std::fs::remove_file(self.path(digest)?)
            .map_err(|error| failed(&format!("content {digest}"), &error))
    }

    pub(super) fn reader(&self, digest: &str, offset: i64, size: i64) -> Result<Reader, Status> {
        let opened = File::open(self.path(digest)?);
        let mut file = opened.map_err(|error| failed(&format!("content {digest}"), &error))?;
        let start = u64::try_from(offset)
            .map_err(|_| Status::invalid_argument(format!("offset {offset}")))?;
        file.seek(SeekFrom::Start(start))
            .map_err(|error| failed("seeking blob", &error))?;
        let left = u64::try_from(size)
            .ok()
            .filter(|size| *size > 0)
            .unwrap_or(u64::MAX);
        Ok(Reader { file, offset, left })
    }

    fn ingests(&self) -> MutexGuard<'_, BTreeMap<String, Shared>> {
        lock(&self.ingests)
    }

    /// Takes a write up, new or where it was left.
    pub(super) fn begin(
        &self,
        reference: &str,
        total: i64,
        expected: &str,
    ) -> Result<Shared, Status> {
        if !expected.is_empty() && self.has(expected) {
            return Err(Status::already_exists(format!(
                "content {expected}: already exists"
            )));
        }
        let mut ingests = self.ingests();
        if let Some(known) = ingests.get(reference) {
            let mut ingest = lock(known);
            if std::mem::replace(&mut ingest.busy, true) {
                return Err(Status::unavailable(format!("ref {reference} locked")));
            }
            return Ok(Arc::clone(known));
        }
        let dir = self.dir.join("ingest");
        std::fs::create_dir_all(&dir).map_err(|error| failed("creating ingest", &error))?;
        let path = dir.join(uuid::Uuid::new_v4().simple().to_string());
        let file = File::create_new(&path).map_err(|error| failed("creating ingest", &error))?;
        let ingest = Arc::new(Mutex::new(Ingest {
            path,
            file,
            hash: Sha256::new(),
            offset: 0,
            total,
            expected: expected.to_owned(),
            started: now(),
            updated: now(),
            busy: true,
        }));
        ingests.insert(reference.to_owned(), Arc::clone(&ingest));
        Ok(ingest)
    }

    /// Makes a write a blob if its size and digest are as announced. The write is over either way.
    pub(super) fn commit(
        &self,
        reference: &str,
        ingest: &Ingest,
        size: i64,
        expected: &str,
    ) -> Result<String, Status> {
        self.ingests().remove(reference);
        let kept = self.keep(ingest, size, expected);
        if kept.is_err() {
            // What is left of it can't become a blob.
            let _left = std::fs::remove_file(&ingest.path);
        }
        kept
    }

    fn keep(&self, ingest: &Ingest, size: i64, expected: &str) -> Result<String, Status> {
        let digest = ingest.digest();
        let expected = if expected.is_empty() {
            ingest.expected.as_str()
        } else {
            expected
        };
        if size > 0 && size != ingest.offset {
            let reason = format!("unexpected commit size {}, expected {size}", ingest.offset);
            return Err(Status::failed_precondition(reason));
        }
        if !expected.is_empty() && digest != expected {
            let reason = format!("unexpected commit digest {digest}, expected {expected}");
            return Err(Status::failed_precondition(reason));
        }
        let path = self.path(&digest)?;
        if path.exists() {
            return Err(Status::already_exists(format!(
                "content {digest}: already exists"
            )));
        }
        let to = path.parent().unwrap_or(&self.dir);
        std::fs::create_dir_all(to).map_err(|error| failed("creating blobs", &error))?;
        std::fs::rename(&ingest.path, &path).map_err(|error| failed("keeping blob", &error))?;
        // Empty again as a rule; another write may be under way.
        let _in_use = std::fs::remove_dir(self.dir.join("ingest"));
        Ok(digest)
    }

    pub(super) fn abort(&self, reference: &str) -> Result<(), Status> {
        let ingest = self.ingests().remove(reference);
        let ingest =
            ingest.ok_or_else(|| Status::not_found(format!("ingest ref {reference:?}")))?;
        std::fs::remove_file(&lock(&ingest).path).map_err(|error| failed("aborting write", &error))
    }

    pub(super) fn status(&self, reference: &str) -> Result<WriteStatus, Status> {
        let ingest = self.ingests().get(reference).cloned();
        let missing = || Status::not_found(format!("ingest ref {reference:?}"));
        let ingest = ingest.ok_or_else(missing)?;
        let status = lock(&ingest).status(reference);
        Ok(status)
    }

    pub(super) fn statuses(&self) -> Vec<WriteStatus> {
        self.ingests()
            .iter()
            .map(|(reference, ingest)| lock(ingest).status(reference))
            .collect()
    }
}

impl Ingest {
    pub(super) fn write(&mut self, offset: i64, data: &[u8]) -> Result<(), Status> {
        if offset > 0 && offset != self.offset {
            let reason = format!(
                "write @{offset} must occur at current offset {}",
                self.offset
            );
            return Err(Status::out_of_range(reason));
        }
        self.file
            .write_all(data)
            .map_err(|error| failed("writing blob", &error))?;
        self.hash.update(data);
        self.offset += (data.len() as u64).cast_signed();
        self.updated = now();
        Ok(())
    }

    pub(super) fn digest(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::from("sha256:");
        for byte in self.hash.clone().finalize() {
            write!(text, "{byte:02x}").expect("a String takes everything");
        }
        text
    }

    fn status(&self, reference: &str) -> WriteStatus {
        WriteStatus {
            started_at: Some(self.started),
            updated_at: Some(self.updated),
            r#ref: reference.to_owned(),
            offset: self.offset,
            total: self.total,
            expected: self.expected.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn a_write_becomes_a_blob_only_if_its_digest_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let write = |expected: &str| {
            let shared = store.begin("r", 5, expected)?;
            let mut ingest = lock(&shared);
            ingest.write(0, b"hello")?;
            store.commit("r", &ingest, 5, expected)
        };
        let wrong = format!("sha256:{}", "0".repeat(64));
        assert_eq!(
            write(&wrong).unwrap_err().code(),
            tonic::Code::FailedPrecondition
        );
        assert!(!store.has(HELLO));
        assert_eq!(write(HELLO).unwrap(), HELLO);
        assert_eq!(write(HELLO).unwrap_err().code(), tonic::Code::AlreadyExists);
        let mut reader = store.reader(HELLO, 1, 3).unwrap();
        assert_eq!(reader.next(2).unwrap(), Some((1, b"el".to_vec())));
        assert_eq!(reader.next(2).unwrap(), Some((3, b"l".to_vec())));
        assert_eq!(reader.next(2).unwrap(), None);
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn digests_never_become_other_paths() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for digest in ["", "sha256:", "sha256:../../x", "md5:00", "sha256:AA"] {
            assert!(store.info(digest).is_err(), "{digest}");
        }
    }

    #[test]
    fn one_call_at_a_time_writes_a_reference() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let shared = store.begin("r", 0, "").unwrap();
        lock(&shared).write(0, b"ab").unwrap();
        assert_eq!(
            store.begin("r", 0, "").unwrap_err().code(),
            tonic::Code::Unavailable
        );
        lock(&shared).busy = false;
        assert_eq!(lock(&store.begin("r", 0, "").unwrap()).offset, 2);
        assert_eq!(store.status("r").unwrap().offset, 2);
        store.abort("r").unwrap();
        assert!(store.statuses().is_empty());
    }
}
