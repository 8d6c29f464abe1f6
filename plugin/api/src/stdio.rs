//! Serves the bridge to one frontend on its standard streams: HTTP/2 over whatever bytes the process reads and writes. It
//! decides nothing about the frontend's life beyond noticing that it can't be heard any more.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt as _;
use shipway_backend::Namespace;
use shipway_backend::session::Duplex;
use shipway_build::{BridgeServer, Caller};
use shipway_model::Failure;
use shipway_proto::MESSAGE_LIMIT;
use shipway_proto::gateway::llb_bridge_server::LlbBridgeServer;
use shipway_proto::health::health_server::HealthServer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::Workers;
use crate::bridge::BridgeService;
use crate::health::HealthService;

/// How often a silent frontend is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long it may take to answer that.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(30);

/// Serves frontends in containers.
pub struct StdioBridge(pub Workers);

/// A frontend's streams; the token fires when the connection is over.
struct Connection {
    stream: Box<dyn Duplex>,
    _over: DropGuard,
}

#[tonic::async_trait]
impl BridgeServer for StdioBridge {
    async fn serve(&self, caller: Caller, stream: Box<dyn Duplex>) -> Result<(), Failure> {
        let over = CancellationToken::new();
        let connection = Connection {
            stream,
            _over: over.clone().drop_guard(),
        };
        let bridge = LlbBridgeServer::new(BridgeService::of_frontend(caller, self.0.clone()))
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT);
        let routes = Routes::new(bridge).add_service(HealthServer::new(HealthService));
        let only = futures::stream::iter([Ok::<_, io::Error>(connection)]);
        let served = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
            .add_routes(routes)
            .serve_with_incoming_shutdown(
                only.chain(futures::stream::pending()),
                over.cancelled_owned(),
            );
        served
            .await
            .map_err(|e| Failure::from_error(&e).context("serving the bridge to a frontend"))
    }

    async fn workers(&self, namespace: &Namespace) -> Result<String, Failure> {
        let json = self.0.json(&namespace.name).await;
        json.map_err(|status| Failure::new(status.message()))
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
