//! Secrets and ssh agents of a client. It never keeps a secret.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use shipway_backend::session::{Duplex, Secrets};
use shipway_backend::{BackendError, ErrorKind};
use shipway_proto::secrets::GetSecretRequest;
use shipway_proto::secrets::secrets_client::SecretsClient;
use shipway_proto::sshforward::ssh_client::SshClient;
use shipway_proto::sshforward::{BytesMessage, CheckAgentRequest};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tokio_util::sync::PollSender;
use tonic::{Request, Status};

use crate::channel::origin;
use crate::client::Client;
use crate::metadata::Options;

/// Largest message to an agent; its protocol's messages are smaller than 256 KiB.
const AGENT_MESSAGE: usize = 32 << 10;

#[async_trait]
impl Secrets for Client {
    async fn secret(&self, id: &str) -> Result<Vec<u8>, BackendError> {
        let attempt = format!("secret {id}");
        let mut client = SecretsClient::with_origin(self.channel(), origin());
        let request = GetSecretRequest {
            id: id.into(),
            ..Default::default()
        };
        match self.ask(&attempt, client.get_secret(request)).await {
            Ok(answer) => Ok(answer.data.to_vec()),
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Unsupported) => {
                let absent = BackendError::caused(ErrorKind::NotFound, attempt, "not found");
                Err(absent)
            }
            Err(error) => Err(error),
        }
    }

    async fn check_agent(&self, id: &str) -> Result<(), BackendError> {
        let attempt = format!("checking ssh agent {id:?}");
        let mut client = SshClient::with_origin(self.channel(), origin());
        let request = CheckAgentRequest { id: id.into() };
        self.ask(&attempt, client.check_agent(request)).await?;
        Ok(())
    }

    async fn connect_agent(&self, id: &str) -> Result<Box<dyn Duplex>, BackendError> {
        let attempt = format!("connecting to ssh agent {id:?}");
        let (to_agent, requests) = mpsc::channel(4);
        let mut request = Request::new(ReceiverStream::new(requests));
        let name = if id.is_empty() { "default" } else { id };
        *request.metadata_mut() = Options::default()
            .with("buildkit.ssh.id", [name])
            .into_map(&attempt)?;
        let (answers, from_agent) = mpsc::channel(4);
        // The client's first headers come with the agent's first answer, so nobody waits for them here.
        let mut forwarding = JoinSet::new();
        forwarding.spawn(self.clone().forward(request, answers));
        Ok(Box::new(Agent {
            read: StreamReader::new(ReceiverStream::new(from_agent).boxed()),
            write: PollSender::new(to_agent),
            _forwarding: forwarding,
        }))
    }
}

type Answer = io::Result<Bytes>;

impl Client {
    /// Passes on what an agent says until either side ends.
    async fn forward(
        self,
        request: Request<ReceiverStream<BytesMessage>>,
        answers: mpsc::Sender<Answer>,
    ) {
        let mut client = SshClient::with_origin(self.channel(), origin());
        let call = async {
            let mut stream = client.forward_agent(request).await?.into_inner();
            while let (false, Some(message)) = (answers.is_closed(), stream.message().await?) {
                // Closed by now or not: the loop looks again.
                let _unheard = answers.send(Ok(message.data)).await;
            }
            Ok::<(), Status>(())
        };
        // After a half-close Go's client ends with "io: read/write on closed pipe": an end like any other.
        if let Err(error) = self.run("forwarding an ssh agent", call).await {
            tracing::debug!(error = ?error, "ssh agent's connection ended");
        }
    }
}

/// A connection to a client's agent.
struct Agent {
    read: StreamReader<BoxStream<'static, Answer>, Bytes>,
    write: PollSender<BytesMessage>,
    _forwarding: JoinSet<()>,
}

impl AsyncRead for Agent {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, into)
    }
}

impl AsyncWrite for Agent {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let broken = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.write.poll_reserve(cx)).map_err(broken)?;
        let data = &data[..data.len().min(AGENT_MESSAGE)];
        let message = BytesMessage {
            data: Bytes::copy_from_slice(data),
        };
        self.write.send_item(message).map_err(broken)?;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write.close();
        Poll::Ready(Ok(()))
    }
}
