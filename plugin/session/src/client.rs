//! One connected client, and how any of its services is called: with a limit of time, and an error at once when it leaves.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use shipway_backend::session::{Auth, Files, Secrets, SourcePolicy};
use shipway_backend::{BackendError, ErrorKind, Session};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::auth::Salt;
use crate::channel::Channel;
use crate::error::{gone, refused};
use crate::metadata::Hello;

/// How long a client may take over a single question. It may in turn ask a registry.
const QUESTION: Duration = Duration::from_mins(2);

/// One connected client. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    hello: Hello,
    channel: Channel,
    closed: CancellationToken,
    salt: Salt,
}

impl Client {
    pub(crate) fn new(
        hello: Hello,
        channel: Channel,
        closed: CancellationToken,
        salt: Salt,
    ) -> Self {
        let shared = Arc::new(Shared {
            hello,
            channel,
            closed,
            salt,
        });
        Self { shared }
    }

    pub(crate) fn channel(&self) -> Channel {
        self.shared.channel.clone()
    }

    pub(crate) fn salt(&self) -> &Salt {
        &self.shared.salt
    }

    pub(crate) fn closed_token(&self) -> &CancellationToken {
        &self.shared.closed
    }

    /// Refuses where the client did not offer this method: asking would only stall a client that has no such service.
    pub(crate) fn require(&self, method: &str, attempt: &str) -> Result<(), BackendError> {
        if self.shared.hello.offers(method) {
            return Ok(());
        }
        Err(BackendError::caused(
            ErrorKind::Unsupported,
            attempt,
            format!("method {method} not supported by the client"),
        ))
    }

    /// Asks one question.
    pub(crate) async fn ask<T>(
        &self,
        attempt: &str,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, BackendError> {
        let timed = async {
            match tokio::time::timeout(QUESTION, call).await {
                Ok(answer) => answer.map(tonic::Response::into_inner),
                Err(_) => Err(Status::deadline_exceeded("client does not answer")),
            }
        };
        self.run(attempt, timed).await
    }

    /// Runs a call of any length.
    pub(crate) async fn run<T>(
        &self,
        attempt: &str,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, BackendError> {
        tokio::select! {
            biased;
            result = call => result.map_err(|status| self.failed(attempt, &status)),
            () = self.shared.closed.cancelled() => Err(self.gone()),
        }
    }

    /// The error of a failed call.
    pub(crate) fn failed(&self, attempt: &str, status: &Status) -> BackendError {
        if self.shared.closed.is_cancelled() {
            return self.gone();
        }
        refused(attempt, status)
    }

    /// The error of whatever was under way when the client left.
    pub(crate) fn gone(&self) -> BackendError {
        gone(self.id())
    }
}

impl Session for Client {
    fn id(&self) -> &str {
        &self.shared.hello.id
    }

    fn shared_key(&self) -> &str {
        &self.shared.hello.shared_key
    }

    fn closed(&self) -> BoxFuture<'static, ()> {
        self.shared.closed.clone().cancelled_owned().boxed()
    }

    fn files(&self) -> Arc<dyn Files> {
        Arc::new(self.clone())
    }

    fn auth(&self) -> Arc<dyn Auth> {
        Arc::new(self.clone())
    }

    fn secrets(&self) -> Arc<dyn Secrets> {
        Arc::new(self.clone())
    }

    fn policy(&self) -> Arc<dyn SourcePolicy> {
        Arc::new(self.clone())
    }
}
