//! The agent socket of a step: connections to it are carried to the client's agent.

use std::path::Path;
use std::sync::Arc;

use shipway_backend::Session;
use shipway_model::Failure;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::scratch;

/// A listening agent socket. [`AgentSocket::serve`] must be polled while the step runs.
pub(super) struct AgentSocket {
    listener: UnixListener,
    session: Arc<dyn Session>,
    agent: String,
}

impl AgentSocket {
    /// Listens at `path`, which is given to a user of the step.
    pub(super) fn bind(
        path: &Path,
        owner: (u32, u32, u32),
        session: Arc<dyn Session>,
        agent: &str,
    ) -> Result<Self, Failure> {
        let listener = UnixListener::bind(path).map_err(|e| {
            Failure::from_error(&e).context(format!("listening at {}", path.display()))
        })?;
        let (uid, gid, mode) = owner;
        scratch::own(path, uid, gid, mode)?;
        Ok(Self {
            listener,
            session,
            agent: agent.to_owned(),
        })
    }

    /// Carries connections until it is dropped; it never ends by itself.
    pub(super) async fn serve(self) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = self.listener.accept().await;
            while connections.try_join_next().is_some() {}
            match accepted {
                Ok((stream, _)) => {
                    connections.spawn(carry(stream, Arc::clone(&self.session), self.agent.clone()));
                }
                Err(error) => tracing::warn!(%error, "accepting at an agent socket"),
            }
        }
    }
}

async fn carry(mut step: UnixStream, session: Arc<dyn Session>, agent: String) {
    let mut client = match session.secrets().connect_agent(&agent).await {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(agent, %error, "connecting to a client's ssh agent");
            return;
        }
    };
    // Either side may go first; the step sees a closed connection and says so itself.
    if let Err(error) = tokio::io::copy_bidirectional(&mut step, &mut client).await {
        tracing::debug!(agent, %error, "carrying an agent's connection");
    }
}
