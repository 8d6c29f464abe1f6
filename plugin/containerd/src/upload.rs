//! Writes one blob: messages of 1 MiB, without waiting for the answer to each. An upload that is given up leaves nothing.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use shipway_backend::{BackendError, BlobSlot, BlobWriter, Blobs as _, ErrorKind, Lease};
use shipway_model::Digest;
use shipway_proto::content::{
    AbortRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::connection::{once, repeat};
use crate::error::failed;
use crate::scope::Scope;
use crate::writeback::{self, PIECE};

/// Largest message: containerd takes these fastest.
pub(crate) const MESSAGE: usize = 1 << 20;
/// Messages under way; more would only fill memory.
const UNDER_WAY: usize = 4;

/// What reads containerd's answers; ends with the upload and gives the last answer's digest.
type Draining = JoinSet<Result<String, Status>>;

/// A blob that is being written.
struct Upload {
    scope: Scope,
    attempt: String,
    reference: String,
    labels: BTreeMap<String, String>,
    messages: mpsc::Sender<WriteContentRequest>,
    answers: Draining,
    written: i64,
    /// How many of these the disk has been asked to take.
    written_back: u64,
    /// Set when containerd has nothing left of the upload: it is a blob now.
    done: bool,
}

impl Scope {
    /// Starts to write a blob, unless it is there.
    pub(crate) async fn upload(
        &self,
        lease: &Lease,
        name: &str,
        expected: Option<(Digest, u64)>,
        labels: BTreeMap<String, String>,
    ) -> Result<BlobSlot, BackendError> {
        let attempt = match &expected {
            Some((digest, _)) => format!("writing blob {digest}"),
            None => format!("writing blob {name:?}"),
        };
        let reference = format!("shipway-{}-{name}", uuid::Uuid::new_v4().simple());
        let (digest, total) = match &expected {
            Some((digest, size)) => (digest.to_string(), to_wire(*size, &attempt)?),
            None => (String::new(), 0),
        };
        let start = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.clone(),
            total,
            expected: digest,
            ..Default::default()
        };
        let (messages, answers, offset) = match self.start_upload(lease, start).await {
            Ok(started) => started,
            Err(status) if status.code() == Code::AlreadyExists => {
                if let Some((digest, _)) = &expected {
                    self.label(digest, labels).await?;
                }
                return Ok(BlobSlot::Present);
            }
            Err(status) => return Err(failed(attempt, &status)),
        };
        let mut upload = Upload {
            scope: self.clone(),
            attempt,
            reference,
            labels,
            messages,
            answers,
            written: offset,
            written_back: 0,
            done: false,
        };
        match expected {
            // Another namespace has it: only its record is missing here. (An empty blob is written like any other.)
            Some((digest, size)) if total > 0 && offset == total => {
                upload.finish(&digest, size).await?;
                Ok(BlobSlot::Present)
            }
            _ if offset != 0 => {
                let why = format!("a new upload begins at {offset}");
                Err(upload.error(ErrorKind::Other, why))
            }
            _ => Ok(BlobSlot::Write(Box::new(upload))),
        }
    }

    async fn start_upload(
        &self,
        lease: &Lease,
        start: WriteContentRequest,
    ) -> Result<Started, Status> {
        // containerd answers the first message before it needs another, so a try can be repeated as a whole.
        let (mut answers, messages) = once(|| {
            let (messages, outgoing) = mpsc::channel(UNDER_WAY);
            let first = messages.try_send(start.clone());
            first.expect("a new channel has room for a message");
            let mut client = self.content().max_encoding_message_size(2 * MESSAGE);
            let request = self.leased(lease, ReceiverStream::new(outgoing));
            async move {
                let answers = client.write(request).await?;
                Ok(answers.map(|answers| (answers, messages)))
            }
        })
        .await?;
        let first = answers.message().await?;
        let first = first.ok_or_else(|| Status::internal("containerd ended the upload"))?;
        let mut draining = JoinSet::new();
        draining.spawn(drain(answers));
        Ok((messages, draining, first.offset))
    }
}

type Started = (mpsc::Sender<WriteContentRequest>, Draining, i64);

/// Reads answers, so that they don't pile up, until the end or an error.
async fn drain(mut answers: Streaming<WriteContentResponse>) -> Result<String, Status> {
    let mut digest = String::new();
    while let Some(answer) = answers.message().await? {
        digest = answer.digest;
    }
    Ok(digest)
}

fn to_wire(size: u64, attempt: &str) -> Result<i64, BackendError> {
    i64::try_from(size).map_err(|error| BackendError::caused(ErrorKind::Other, attempt, error))
}

#[async_trait]
impl BlobWriter for Upload {
    async fn append(&mut self, mut data: Bytes) -> Result<(), BackendError> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MESSAGE));
            let length = i64::try_from(piece.len()).unwrap_or(i64::MAX);
            let message = WriteContentRequest {
                action: WriteAction::Write.into(),
                offset: self.written,
                data: piece,
                ..Default::default()
            };
            if self.messages.send(message).await.is_err() {
                return Err(self.broken().await);
            }
            self.written += length;
            self.write_back();
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>, digest: Digest, size: u64) -> Result<(), BackendError> {
        let written = self.written.unsigned_abs();
        if written != size {
            let why = format!("{written} bytes instead of {size}");
            return Err(self.error(ErrorKind::Corrupt, why));
        }
        self.finish(&digest, size).await
    }
}

impl Upload {
    async fn finish(&mut self, digest: &Digest, size: u64) -> Result<(), BackendError> {
        let total = to_wire(size, &self.attempt)?;
        // Without the digest: containerd looks for a blob of that first and, where there is one, does not put it under
        // the lease, so that a collection may take it away. What was announced is still compared.
        let commit = WriteContentRequest {
            action: WriteAction::Commit.into(),
            r#ref: self.reference.clone(),
            total,
            offset: total,
            labels: self.labels.clone(),
            ..Default::default()
        };
        if self.messages.send(commit).await.is_err() {
            return Err(self.broken().await);
        }
        match self.ended().await {
            Ok(found) => {
                self.done = true;
                if found != digest.to_string() {
                    let why = format!("digest {found} instead of {digest}");
                    return Err(self.error(ErrorKind::Corrupt, why));
                }
            }
            Err(status) if status.code() == Code::AlreadyExists => {
                self.done = true;
                let labels = std::mem::take(&mut self.labels);
                self.scope.label(digest, labels).await?;
            }
            Err(status) if is_mismatch(&status) => {
                let words = status.message().to_owned();
                return Err(self.error(ErrorKind::Corrupt, words));
            }
            Err(status) => return Err(failed(&self.attempt, &status)),
        }
        Ok(())
    }

    /// containerd has not taken the newest bytes yet, so it is always the piece before that is written.
    fn write_back(&mut self) {
        let written = self.written.unsigned_abs();
        if written >= self.written_back + 2 * PIECE {
            let (scope, reference) = (self.scope.clone(), self.reference.clone());
            let begun = writeback::begin(scope, reference, self.written_back);
            self.scope.in_background(begun);
            self.written_back += PIECE;
        }
    }

    async fn ended(&mut self) -> Result<String, Status> {
        match self.answers.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(panic)) => Err(Status::internal(panic.to_string())),
            None => Err(Status::internal("containerd has ended the upload before")),
        }
    }

    /// Why containerd takes no more.
    async fn broken(&mut self) -> BackendError {
        match self.ended().await {
            Ok(_) => self.error(ErrorKind::Other, "containerd ended it in the middle"),
            Err(status) => failed(&self.attempt, &status),
        }
    }

    fn error(&self, kind: ErrorKind, why: impl Into<String>) -> BackendError {
        BackendError::caused(kind, &self.attempt, why.into())
    }
}

/// containerd's words for a blob that is not what was announced.
fn is_mismatch(status: &Status) -> bool {
    let words = status.message();
    status.code() == Code::FailedPrecondition
        && (words.contains("unexpected commit digest") || words.contains("unexpected commit size"))
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let (scope, reference) = (self.scope.clone(), std::mem::take(&mut self.reference));
        self.scope.in_background(abort(scope, reference));
    }
}

async fn abort(scope: Scope, reference: String) {
    let aborted = repeat(|| {
        let message = AbortRequest {
            r#ref: reference.clone(),
        };
        let (mut client, request) = (scope.content(), scope.request(message));
        async move { client.abort(request).await }
    });
    if let Err(status) = aborted.await
        && status.code() != Code::NotFound
    {
        tracing::warn!(reference, %status, "an upload stays until it expires");
    }
}
