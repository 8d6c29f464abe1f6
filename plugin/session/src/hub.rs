//! The connected clients by session id: takes new ones in, hands them out, forgets those that left. It never asks a client
//! for anything but its health.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::HeaderMap;
use shipway_backend::{BackendError, ErrorKind, Session, Sessions};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::auth::Salt;
use crate::client::Client;
use crate::metadata::Hello;
use crate::tunnel::{Tunnel, Written, tunnel};
use crate::{channel, health};

/// The connected clients. Lives as long as the daemon.
pub struct SessionHub {
    sessions: Mutex<HashMap<String, Slot>>,
    /// A session has arrived.
    arrived: Notify,
    closing: CancellationToken,
    tasks: TaskTracker,
    salt: Salt,
}

enum Slot {
    /// The id is taken; the connection is being made.
    Opening,
    Open(Client),
}

/// Why a stream was not taken as a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The headers have no session id.
    #[error("a session has no id")]
    NoId,
    /// A session of that id is connected.
    #[error("session {0} already exists")]
    Exists(String),
    /// The daemon is ending.
    #[error("no more sessions: the daemon is shutting down")]
    Closing,
}

/// What the client of a session is to be sent. It ends when the session does; dropping it ends the session.
pub struct Outbound {
    written: Written,
    _session: DropGuard,
}

impl Stream for Outbound {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.written.poll_next_unpin(cx)
    }
}

impl Default for SessionHub {
    fn default() -> Self {
        Self {
            sessions: Mutex::default(),
            arrived: Notify::new(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            salt: Salt::random(),
        }
    }
}

impl SessionHub {
    /// A hub without sessions.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Takes the stream of a `Control.Session` call: its request headers and the `data` of its messages, in order. What the
    /// returned stream yields goes back as `data`. To be called in a tokio runtime.
    pub fn attach<E>(
        self: &Arc<Self>,
        headers: &HeaderMap,
        inbound: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    ) -> Result<Outbound, AttachError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let hello = Hello::from_headers(headers).ok_or(AttachError::NoId)?;
        if self.closing.is_cancelled() {
            return Err(AttachError::Closing);
        }
        self.reserve(&hello.id)?;
        let token = self.closing.child_token();
        let inbound = inbound.map(|chunk| chunk.map_err(io::Error::other)).boxed();
        let (tunnel, written) = tunnel(inbound, token.clone());
        self.tasks
            .spawn(self.clone().serve(hello, tunnel, token.clone()));
        Ok(Outbound {
            written,
            _session: token.drop_guard(),
        })
    }

    /// Ends every session, and resolves when all are gone.
    pub async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn reserve(&self, id: &str) -> Result<(), AttachError> {
        let mut sessions = self.lock();
        if sessions.contains_key(id) {
            return Err(AttachError::Exists(id.to_owned()));
        }
        sessions.insert(id.to_owned(), Slot::Opening);
        Ok(())
    }

    /// One session's whole life.
    async fn serve(self: Arc<Self>, hello: Hello, tunnel: Tunnel, closed: CancellationToken) {
        let id = hello.id.clone();
        let forget = Forget {
            hub: &self,
            id: &id,
        };
        match channel::open(tunnel).await {
            Ok((channel, connection)) => {
                let patience = health::Patience::new(hello.health_timeout);
                let client = Client::new(hello, channel.clone(), closed.clone(), self.salt.clone());
                self.lock().insert(id.clone(), Slot::Open(client));
                self.arrived.notify_waiters();
                tracing::debug!(session = id, "client connected");
                tokio::select! {
                    ended = connection => log_end(&id, ended),
                    () = closed.cancelled() => {}
                    () = health::watch(channel, patience) => {
                        tracing::warn!(session = id, "client does not answer health checks");
                    }
                }
            }
            Err(error) => log_end(&id, Err(error)),
        }
        closed.cancel();
        drop(forget);
        tracing::debug!(session = id, "client is gone");
    }

    fn find(&self, id: &str) -> Option<Client> {
        match self.lock().get(id) {
            Some(Slot::Open(client)) => Some(client.clone()),
            Some(Slot::Opening) | None => None,
        }
    }

    async fn wait_for(&self, id: &str) -> Client {
        loop {
            let mut arrived = std::pin::pin!(self.arrived.notified());
            // Listen before looking, so that nothing arrives in between unnoticed.
            arrived.as_mut().enable();
            if let Some(client) = self.find(id) {
                return client;
            }
            arrived.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Frees a session's id, however its task ends.
struct Forget<'a> {
    hub: &'a SessionHub,
    id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.hub.lock().remove(self.id);
    }
}

fn log_end(id: &str, ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(session = id, %error, "session's connection failed");
    }
}

#[async_trait]
impl Sessions for SessionHub {
    async fn get(&self, id: &str, patience: Duration) -> Result<Arc<dyn Session>, BackendError> {
        match tokio::time::timeout(patience, self.wait_for(id)).await {
            Ok(client) => Ok(Arc::new(client)),
            Err(_) => Err(BackendError::caused(
                ErrorKind::NotFound,
                format!("no active session for {id}"),
                "context deadline exceeded",
            )),
        }
    }
}
