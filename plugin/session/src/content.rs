//! Blobs in content stores that the client offers (`oci:<name>`, `local:<dir>`, `export`).

use futures::StreamExt as _;
use shipway_backend::{BackendError, ByteStream, ErrorKind};
use shipway_model::Digest;
use shipway_proto::MESSAGE_LIMIT;
use shipway_proto::content::content_client::ContentClient;
use shipway_proto::content::{InfoRequest, ReadContentRequest, WriteAction, WriteContentRequest};
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::channel::{Abort, Channel, origin};
use crate::client::Client;
use crate::error::malformed;
use crate::metadata::Options;
use crate::send::{until_broken, wrong_size};

impl Client {
    fn content(&self) -> ContentClient<Channel> {
        ContentClient::with_origin(self.channel(), origin())
            .max_decoding_message_size(MESSAGE_LIMIT)
    }

    /// Size of a blob.
    pub(crate) async fn stored_size(
        &self,
        store: &str,
        digest: &Digest,
    ) -> Result<u64, BackendError> {
        let attempt = format!("looking for {digest} in the client's store {store:?}");
        let message = InfoRequest {
            digest: digest.to_string(),
        };
        let request = request(store, message, &attempt)?;
        let answer = self.ask(&attempt, self.content().info(request)).await?;
        let size = answer.info.unwrap_or_default().size;
        u64::try_from(size).map_err(|_| malformed(attempt, "its size is negative"))
    }

    /// The bytes of a blob, as the client says that they are.
    pub(crate) async fn read_stored(
        &self,
        store: &str,
        digest: &Digest,
    ) -> Result<ByteStream, BackendError> {
        let attempt = format!("reading {digest} from the client's store {store:?}");
        let message = ReadContentRequest {
            digest: digest.to_string(),
            ..Default::default()
        };
        let request = request(store, message, &attempt)?;
        let answers = self
            .run(&attempt, self.content().read(request))
            .await?
            .into_inner();
        let state = (self.clone(), answers, attempt);
        let chunks = futures::stream::unfold(Some(state), |state| async {
            let (client, mut answers, attempt) = state?;
            match client.run(&attempt, answers.message()).await {
                Ok(answer) => Some((Ok(answer?.data), Some((client, answers, attempt)))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(chunks.boxed())
    }

    /// Writes a blob.
    pub(crate) async fn write_stored(
        &self,
        store: &str,
        digest: &Digest,
        size: u64,
        data: ByteStream,
    ) -> Result<(), BackendError> {
        let attempt = format!("writing {digest} to the client's store {store:?}");
        let total = i64::try_from(size).map_err(|_| malformed(attempt.clone(), "too large"))?;
        let (messages, broken) = write_messages(digest, total, data);
        let stop = CancellationToken::new();
        let _guard = stop.clone().drop_guard();
        let mut request = request(store, messages, &attempt)?;
        request.extensions_mut().insert(Abort(stop));
        let mut content = self.content();
        let call = async {
            let mut answers = content.write(request).await?.into_inner();
            let mut offset = 0;
            while let Some(answer) = answers.message().await? {
                offset = answer.offset;
            }
            Ok(offset)
        };
        let written = tokio::select! {
            biased;
            error = broken => Err(error),
            written = self.run(&attempt, call) => written,
        };
        match written {
            Ok(offset) if offset == total => Ok(()),
            Ok(offset) => Err(wrong_size(&attempt, size, offset.unsigned_abs())),
            Err(error) if error.kind == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// A blob as the messages of one write: what it will be, its data, the commit.
fn write_messages(
    digest: &Digest,
    total: i64,
    data: ByteStream,
) -> (
    impl futures::Stream<Item = WriteContentRequest> + Send + 'static,
    impl Future<Output = BackendError> + Send,
) {
    let of = move |action: WriteAction, digest: &str| WriteContentRequest {
        action: action.into(),
        r#ref: digest.to_owned(),
        total,
        expected: digest.to_owned(),
        ..Default::default()
    };
    let digest = digest.to_string();
    let first = of(WriteAction::Stat, &digest);
    let commit = WriteContentRequest {
        offset: total,
        ..of(WriteAction::Commit, &digest)
    };
    let (pieces, broken) = until_broken(data, |data| data);
    let mut offset = 0;
    let writes = pieces.map(move |data| {
        let at = offset;
        offset += i64::try_from(data.len()).unwrap_or(i64::MAX);
        WriteContentRequest {
            action: WriteAction::Write.into(),
            offset: at,
            data,
            ..Default::default()
        }
    });
    let messages = futures::stream::iter([first])
        .chain(writes)
        .chain(futures::stream::iter([commit]));
    (messages, broken)
}

fn request<T>(store: &str, message: T, attempt: &str) -> Result<Request<T>, BackendError> {
    let mut request = Request::new(message);
    *request.metadata_mut() = Options::default()
        .with("buildkit-attachable-store-id", [store])
        .into_map(attempt)?;
    Ok(request)
}
