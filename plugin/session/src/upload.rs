//! Streams that a client hands to its build under a URL of the host `buildkit-session`, such as a context on its standard
//! input. A stream can be read once; it decides nothing about what is in it.

use futures::StreamExt as _;
use shipway_backend::{BackendError, ByteStream};
use shipway_proto::MESSAGE_LIMIT;
use shipway_proto::upload::BytesMessage;
use shipway_proto::upload::upload_client::UploadClient;
use tonic::Request;

use crate::channel::origin;
use crate::client::Client;
use crate::metadata::Options;

impl Client {
    /// The stream behind a path of a host.
    pub(crate) async fn pull_stream(
        &self,
        host: &str,
        path: &str,
    ) -> Result<ByteStream, BackendError> {
        let attempt = format!("pulling {path} from the client");
        self.require("/moby.upload.v1.Upload/Pull", &attempt)?;
        // The client only sends. The call stays open for as long as it does.
        let mut request = Request::new(futures::stream::pending::<BytesMessage>());
        *request.metadata_mut() = Options::default()
            .with("urlpath", [path])
            .with("urlhost", [host])
            .into_map(&attempt)?;
        let mut uploads = UploadClient::with_origin(self.channel(), origin())
            .max_decoding_message_size(MESSAGE_LIMIT);
        let answers = self
            .run(&attempt, uploads.pull(request))
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
}
