//! What one socket serves: the builds of one containerd namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use shipway_backend::{Host, Namespace};
use shipway_build::Builder;
use shipway_model::Platform;
use shipway_ops::cdi::CdiDirs;
use shipway_proto::MESSAGE_LIMIT;
use shipway_proto::content::content_server::ContentServer;
use shipway_proto::control::control_server::ControlServer;
use shipway_proto::gateway::llb_bridge_server::LlbBridgeServer;
use shipway_proto::health::health_server::HealthServer;
use shipway_proto::trace::trace_service_server::TraceServiceServer;
use shipway_proto::upkeep::upkeep_server::UpkeepServer;
use shipway_session::SessionHub;
use tonic::service::Routes;

use crate::bridge::BridgeService;
use crate::content::ContentService;
use crate::health::HealthService;
use crate::trace::TraceCollector;
use crate::upkeep::{Repair, UpkeepService};

/// How the daemon presents itself.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The worker's id: stable over restarts.
    pub worker: String,
    /// Labels that the operator added.
    pub labels: BTreeMap<String, String>,
    /// The snapshotter that clients are told.
    pub snapshotter: String,
    /// Name of the machine.
    pub hostname: String,
    /// `host`, `cni`: the network of steps.
    pub network: String,
    /// How steps are run, in words.
    pub executor: String,
    /// Platforms that the operator says it builds for; none for those that the machine runs.
    pub platforms: Vec<Platform>,
    /// Where devices are described.
    pub cdi: CdiDirs,
    /// Path of the program, and its version.
    pub package: String,
    /// Version.
    pub version: String,
    /// Revision that it was built from.
    pub revision: String,
}

/// One socket's services.
#[derive(Clone)]
pub struct Endpoint {
    /// Builds.
    pub builder: Arc<Builder>,
    /// Clients.
    pub hub: Arc<SessionHub>,
    /// containerd.
    pub host: Arc<dyn Host>,
    /// The namespace that this socket builds in.
    pub namespace: Namespace,
    /// How the daemon presents itself.
    pub identity: Arc<Identity>,
    /// Repairs the layer store.
    pub repair: Arc<dyn Repair>,
}

impl Endpoint {
    /// The services, to be served on a socket.
    #[must_use]
    pub fn routes(&self) -> Routes {
        let control = ControlServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT);
        let bridge = LlbBridgeServer::new(BridgeService::of_clients(self))
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT);
        let history = &self.builder.parts().recorder.history;
        let traces = TraceServiceServer::new(TraceCollector(Arc::clone(history)))
            .max_decoding_message_size(MESSAGE_LIMIT);
        let content = ContentService {
            own: self.namespace.clone(),
            history: history.blobs_of(&self.namespace.name),
        };
        let content = ContentServer::new(content).max_encoding_message_size(MESSAGE_LIMIT);
        Routes::new(control)
            .add_service(bridge)
            .add_service(traces)
            .add_service(content)
            .add_service(HealthServer::new(HealthService))
            .add_service(UpkeepServer::new(UpkeepService(Arc::clone(&self.repair))))
    }
}
