//! OCI layouts of this machine as content stores for the daemon: contexts to read, caches to read and write, images to
//! write. Decides nothing about manifests; a blob is kept only if its digest is right.

mod store;
mod writing;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use shipway_proto::content as wire;
use shipway_proto::content::content_server;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

pub(crate) use store::Store;

use super::headers;

/// The calls that the daemon is told about.
pub(super) const METHODS: [&str; 9] = [
    "/containerd.services.content.v1.Content/Info",
    "/containerd.services.content.v1.Content/Update",
    "/containerd.services.content.v1.Content/List",
    "/containerd.services.content.v1.Content/Delete",
    "/containerd.services.content.v1.Content/Read",
    "/containerd.services.content.v1.Content/Status",
    "/containerd.services.content.v1.Content/ListStatuses",
    "/containerd.services.content.v1.Content/Write",
    "/containerd.services.content.v1.Content/Abort",
];

/// Largest piece of a blob in one message, in bytes.
const PIECE: usize = 1 << 20;

/// The content service.
#[derive(Debug)]
pub(crate) struct Stores {
    by_name: BTreeMap<String, Arc<Store>>,
    tasks: TaskTracker,
}

impl Stores {
    pub(crate) fn new(stores: Vec<(String, Arc<Store>)>) -> Self {
        Self {
            by_name: stores.into_iter().collect(),
            tasks: TaskTracker::new(),
        }
    }

    fn choose(&self, metadata: &MetadataMap) -> Result<Arc<Store>, Status> {
        let key = "buildkit-attachable-store-id";
        let missing = || Status::invalid_argument(format!("request lacks metadata {key:?}"));
        let name = headers::value(metadata, key).ok_or_else(missing)?;
        let store = self.by_name.get(&name).cloned();
        store.ok_or_else(|| Status::not_found(format!("unknown store {name}")))
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl content_server::Content for Stores {
    type ListStream = Answers<wire::ListContentResponse>;
    type ReadStream = Answers<wire::ReadContentResponse>;
    type WriteStream = Answers<wire::WriteContentResponse>;

    async fn info(
        &self,
        request: Request<wire::InfoRequest>,
    ) -> Result<Response<wire::InfoResponse>, Status> {
        let store = self.choose(request.metadata())?;
        let info = store.info(&request.get_ref().digest)?;
        Ok(Response::new(wire::InfoResponse { info: Some(info) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateRequest>,
    ) -> Result<Response<wire::UpdateResponse>, Status> {
        // Labels are the daemon's bookkeeping for a store that it collects; nobody collects this one.
        let store = self.choose(request.metadata())?;
        let digest = request.into_inner().info.unwrap_or_default().digest;
        Ok(Response::new(wire::UpdateResponse {
            info: Some(store.info(&digest)?),
        }))
    }

    async fn list(
        &self,
        request: Request<wire::ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let store = self.choose(request.metadata())?;
        if request
            .get_ref()
            .filters
            .iter()
            .any(|filter| !filter.is_empty())
        {
            return Err(Status::unimplemented("filters on a local layout"));
        }
        let all = wire::ListContentResponse {
            info: store.list()?,
        };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(all)))))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteContentRequest>,
    ) -> Result<Response<()>, Status> {
        let store = self.choose(request.metadata())?;
        store.delete(&request.get_ref().digest)?;
        Ok(Response::new(()))
    }

    async fn read(
        &self,
        request: Request<wire::ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let store = self.choose(request.metadata())?;
        let request = request.into_inner();
        let mut reader = store.reader(&request.digest, request.offset, request.size)?;
        let (sender, pieces) = mpsc::channel(4);
        self.tasks.spawn_blocking(move || {
            while let Some(piece) = reader.next(PIECE).transpose() {
                let piece = piece.map(|(offset, data)| wire::ReadContentResponse {
                    offset,
                    data: Bytes::from(data),
                });
                if sender.blocking_send(piece).is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(pieces))))
    }

    async fn status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, Status> {
        let store = self.choose(request.metadata())?;
        let status = store.status(&request.get_ref().r#ref)?;
        Ok(Response::new(wire::StatusResponse {
            status: Some(status),
        }))
    }

    async fn list_statuses(
        &self,
        request: Request<wire::ListStatusesRequest>,
    ) -> Result<Response<wire::ListStatusesResponse>, Status> {
        let store = self.choose(request.metadata())?;
        Ok(Response::new(wire::ListStatusesResponse {
            statuses: store.statuses(),
        }))
    }

    async fn write(
        &self,
        request: Request<Streaming<wire::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let store = self.choose(request.metadata())?;
        let (answers, stream) = mpsc::channel(4);
        self.tasks
            .spawn(writing::serve(store, request.into_inner(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn abort(&self, request: Request<wire::AbortRequest>) -> Result<Response<()>, Status> {
        let store = self.choose(request.metadata())?;
        store.abort(&request.get_ref().r#ref)?;
        Ok(Response::new(()))
    }
}
