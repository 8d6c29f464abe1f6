//! Receives what exporters send: byte streams for files and standard output, packets for directories. One call carries
//! either, depending on the exporter it names, so messages are taken undecoded here.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes};
use futures::Stream;
use futures::future::BoxFuture;
use prost::Message as _;
use shipway_proto::MESSAGE_LIMIT;
use shipway_proto::filesync::BytesMessage;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use super::{headers, receive};
use crate::build::plan::{DirectoryMode, Export, Sink};

/// The export service.
#[derive(Debug, Clone)]
pub(crate) struct FileSend {
    exports: Arc<Vec<Export>>,
    tasks: TaskTracker,
}

impl FileSend {
    pub(crate) fn new(exports: Vec<Export>) -> Self {
        Self {
            exports: Arc::new(exports),
            tasks: TaskTracker::new(),
        }
    }
}

/// Messages as they come: what is in them depends on the call's metadata.
#[derive(Debug, Default, Clone, Copy)]
struct Undecoded;

impl Codec for Undecoded {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Undecoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Undecoded {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

impl NamedService for FileSend {
    const NAME: &'static str = "moby.filesync.v1.FileSend";
}

impl tower::Service<http::Request<Body>> for FileSend {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let limit = Some(MESSAGE_LIMIT);
            let mut grpc = Grpc::new(Undecoded).apply_max_message_size_config(limit, limit);
            Ok(grpc.streaming(service, request).await)
        })
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

impl StreamingService<Bytes> for FileSend {
    type Response = Bytes;
    type ResponseStream = Answers;
    type Future = BoxFuture<'static, Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { service.receive(request).await.map(Response::new) })
    }
}

impl FileSend {
    async fn receive(&self, request: Request<Streaming<Bytes>>) -> Result<Answers, Status> {
        let metadata = request.metadata();
        let id = headers::value(metadata, "buildkit-attachable-exporter-id");
        let id: usize = id.and_then(|id| id.parse().ok()).unwrap_or(0);
        let multi_platform =
            headers::value(metadata, "buildkit-exporter-multi-platform").as_deref() == Some("1");
        let missing = || Status::unknown(format!("exporter {id} not found"));
        match &self.exports.get(id).ok_or_else(missing)?.sink {
            Sink::Directory(_, DirectoryMode::Delete) if !multi_platform => Err(Status::unknown(
                "local exporter mode=delete requires a daemon with multi-platform local export support",
            )),
            Sink::Directory(path, mode) => {
                let receiving = receive::into_directory(path, *mode, request.into_inner());
                let (answers, task) = receiving?;
                self.tasks.spawn(task);
                Ok(Box::pin(answers))
            }
            Sink::Stdout => {
                copy(request.into_inner(), tokio::io::stdout(), Path::new("-")).await?;
                Ok(Box::pin(futures::stream::empty()))
            }
            Sink::File(path) => {
                receive_file(request.into_inner(), path).await?;
                Ok(Box::pin(futures::stream::empty()))
            }
            Sink::Daemon | Sink::Store(_) => Err(missing()),
        }
    }
}

async fn copy(
    mut from: Streaming<Bytes>,
    mut to: impl AsyncWrite + Unpin,
    path: &Path,
) -> Result<(), Status> {
    let failed =
        |error: std::io::Error| Status::unknown(format!("writing {}: {error}", path.display()));
    while let Some(message) = from.message().await? {
        let message = BytesMessage::decode(message)
            .map_err(|error| Status::invalid_argument(format!("export message: {error}")))?;
        to.write_all(&message.data).await.map_err(failed)?;
    }
    to.flush().await.map_err(failed)?;
    to.shutdown().await.map_err(failed)
}

/// Writes a file beside its final name and renames it there once it is whole. Pipes and devices are written in place.
async fn receive_file(from: Streaming<Bytes>, path: &Path) -> Result<(), Status> {
    let failed = |doing: &str, path: &Path, error: std::io::Error| {
        Status::unknown(format!("{doing} {}: {error}", path.display()))
    };
    let in_place = tokio::fs::metadata(path)
        .await
        .is_ok_and(|meta| !meta.is_file());
    if in_place {
        let file = tokio::fs::OpenOptions::new().write(true).open(path).await;
        return copy(from, file.map_err(|e| failed("opening", path, e))?, path).await;
    }
    let part = part_of(path);
    let file = tokio::fs::File::create(&part)
        .await
        .map_err(|e| failed("creating", &part, e))?;
    let copied = copy(from, file, &part).await;
    let done = match copied {
        Ok(()) => tokio::fs::rename(&part, path)
            .await
            .map_err(|e| failed("renaming to", path, e)),
        Err(status) => Err(status),
    };
    if done.is_err() {
        // The part is of no use; what went wrong is reported above.
        let _left = tokio::fs::remove_file(&part).await;
    }
    done
}

fn part_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.part", uuid::Uuid::new_v4().simple()))
}
