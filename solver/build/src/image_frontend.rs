//! Runs a frontend from an image: fetches it, starts it as a process of the build's task, has the bridge served on its
//! standard streams, and takes its answer. Whatever happens to the process, the request ends.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use shipway_backend::session::Duplex;
use shipway_backend::{Exit, Namespace, Process, StepIo};
use shipway_frontend::gateway::{self, FrontendProcess, METADATA_FILE, Surroundings};
use shipway_frontend::{Bridge, FrontendRequest, FrontendResult, ResolveRequest};
use shipway_layers::Snapshot;
use shipway_model::op::{ContentCache, Mount, MountKind};
use shipway_model::progress::{Event, Log, Sink};
use shipway_model::{Digest, Failure, FailureDetail, ImageRef};
use shipway_ops::{Container, ContainerRequest, ProcessRequest};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::conversation::{Answer, Conversation};
use crate::job::{Build, unique};
use crate::pipe;
use crate::scope::Scope;
use crate::scoped::Scoped;
use crate::vertex::PseudoVertex;

/// How long a frontend may take to its first call.
const FIRST_CALL: Duration = Duration::from_secs(120);

/// How long a frontend may say nothing while nothing is being done for it.
const SILENCE: Duration = Duration::from_secs(600);

/// How long a frontend may linger when it has answered or hung up.
const LINGER: Duration = Duration::from_secs(20);

/// Who speaks over the bridge, and in which build.
#[derive(Clone)]
pub struct Caller {
    /// The build.
    pub build: Arc<Build>,
    /// The conversation.
    pub conversation: Arc<Conversation>,
}

impl Caller {
    /// The build as this caller sees it: what it asks is noted as asked by it.
    #[must_use]
    pub fn bridge(&self) -> Arc<dyn Bridge> {
        let scope = Arc::clone(self.conversation.scope());
        Arc::new(Scoped::new(Arc::clone(&self.build), scope))
    }
}

/// Speaks the bridge's protocol.
#[async_trait]
pub trait BridgeServer: Send + Sync {
    /// Answers a frontend's calls until its stream ends, or it can't be heard any more.
    async fn serve(&self, caller: Caller, stream: Box<dyn Duplex>) -> Result<(), Failure>;
    /// The workers' records as frontends are told them: a JSON list.
    async fn workers(&self, namespace: &Namespace) -> Result<String, Failure>;
}

/// A frontend that is ready to be started.
struct Frontend {
    name: String,
    root: Snapshot,
    process: FrontendProcess,
    /// The graph of its image, marshalled.
    metadata: Vec<u8>,
}

impl Build {
    /// Has the frontend of an image solve a request.
    pub(crate) async fn image_frontend(
        self: &Arc<Self>,
        request: FrontendRequest,
        scope: &Arc<Scope>,
    ) -> Result<FrontendResult, Failure> {
        let image = gateway::source(&request.options, &self.parts.settings.frontends)?;
        let frontend = self.fetch_frontend(&image, &request, scope).await?;
        let conversation = Conversation::new(request.inputs, Arc::clone(scope));
        let stop = self.cancelled().child_token();
        // Whoever asked may go away; the frontend is ended in order all the same.
        let on_drop = stop.clone().drop_guard();
        let (reply, outcome) = oneshot::channel();
        let build = Arc::clone(self);
        self.tasks.spawn(async move {
            let answer = build.run_frontend(frontend, &conversation, stop).await;
            conversation.close().await;
            drop(reply.send(answer));
        });
        let answer = outcome.await;
        on_drop.disarm();
        answer.unwrap_or_else(|_| Err(Failure::new("the frontend ended without an answer")))
    }

    async fn fetch_frontend(
        self: &Arc<Self>,
        image: &ImageRef,
        request: &FrontendRequest,
        scope: &Arc<Scope>,
    ) -> Result<Frontend, Failure> {
        let name = image.to_string();
        let asked = ResolveRequest {
            reference: name.clone(),
            log_name: format!("resolve image config for docker-image://{name}"),
            ..ResolveRequest::default()
        };
        let resolved = self.look_up(asked, scope).await?;
        let workers = self.parts.bridge.workers(&self.ops.env.namespace).await?;
        let around = Surroundings {
            session: &self.session,
            workers: &workers,
            has_inputs: !request.inputs.is_empty(),
        };
        let process = gateway::process(&resolved.config, &request.options, around)?;
        let pinned: ImageRef = resolved
            .reference
            .parse()
            .map_err(|e: shipway_model::reference::InvalidReference| Failure::from_error(&e))?;
        let definition = gateway::definition(&pinned, &resolved.digest);
        let definition = definition.map_err(|e| Failure::from_error(&e))?;
        let metadata = shipway_llb::encode_bytes(&definition);
        let solved = self.add_ref(definition, scope)?;
        let solved =
            solved.ok_or_else(|| Failure::new("gateway source didn't return default result"))?;
        let root = self.value(&solved.id).await?;
        Ok(Frontend {
            name,
            root,
            process,
            metadata,
        })
    }

    async fn run_frontend(
        self: &Arc<Self>,
        frontend: Frontend,
        conversation: &Arc<Conversation>,
        stop: CancellationToken,
    ) -> Answer {
        let Frontend {
            name,
            root,
            process,
            metadata,
        } = frontend;
        let request = ContainerRequest {
            mounts: vec![(root_mount(), Some(root))],
            files: vec![(METADATA_FILE.into(), metadata)],
            network: process.network,
            ..ContainerRequest::default()
        };
        let ops = Arc::clone(&self.ops);
        let sessions = vec![self.session.as_str().into()];
        let container = Container::prepare(ops, request, sessions, stop.clone()).await?;
        let request = ProcessRequest {
            args: process.args,
            env: process.env,
            cwd: process.cwd,
            remove_mount_stubs_recursive: true,
            ..ProcessRequest::default()
        };
        let spoken = self
            .speak(&name, &container, request, conversation, stop)
            .await;
        if let Err(error) = container.release().await {
            tracing::warn!(frontend = name, %error, "ending a frontend's container");
        }
        let answer = conversation.answer();
        // A failure that the frontend reports counts more than its exit, and that more than its result.
        match (answer, spoken) {
            (Some(Err(failure)), _) => Err(failure),
            (_, Err(failure)) => Err(failure.context(format!("frontend {name}"))),
            (Some(Ok(result)), Ok(())) => Ok(result),
            (None, Ok(())) => Err(Failure::new(format!(
                "frontend {name}: no result for incomplete build"
            ))),
        }
    }

    /// Starts the process and speaks with it until it is gone.
    async fn speak(
        self: &Arc<Self>,
        name: &str,
        container: &Container,
        request: ProcessRequest,
        conversation: &Arc<Conversation>,
        stop: CancellationToken,
    ) -> Result<(), Failure> {
        let args = request.args.join(" ");
        let (io, stream, stderr) = streams();
        let process = container.start(request, io).await?;
        let mut beside = JoinSet::new();
        let sink = Arc::clone(self.progress()) as Arc<dyn Sink>;
        beside.spawn(show(format!("[frontend] {name}"), sink, stderr));
        let caller = Caller {
            build: Arc::clone(self),
            conversation: Arc::clone(conversation),
        };
        let bridge = Arc::clone(&self.parts.bridge);
        let serving = bridge.serve(caller, Box::new(stream));
        let exit = supervise(&*process, serving, conversation, stop).await?;
        while beside.join_next().await.is_some() {}
        if exit.code == 0 {
            return Ok(());
        }
        let message = format!(
            "process {args:?} did not complete successfully: exit code: {}",
            exit.code
        );
        Err(Failure::new(message).with(FailureDetail::Exit(exit.code)))
    }
}

/// Serves a frontend until its process is gone; ends it where it has no business to go on.
async fn supervise(
    process: &dyn Process,
    serving: impl Future<Output = Result<(), Failure>>,
    conversation: &Conversation,
    stop: CancellationToken,
) -> Result<Exit, Failure> {
    let ended = async {
        tokio::select! {
            served = serving => match served {
                Ok(()) => Ok("frontend grpc server closed unexpectedly".to_owned()),
                Err(failure) => Ok(failure.message.to_string()),
            },
            () = conversation.silence(FIRST_CALL, SILENCE) => {
                Err(Failure::new("it neither ends nor asks for anything"))
            }
            () = stop.cancelled() => Err(Failure::cancelled()),
        }
    };
    let why = tokio::select! {
        exit = process.wait() => return Ok(exit?),
        ended = ended => ended,
    };
    // It has hung up, and usually ends by itself.
    let lingering = tokio::time::timeout(LINGER, process.wait());
    if let Ok(why) = &why {
        tracing::debug!(why, "a frontend has hung up");
        tokio::select! {
            exit = lingering => if let Ok(exit) = exit {
                return Ok(exit?);
            },
            () = stop.cancelled() => {}
        }
    }
    process.kill().await?;
    match why {
        // What it has answered counts although it does not go.
        Ok(_) if conversation.answer().is_some() && !stop.is_cancelled() => Ok(Exit::default()),
        Ok(_) if stop.is_cancelled() => Err(Failure::cancelled()),
        Ok(why) => Err(Failure::new(why)),
        Err(failure) => Err(failure),
    }
}

fn root_mount() -> Mount {
    Mount {
        input: None,
        selector: String::new(),
        dest: "/".to_owned(),
        output: None,
        readonly: false,
        kind: MountKind::Bind,
        content_cache: ContentCache::Default,
        result_id: String::new(),
    }
}

/// A frontend's streams: what its process gets, what the bridge is served on, and its standard error.
fn streams() -> (StepIo, pipe::Pipe, mpsc::Receiver<Bytes>) {
    let (to_stdin, stdin) = mpsc::channel(16);
    let (stdout, from_stdout) = mpsc::channel(16);
    let (stderr, from_stderr) = mpsc::channel(16);
    let io = StepIo {
        stdin: Some(stdin),
        stdout: Some(stdout),
        stderr: Some(stderr),
    };
    (io, pipe::Pipe::new(from_stdout, to_stdin), from_stderr)
}

/// Shows what a frontend writes to its standard error; a frontend that writes nothing is not shown.
async fn show(name: String, sink: Arc<dyn Sink>, mut from: mpsc::Receiver<Bytes>) {
    let digest = Digest::of(unique("frontend"));
    let mut vertex = None;
    while let Some(data) = from.recv().await {
        vertex.get_or_insert_with(|| PseudoVertex::start(digest, &name, Arc::clone(&sink)));
        sink.send(Event::Log(Log {
            vertex: digest,
            timestamp: Timestamp::now(),
            stream: 2,
            data,
        }));
    }
    if let Some(vertex) = vertex {
        vertex.end::<()>(&Ok(()));
    }
}
