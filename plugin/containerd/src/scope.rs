//! One namespace of containerd: which headers a call carries. The calls themselves are in the module of each trait.

use std::sync::Arc;

use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::{CreateNamespaceRequest, Namespace};
use shipway_backend::{BackendError, Lease};
use tokio::sync::OnceCell;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use crate::connection::{Connection, repeat};
use crate::error::failed;

/// One namespace. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Scope {
    pub(crate) connection: Arc<Connection>,
    pub(crate) name: Arc<str>,
    made: Arc<OnceCell<()>>,
}

impl Scope {
    pub(crate) fn new(connection: Arc<Connection>, name: &str) -> Self {
        Self {
            connection,
            name: name.into(),
            made: Arc::default(),
        }
    }

    /// A request to this namespace.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Ok(name) = MetadataValue::try_from(&*self.name) {
            request.metadata_mut().insert("containerd-namespace", name);
        }
        request
    }

    /// A request whose results a lease holds.
    pub(crate) fn leased<T>(&self, lease: &Lease, message: T) -> Request<T> {
        let mut request = self.request(message);
        if let Ok(id) = MetadataValue::try_from(lease.id()) {
            request.metadata_mut().insert("containerd-lease", id);
        }
        request
    }

    /// Makes the namespace unless it is there.
    pub(crate) async fn ensure(&self) -> Result<(), BackendError> {
        self.made.get_or_try_init(|| self.make()).await?;
        Ok(())
    }

    async fn make(&self) -> Result<(), BackendError> {
        let namespace = Namespace {
            name: self.name.to_string(),
            ..Default::default()
        };
        let message = CreateNamespaceRequest {
            namespace: Some(namespace),
        };
        let made = repeat(|| {
            let mut client = NamespacesClient::new(self.connection.channel.clone());
            // containerd 1.6 publishes the event in the namespace that the headers name.
            let request = self.request(message.clone());
            async move { client.create(request).await }
        });
        match made.await {
            Err(status) if status.code() != Code::AlreadyExists => Err(failed(
                format!("creating namespace {:?}", self.name),
                &status,
            )),
            _ => Ok(()),
        }
    }
}
