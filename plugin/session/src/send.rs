//! Sends one stream of bytes to an exporter of the client, which then says whether it has it all.

use std::collections::BTreeMap;
use std::future::pending;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use shipway_backend::{BackendError, ByteStream, ErrorKind};
use shipway_proto::filesync::BytesMessage;
use shipway_proto::filesync::file_send_client::FileSendClient;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::channel::{Abort, origin};
use crate::client::Client;
use crate::metadata::Options;

/// What a client must offer to take exports.
pub(crate) const METHOD: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// Largest message; clients take 16 MiB, and 1 MiB fills their window.
const MESSAGE: usize = 1 << 20;

impl Client {
    /// Sends `data`; done when the client has said so.
    pub(crate) async fn send_bytes(
        &self,
        exporter: usize,
        metadata: &BTreeMap<String, String>,
        data: ByteStream,
    ) -> Result<(), BackendError> {
        let attempt = "sending the result to the client";
        self.require(METHOD, attempt)?;
        let mut options = exporter_options(exporter);
        for (key, value) in metadata {
            options = options.with_free(&format!("exporter-md-{key}"), value);
        }
        let stop = CancellationToken::new();
        let _guard = stop.clone().drop_guard();
        let (messages, broken) = until_broken(data, |data| BytesMessage { data });
        let mut request = Request::new(messages);
        *request.metadata_mut() = options.into_map(attempt)?;
        request.extensions_mut().insert(Abort(stop));
        let mut client = FileSendClient::with_origin(self.channel(), origin());
        let call = async {
            let mut answers = client.diff_copy(request).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok(())
        };
        tokio::select! {
            biased;
            error = broken => Err(error),
            sent = self.run(attempt, call) => sent,
        }
    }
}

/// The metadata that names an exporter.
pub(crate) fn exporter_options(exporter: usize) -> Options {
    let index = exporter.to_string();
    Options::default().with("buildkit-attachable-exporter-id", [index.as_str()])
}

/// Messages made of a stream's chunks, and what resolves when the stream breaks. A broken stream of messages never ends:
/// an end would tell the other side that everything has arrived.
pub(crate) fn until_broken<M: Send + 'static>(
    data: ByteStream,
    message: impl Fn(Bytes) -> M + Send + Clone + 'static,
) -> (
    impl Stream<Item = M> + Send + 'static,
    impl Future<Output = BackendError> + Send,
) {
    let (report, broken) = oneshot::channel();
    let whole = futures::stream::unfold((data, Some(report)), |(mut data, mut report)| async {
        match data.next().await? {
            Ok(chunk) => Some((chunk, (data, report))),
            Err(error) => {
                if let Some(report) = report.take() {
                    // Nobody listens where the call has failed already.
                    let _unheard: Result<(), BackendError> = report.send(error);
                }
                pending().await
            }
        }
    });
    let messages = whole.flat_map(move |chunk| {
        let message = message.clone();
        futures::stream::iter(pieces(chunk)).map(message)
    });
    let broken = async {
        match broken.await {
            Ok(error) => error,
            Err(_) => pending().await,
        }
    };
    (messages, broken)
}

fn pieces(mut chunk: Bytes) -> impl Iterator<Item = Bytes> + Send {
    std::iter::from_fn(move || {
        let count = chunk.len().min(MESSAGE);
        (count > 0).then(|| chunk.split_to(count))
    })
}

/// An error where a stream of known size is longer or shorter.
pub(crate) fn wrong_size(attempt: &str, expected: u64, found: u64) -> BackendError {
    BackendError::caused(
        ErrorKind::Corrupt,
        attempt,
        format!("{found} bytes instead of {expected}"),
    )
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn chunks_are_cut_to_what_a_message_holds_and_none_is_empty() {
        let chunks = [Bytes::new(), Bytes::from(vec![1; MESSAGE + 1]), "x".into()];
        let data = futures::stream::iter(chunks.map(Ok)).boxed();
        let (messages, _broken) = until_broken(data, |data| data.len());
        assert_eq!(messages.collect::<Vec<_>>().await, [MESSAGE, 1, 1]);
    }

    #[tokio::test]
    async fn a_broken_stream_does_not_end_but_is_reported() {
        let broken = || BackendError::new(ErrorKind::Other, "reading");
        let data = futures::stream::iter([Ok("a".into()), Err(broken())]).boxed();
        let (messages, broken) = until_broken(data, |data| data);
        let mut messages = std::pin::pin!(messages);
        assert_eq!(messages.next().await.unwrap(), "a");
        assert!(messages.next().now_or_never().is_none());
        assert_eq!(broken.await.to_string(), "reading");
    }
}
