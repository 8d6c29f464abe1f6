//! The HTTP/2 client on a tunnel, as the service that the generated gRPC clients call. It never reconnects: a session
//! that ended is over.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use shipway_proto::MESSAGE_LIMIT;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tower::Service;

use crate::tunnel::Tunnel;

/// Unread bytes that one call may have on the way: files travel fast, and a stalled reader costs little.
const STREAM_WINDOW: u32 = 2 << 20;
/// The same for all calls of a session.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Calls services of one session's client. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Channel {
    requests: http2::SendRequest<Body>,
}

/// What drives a channel's connection; resolves when the connection has ended.
pub(crate) type Connection = BoxFuture<'static, Result<(), hyper::Error>>;

/// Starts HTTP/2 on a tunnel.
pub(crate) async fn open(tunnel: Tunnel) -> Result<(Channel, Connection), hyper::Error> {
    let (requests, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(64 << 10)
        .max_header_list_size(u32::try_from(MESSAGE_LIMIT).unwrap_or(u32::MAX))
        .max_send_buf_size(1 << 20)
        .handshake(TokioIo::new(tunnel))
        .await?;
    Ok((Channel { requests }, Box::pin(connection)))
}

/// What calls are addressed to; the client looks at the path only.
pub(crate) fn origin() -> Uri {
    Uri::from_static("http://localhost")
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Response<Incoming>, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(Abort(token)) = request.extensions_mut().remove::<Abort>() {
            request = request.map(|body| {
                let aborted = Box::pin(token.cancelled_owned());
                Body::new(Abortable { body, aborted })
            });
        }
        Box::pin(self.requests.send_request(request))
    }
}

/// Extension of a request: when the token is cancelled, the request's stream is reset. Otherwise a request that stops in
/// the middle looks complete to the client.
#[derive(Clone)]
pub(crate) struct Abort(pub(crate) CancellationToken);

struct Abortable {
    body: Body,
    aborted: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl hyper::body::Body for Abortable {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        if self.aborted.as_mut().poll(cx).is_ready() {
            let aborted = io::Error::from(io::ErrorKind::ConnectionAborted);
            return Poll::Ready(Some(Err(tonic::Status::from_error(Box::new(aborted)))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
