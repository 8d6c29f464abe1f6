//! The containerd that the daemon lives in: which one it is, what it can do, which namespaces it has.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_client::services::v1::ListNamespacesRequest;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::version_client::VersionClient;
use shipway_backend::{BackendError, ErrorKind, Executor, Host, Namespace};

use crate::connection::{Connection, Settings, repeat};
use crate::error::failed;
use crate::scope::Scope;
use crate::single::StepTasks;

/// The containerd that the daemon lives in.
pub struct Containerd {
    connection: Arc<Connection>,
    version: String,
    kind: ExecutorKind,
}

/// How steps are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutorKind {
    /// A build is a task of our own shim, a step a process in it.
    BuildTask,
    /// A step is a task of runc's shim: containerd older than 2.0 cannot start ours, or the configuration says so.
    StepTask,
}

impl fmt::Display for ExecutorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BuildTask => "a task per build (io.containerd.shipway.v1)",
            Self::StepTask => "a task per step (io.containerd.runc.v2)",
        })
    }
}

impl Containerd {
    /// Connects, and waits some seconds for a containerd that is just starting. To be called in a tokio runtime.
    pub async fn connect(settings: Settings) -> Result<Self, BackendError> {
        let socket = settings.socket.display().to_string();
        let connection = Arc::new(Connection::new(settings));
        let client = VersionClient::new(connection.channel.clone());
        let answer = repeat(|| {
            let mut client = client.clone();
            async move { client.version(()).await }
        });
        let attempt = || format!("asking containerd at {socket} for its version");
        let version = answer
            .await
            .map_err(|status| failed(attempt(), &status))?
            .version;
        let major = major(&version).ok_or_else(|| {
            let why = format!("{version:?} is no version");
            BackendError::caused(ErrorKind::Unsupported, attempt(), why)
        })?;
        let kind = if major >= 2 && !connection.settings.step_tasks {
            ExecutorKind::BuildTask
        } else {
            ExecutorKind::StepTask
        };
        tracing::info!(socket, version, executor = %kind, "connected to containerd");
        Ok(Self {
            connection,
            version,
            kind,
        })
    }

    /// containerd's version, as it says.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// How steps are run.
    #[must_use]
    pub fn executor_kind(&self) -> ExecutorKind {
        self.kind
    }

    /// Waits for what still ends in the background: leases, uploads, steps. For the end of the daemon.
    pub async fn drain(&self) {
        self.connection.background.close();
        self.connection.background.wait().await;
        self.connection.background.reopen();
    }
}

#[async_trait]
impl Host for Containerd {
    fn namespace(&self, name: &str) -> Namespace {
        let scope = Scope::new(self.connection.clone(), name);
        let executor: Arc<dyn Executor> = match self.kind {
            ExecutorKind::BuildTask => Arc::new(scope.clone()),
            ExecutorKind::StepTask => Arc::new(StepTasks(scope.clone())),
        };
        Namespace {
            name: scope.name.clone(),
            blobs: Arc::new(scope.clone()),
            images: Arc::new(scope.clone()),
            leases: Arc::new(scope.clone()),
            snapshots: Arc::new(scope),
            executor,
        }
    }

    async fn uuid(&self) -> Result<String, BackendError> {
        let client = IntrospectionClient::new(self.connection.channel.clone());
        let answer = repeat(|| {
            let mut client = client.clone();
            async move { client.server(()).await }
        });
        let answer = answer.await;
        let answer = answer.map_err(|status| failed("asking containerd for its UUID", &status))?;
        Ok(answer.uuid)
    }

    async fn namespaces(&self) -> Result<Vec<String>, BackendError> {
        let client = NamespacesClient::new(self.connection.channel.clone());
        let answer = repeat(|| {
            let mut client = client.clone();
            async move { client.list(ListNamespacesRequest::default()).await }
        });
        let answer = answer.await;
        let answer = answer.map_err(|status| failed("listing containerd's namespaces", &status))?;
        Ok(answer.namespaces.into_iter().map(|n| n.name).collect())
    }
}

fn major(version: &str) -> Option<u32> {
    let digits = version.trim_start_matches('v').split('.').next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_containerd_says() {
        for (version, expected) in [
            ("v2.4.2", Some(2)),
            ("1.6.20~ds1", Some(1)),
            ("2.0.0-rc.1", Some(2)),
            ("devel", None),
        ] {
            assert_eq!(major(version), expected, "{version}");
        }
    }
}
