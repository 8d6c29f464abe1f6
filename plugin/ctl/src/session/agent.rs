//! Forwards sockets of this machine into steps. An SSH agent's requests are let through only if they list keys or sign;
//! the rest is refused in the agent's place.

use std::collections::BTreeMap;
use std::pin::Pin;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::Stream;
use shipway_proto::sshforward::ssh_server;
use shipway_proto::sshforward::{BytesMessage, CheckAgentRequest, CheckAgentResponse};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::headers;
use crate::build::plan::Agent;

/// The SSH service.
#[derive(Debug)]
pub(crate) struct Agents {
    by_id: BTreeMap<String, Agent>,
    tasks: TaskTracker,
}

impl Agents {
    pub(crate) fn new(by_id: BTreeMap<String, Agent>) -> Self {
        Self {
            by_id,
            tasks: TaskTracker::new(),
        }
    }

    fn find(&self, id: &str) -> Result<&Agent, Status> {
        let id = if id.is_empty() { "default" } else { id };
        self.by_id
            .get(id)
            .ok_or_else(|| Status::not_found(format!("unset ssh forward key {id}")))
    }
}

type Answers = mpsc::Sender<Result<BytesMessage, Status>>;

#[tonic::async_trait]
impl ssh_server::Ssh for Agents {
    type ForwardAgentStream = Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send>>;

    async fn check_agent(
        &self,
        request: Request<CheckAgentRequest>,
    ) -> Result<Response<CheckAgentResponse>, Status> {
        self.find(&request.get_ref().id)?;
        Ok(Response::new(CheckAgentResponse {}))
    }

    async fn forward_agent(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let id = headers::value(request.metadata(), "buildkit.ssh.id").unwrap_or_default();
        let agent = self.find(&id)?;
        let socket = UnixStream::connect(agent.socket()).await.map_err(|error| {
            Status::unknown(format!(
                "failed to connect to {}: {error}",
                agent.socket().display()
            ))
        })?;
        let (read, write) = socket.into_split();
        let (answers, stream) = mpsc::channel(8);
        let guard = match agent {
            Agent::Ssh(_) => Some(Guard::default()),
            Agent::Raw(_) => None,
        };
        self.tasks.spawn(to_agent(
            request.into_inner(),
            write,
            guard,
            answers.clone(),
        ));
        self.tasks.spawn(from_agent(read, answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

async fn from_agent(mut socket: OwnedReadHalf, answers: Answers) {
    let mut piece = vec![0; 32 << 10];
    while let Ok(n) = socket.read(&mut piece).await {
        let data = Bytes::copy_from_slice(&piece[..n]);
        if n == 0 || answers.send(Ok(BytesMessage { data })).await.is_err() {
            return;
        }
    }
}

/// Ends when the step closes its side; dropping the socket's half then tells the agent.
async fn to_agent(
    mut requests: Streaming<BytesMessage>,
    mut socket: OwnedWriteHalf,
    mut guard: Option<Guard>,
    answers: Answers,
) {
    while let Ok(Some(message)) = requests.message().await {
        let Passed { forward, refuse } = match &mut guard {
            Some(guard) => guard.pass(&message.data),
            None => Passed {
                forward: message.data,
                refuse: 0,
            },
        };
        if socket.write_all(&forward).await.is_err() {
            return;
        }
        for _ in 0..refuse {
            let refusal = BytesMessage {
                data: Bytes::from_static(&FAILURE),
            };
            if answers.send(Ok(refusal)).await.is_err() {
                return;
            }
        }
    }
}

/// `SSH_AGENT_FAILURE` as one message.
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];

/// Requests that change nothing: `SSH_AGENTC_REQUEST_IDENTITIES` and `SSH_AGENTC_SIGN_REQUEST`.
const HARMLESS: [u8; 2] = [11, 13];

/// Longest request that is looked at; agents themselves refuse longer ones.
const REQUEST_LIMIT: usize = 256 << 10;

/// Cuts the byte stream into agent requests and judges each.
#[derive(Debug, Default)]
struct Guard {
    held: BytesMut,
}

/// What becomes of a piece of the stream.
struct Passed {
    forward: Bytes,
    /// How many requests to answer with a refusal.
    refuse: usize,
}

impl Guard {
    fn pass(&mut self, piece: &[u8]) -> Passed {
        self.held.extend_from_slice(piece);
        let mut forward = BytesMut::new();
        let mut refuse = 0;
        while let Some(length) = self.held.first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize + 4;
            if length > REQUEST_LIMIT {
                // What follows can't be told apart any more: an answer, then nothing.
                self.held.clear();
                refuse += 1;
                break;
            }
            if self.held.len() < length {
                break;
            }
            let request = self.held.split_to(length);
            match request.chunk().get(4) {
                Some(kind) if HARMLESS.contains(kind) => forward.extend_from_slice(&request),
                _ => refuse += 1,
            }
        }
        Passed {
            forward: forward.freeze(),
            refuse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listing_and_signing_reach_the_agent() {
        let list = [0, 0, 0, 1, 11];
        let remove_all = [0, 0, 0, 1, 19];
        let sign = [0, 0, 0, 3, 13, 1, 2];
        let stream = [list.as_slice(), &remove_all, &sign].concat();
        let mut guard = Guard::default();
        let mut forwarded = Vec::new();
        let mut refused = 0;
        for piece in stream.chunks(3) {
            let passed = guard.pass(piece);
            forwarded.extend_from_slice(&passed.forward);
            refused += passed.refuse;
        }
        assert_eq!(forwarded, [list.as_slice(), &sign].concat());
        assert_eq!(refused, 1);
    }

    #[tokio::test]
    async fn a_call_reaches_the_socket_and_its_answers_come_back() {
        use shipway_proto::sshforward::ssh_client::SshClient;
        use shipway_proto::sshforward::ssh_server::SshServer;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let agents = Agents::new([("default".to_owned(), Agent::Ssh(path))].into());
        let mut client = SshClient::new(SshServer::new(agents));

        let known = client.check_agent(CheckAgentRequest::default()).await;
        assert!(known.is_ok());
        let unknown = client
            .check_agent(CheckAgentRequest { id: "other".into() })
            .await;
        assert_eq!(unknown.unwrap_err().code(), tonic::Code::NotFound);

        let (requests, receiver) = mpsc::channel(1);
        let call = client.forward_agent(ReceiverStream::new(receiver));
        let (call, accepted) = tokio::join!(call, listener.accept());
        let (mut answers, (mut socket, _)) = (call.unwrap().into_inner(), accepted.unwrap());
        requests
            .send(BytesMessage {
                data: Bytes::from_static(&[0, 0, 0, 1, 11]),
            })
            .await
            .unwrap();
        let mut request = [0; 5];
        socket.read_exact(&mut request).await.unwrap();
        assert_eq!(request, [0, 0, 0, 1, 11]);
        socket.write_all(b"keys").await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().data, "keys");
        drop(requests);
        assert_eq!(socket.read(&mut request).await.unwrap(), 0);
        drop(socket);
        assert_eq!(answers.message().await.unwrap(), None);
    }
}
