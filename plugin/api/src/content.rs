//! The content store of a namespace, and behind it that of its history, read only: clients read attestations and the blobs
//! of records through it.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use shipway_backend::{BackendError, BlobInfo, Namespace};
use shipway_model::Digest;
use shipway_proto::content as wire;
use shipway_proto::content::content_server::Content;
use tonic::{Request, Response, Status, Streaming};

pub(crate) struct ContentService {
    /// Looked at first.
    pub(crate) own: Namespace,
    /// Blobs of records.
    pub(crate) history: Namespace,
}

impl ContentService {
    /// Where a blob is, and what is known of it.
    async fn find(&self, digest: &Digest) -> Result<(&Namespace, BlobInfo), Status> {
        for place in [&self.own, &self.history] {
            if let Some(info) = place.blobs.info(digest).await.map_err(failed)? {
                return Ok((place, info));
            }
        }
        Err(Status::not_found(format!("content {digest}: not found")))
    }
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

fn read_only<T>() -> Result<T, Status> {
    Err(Status::permission_denied("read-only content store"))
}

fn digest(text: &str) -> Result<Digest, Status> {
    text.parse()
        .map_err(|e: shipway_model::digest::InvalidDigest| Status::invalid_argument(e.to_string()))
}

fn failed(error: BackendError) -> Status {
    crate::wire::failure::to_status(&error.into())
}

#[tonic::async_trait]
impl Content for ContentService {
    async fn info(
        &self,
        request: Request<wire::InfoRequest>,
    ) -> Result<Response<wire::InfoResponse>, Status> {
        let name = request.into_inner().digest;
        let (_, info) = self.find(&digest(&name)?).await?;
        let info = wire::Info {
            digest: name,
            size: info.size.cast_signed(),
            labels: info.labels,
            ..wire::Info::default()
        };
        Ok(Response::new(wire::InfoResponse { info: Some(info) }))
    }

    async fn update(
        &self,
        _request: Request<wire::UpdateRequest>,
    ) -> Result<Response<wire::UpdateResponse>, Status> {
        read_only()
    }

    type ListStream = Answers<wire::ListContentResponse>;

    async fn list(
        &self,
        _request: Request<wire::ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        Err(Status::unimplemented(
            "listing content: ask containerd itself",
        ))
    }

    async fn delete(
        &self,
        _request: Request<wire::DeleteContentRequest>,
    ) -> Result<Response<()>, Status> {
        read_only()
    }

    type ReadStream = Answers<wire::ReadContentResponse>;

    async fn read(
        &self,
        request: Request<wire::ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let offset = u64::try_from(request.offset)
            .map_err(|_| Status::out_of_range("the offset is negative"))?;
        let wanted = digest(&request.digest)?;
        let (place, _) = self.find(&wanted).await?;
        let data = place.blobs.open(&wanted, offset).await.map_err(failed)?;
        let mut left = match u64::try_from(request.size) {
            Ok(0) | Err(_) => u64::MAX,
            Ok(size) => size,
        };
        let mut at = request.offset;
        let answers = data.map(move |chunk| {
            let chunk = chunk.map_err(failed)?;
            let taken = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            left -= taken as u64;
            let answer = wire::ReadContentResponse {
                offset: at,
                data: chunk.slice(..taken),
            };
            at += i64::try_from(taken).unwrap_or(i64::MAX);
            Ok(answer)
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn status(
        &self,
        _request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, Status> {
        read_only()
    }

    async fn list_statuses(
        &self,
        _request: Request<wire::ListStatusesRequest>,
    ) -> Result<Response<wire::ListStatusesResponse>, Status> {
        Ok(Response::new(wire::ListStatusesResponse::default()))
    }

    type WriteStream = Answers<wire::WriteContentResponse>;

    async fn write(
        &self,
        _request: Request<Streaming<wire::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        read_only()
    }

    async fn abort(&self, _request: Request<wire::AbortRequest>) -> Result<Response<()>, Status> {
        read_only()
    }
}
