//! What ssh needs of the client while git runs: its agent behind a socket, and the hosts it knows.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shipway_backend::{ErrorKind, Session};
use shipway_model::Failure;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::Env;
use crate::env::SESSION_PATIENCE;

/// Files for ssh, removed when it is dropped; connections end with it.
pub(super) struct SshFiles {
    pub(super) agent: Option<PathBuf>,
    pub(super) known_hosts: Option<PathBuf>,
    serving: JoinSet<()>,
}

impl SshFiles {
    /// Files with these hosts, and a socket of this agent; an empty text is none.
    pub(super) async fn new(
        env: &Env,
        sessions: &[Arc<str>],
        agent: &str,
        hosts: &str,
    ) -> Result<Self, Failure> {
        let mut files = Self {
            agent: None,
            known_hosts: None,
            serving: JoinSet::new(),
        };
        if !agent.is_empty() {
            let session = client(env, sessions, agent).await?;
            let path = fresh(env, "sock")?;
            let listener = UnixListener::bind(&path)
                .map_err(|e| Failure::from_error(&e).context("listening for ssh"))?;
            let served = serve(listener, session, agent.to_owned());
            files.serving.spawn(served);
            files.agent = Some(path);
        }
        if !hosts.is_empty() {
            let path = fresh(env, "hosts")?;
            std::fs::write(&path, hosts)
                .map_err(|e| Failure::from_error(&e).context("writing the known hosts"))?;
            files.known_hosts = Some(path);
        }
        Ok(files)
    }
}

impl Drop for SshFiles {
    fn drop(&mut self) {
        for path in self.agent.iter().chain(&self.known_hosts) {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "removing a file of ssh");
            }
        }
    }
}

fn fresh(env: &Env, kind: &str) -> Result<PathBuf, Failure> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = env.layers.upkeep().scratch_dir("git-ssh")?;
    let path = dir.join(format!("{}-{number}.{kind}", std::process::id()));
    // One of that name is left from a daemon that was killed.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::from_error(&error).context(format!("removing {}", path.display())))
        }
        _ => Ok(path),
    }
}

async fn client(
    env: &Env,
    sessions: &[Arc<str>],
    agent: &str,
) -> Result<Arc<dyn Session>, Failure> {
    let mut last = Failure::new("no active sessions");
    for id in sessions {
        let checked = async {
            let session = env.sessions.get(id, SESSION_PATIENCE).await?;
            session.secrets().check_agent(agent).await?;
            Ok::<_, shipway_backend::BackendError>(session)
        };
        last = match checked.await {
            Ok(session) => return Ok(session),
            Err(error) if error.kind == ErrorKind::Unsupported => {
                Failure::new(format!("no SSH key {agent:?} forwarded from the client"))
            }
            Err(error) => error.into(),
        };
    }
    Err(last)
}

async fn serve(listener: UnixListener, session: Arc<dyn Session>, agent: String) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(carry(stream, Arc::clone(&session), agent.clone()));
            }
            Err(error) => tracing::warn!(%error, "accepting a connection of ssh"),
        }
    }
}

async fn carry(mut from: UnixStream, session: Arc<dyn Session>, agent: String) {
    let mut client = match session.secrets().connect_agent(&agent).await {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(agent, %error, "connecting to a client's ssh agent");
            return;
        }
    };
    if let Err(error) = tokio::io::copy_bidirectional(&mut from, &mut client).await {
        tracing::debug!(agent, %error, "carrying an agent's connection");
    }
}
