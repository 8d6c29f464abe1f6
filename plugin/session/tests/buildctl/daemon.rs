//! A daemon with sessions and nothing else.

use std::convert::Infallible;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, pending};
use futures::stream::{BoxStream, StreamExt as _};
use shipway_backend::{Session, Sessions as _};
use shipway_proto::control::control_server::{Control, ControlServer};
use shipway_proto::control::{
    self as wire, BytesMessage, SolveRequest, SolveResponse, StatusRequest, StatusResponse,
};
use shipway_session::SessionHub;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tonic::server::NamedService;
use tonic::{Request, Response, Status, Streaming};

/// A session, and what lets its client go when dropped.
type Solved = (Arc<dyn Session>, oneshot::Sender<()>);

struct Daemon {
    hub: Arc<SessionHub>,
    solved: mpsc::UnboundedSender<Solved>,
}

type Answer<T> = Result<Response<T>, Status>;

fn no<T>() -> Answer<T> {
    Err(Status::unimplemented("not in this test"))
}

#[tonic::async_trait]
impl Control for Daemon {
    type PruneStream = BoxStream<'static, Result<wire::UsageRecord, Status>>;
    type StatusStream = BoxStream<'static, Result<StatusResponse, Status>>;
    type SessionStream = BoxStream<'static, Result<BytesMessage, Status>>;
    type ListenBuildHistoryStream = BoxStream<'static, Result<wire::BuildHistoryEvent, Status>>;

    async fn solve(&self, request: Request<SolveRequest>) -> Answer<SolveResponse> {
        let id = request.into_inner().session;
        let patience = Duration::from_secs(5);
        let session = self.hub.get(&id, patience).await.unwrap();
        let (done, ended) = oneshot::channel();
        self.solved.send((session, done)).unwrap();
        let _dropped = ended.await;
        Err(Status::unknown("the test is over"))
    }

    async fn session(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Answer<Self::SessionStream> {
        let headers = request.metadata().clone().into_headers();
        let inbound = request.into_inner().map(|message| message.map(|m| m.data));
        let outbound = self.hub.attach(&headers, inbound).unwrap();
        let messages = outbound.map(|data| Ok(BytesMessage { data }));
        Ok(Response::new(messages.boxed()))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Answer<Self::StatusStream> {
        Ok(Response::new(futures::stream::pending().boxed()))
    }

    async fn list_workers(
        &self,
        _: Request<wire::ListWorkersRequest>,
    ) -> Answer<wire::ListWorkersResponse> {
        Ok(Response::new(wire::ListWorkersResponse::default()))
    }

    async fn disk_usage(
        &self,
        _: Request<wire::DiskUsageRequest>,
    ) -> Answer<wire::DiskUsageResponse> {
        no()
    }

    async fn prune(&self, _: Request<wire::PruneRequest>) -> Answer<Self::PruneStream> {
        no()
    }

    async fn info(&self, _: Request<wire::InfoRequest>) -> Answer<wire::InfoResponse> {
        no()
    }

    async fn listen_build_history(
        &self,
        _: Request<wire::BuildHistoryRequest>,
    ) -> Answer<Self::ListenBuildHistoryStream> {
        no()
    }

    async fn update_build_history(
        &self,
        _: Request<wire::UpdateBuildHistoryRequest>,
    ) -> Answer<wire::UpdateBuildHistoryResponse> {
        no()
    }
}

/// Answers nothing, so that the client keeps waiting.
#[derive(Clone)]
struct SilentBridge;

impl NamedService for SilentBridge {
    const NAME: &'static str = "moby.buildkit.v1.frontend.LLBBridge";
}

impl<B> tower::Service<http::Request<B>> for SilentBridge {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<B>) -> Self::Future {
        Box::pin(pending())
    }
}

/// Runs `buildctl build` with these arguments and a test on its session.
pub(crate) async fn with_client(
    args: &[&str],
    env: &[(&str, &str)],
    test: impl AsyncFnOnce(Arc<dyn Session>),
) {
    run(args, env, pending(), test).await;
}

/// The same; the client is killed when `killed` resolves.
pub(crate) async fn with_killed_client(
    args: &[&str],
    killed: oneshot::Receiver<()>,
    test: impl AsyncFnOnce(Arc<dyn Session>),
) {
    let killed = async {
        killed.await.unwrap();
    };
    run(args, &[], killed, test).await;
}

async fn run(
    args: &[&str],
    env: &[(&str, &str)],
    killed: impl Future<Output = ()>,
    test: impl AsyncFnOnce(Arc<dyn Session>),
) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    let hub = SessionHub::new();
    let (solved, mut sessions) = mpsc::unbounded_channel();
    let mut server = JoinSet::new();
    // Bound before the client starts.
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    server.spawn(serve(hub.clone(), solved, listener));
    let output = Arc::new(Mutex::new(String::new()));
    let client = async {
        let mut child = buildctl(args, env, &socket, dir.path());
        tokio::select! {
            output = child.wait() => drop(output),
            () = killed => {
                child.kill().await.unwrap();
                pending::<()>().await;
            }
        }
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        *output.lock().unwrap() = log;
    };
    let tested = async {
        let (session, done) = sessions.recv().await.expect("the daemon lives");
        test(session).await;
        drop(done);
    };
    let mut client = std::pin::pin!(client);
    tokio::select! {
        () = tested => {}
        () = &mut client => panic!("buildctl ended early: {}", output.lock().unwrap()),
    }
    server.shutdown().await;
    hub.close().await;
}

async fn serve(
    hub: Arc<SessionHub>,
    solved: mpsc::UnboundedSender<Solved>,
    listener: tokio::net::UnixListener,
) {
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    tonic::transport::Server::builder()
        .add_service(ControlServer::new(Daemon { hub, solved }))
        .add_service(SilentBridge)
        .serve_with_incoming(incoming)
        .await
        .unwrap();
}

fn buildctl(
    args: &[&str],
    env: &[(&str, &str)],
    socket: &Path,
    dir: &Path,
) -> tokio::process::Child {
    let log = std::fs::File::create(dir.join("log")).unwrap();
    tokio::process::Command::new("buildctl")
        .arg(format!("--addr=unix://{}", socket.display()))
        .args(["build", "--frontend=x", "--progress=plain"])
        .args(args)
        .env("DOCKER_CONFIG", dir)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("buildctl is in PATH")
}
