//! The byte stream inside `Control.Session`, and the HTTP/2 server on it. Knows no service.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use shipway_proto::control::BytesMessage;
use shipway_proto::control::control_client::ControlClient;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::PollSender;
use tonic::metadata::{AsciiMetadataKey, MetadataValue};
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

/// Largest piece of the byte stream put into one message.
const PIECE: usize = 256 << 10;

/// Window of each stream inside the tunnel, as BuildKit's own client has it.
const WINDOW: u32 = 1 << 20;

/// Window of the whole tunnel. The library closes a connection on which small frames, such as requests for files, wait
/// unread for more than half of this, and counts each as a few hundred bytes.
const TUNNEL_WINDOW: u32 = 64 << 20;

type Opening = Pin<Box<dyn Future<Output = Result<Streaming<BytesMessage>, Status>> + Send>>;

enum Inbound {
    /// The daemon has not answered yet. What is sent goes out all the same.
    Opening(Opening),
    Open(Box<Streaming<BytesMessage>>),
}

impl Inbound {
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<BytesMessage>, Status>> {
        loop {
            match self {
                Self::Opening(opening) => {
                    *self = Self::Open(Box::new(ready!(opening.as_mut().poll(cx))?));
                }
                Self::Open(stream) => {
                    let next = futures::Stream::poll_next(Pin::new(&mut **stream), cx);
                    return next.map(Option::transpose);
                }
            }
        }
    }
}

/// How the daemon tells sessions apart. Both parts are plain ASCII.
#[derive(Debug, Clone)]
pub(crate) struct SessionName {
    /// Of this session alone.
    pub(crate) id: String,
    /// The same for every build of one directory: the daemon keeps a copy of it under this name.
    pub(crate) shared_key: String,
}

/// The session's byte stream.
pub(crate) struct Tunnel {
    inbound: Inbound,
    unread: Bytes,
    outbound: PollSender<BytesMessage>,
}

impl Tunnel {
    /// Opens a session that announces `methods`.
    pub(crate) fn open(
        mut control: ControlClient<Channel>,
        name: &SessionName,
        methods: &[&'static str],
    ) -> Self {
        let (sender, receiver) = mpsc::channel(4);
        let mut request = Request::new(ReceiverStream::new(receiver));
        let metadata = request.metadata_mut();
        for (key, value) in [
            ("x-docker-expose-session-uuid", &name.id),
            ("x-docker-expose-session-sharedkey", &name.shared_key),
        ] {
            if let Ok(value) = MetadataValue::try_from(value) {
                metadata.insert(key, value);
            }
        }
        let method_key = AsciiMetadataKey::from_static("x-docker-expose-session-grpc-method");
        for method in methods {
            metadata.append(method_key.clone(), MetadataValue::from_static(method));
        }
        let opening = async move { Ok(control.session(request).await?.into_inner()) };
        Self {
            inbound: Inbound::Opening(Box::pin(opening)),
            unread: Bytes::new(),
            outbound: PollSender::new(sender),
        }
    }

    /// Answers the daemon until it ends the session. Dropping the future ends it from this side.
    pub(crate) async fn serve(self, routes: Routes) -> Result<(), hyper::Error> {
        let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        server
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(TUNNEL_WINDOW)
            .max_frame_size(1 << 20)
            .max_concurrent_streams(250)
            .max_header_list_size(1 << 20)
            .max_send_buf_size(1 << 20);
        server
            .serve_connection(TokioIo::new(self), TowerToHyperService::new(routes))
            .await
    }
}

fn broken(status: &Status) -> io::Error {
    io::Error::other(format!("session stream: {}", status.message()))
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread.is_empty() {
            match ready!(this.inbound.poll_message(cx)).map_err(|status| broken(&status))? {
                Some(message) => this.unread = message.data,
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread[..n]);
        this.unread.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.outbound.poll_reserve(cx)).map_err(closed)?;
        let piece = &buf[..buf.len().min(PIECE)];
        let message = BytesMessage {
            data: Bytes::copy_from_slice(piece),
        };
        self.outbound.send_item(message).map_err(closed)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outbound.close();
        Poll::Ready(Ok(()))
    }
}
