//! The client's side of a session: an HTTP/2 server inside the `Control.Session` stream, through which the daemon reads
//! directories, writes results, asks for credentials and secrets. Decides which services a build offers.

mod agent;
mod auth;
mod authority;
mod content;
mod docker_config;
mod file_send;
mod file_sync;
mod headers;
mod health;
mod receive;
mod secrets;
mod token;
mod tunnel;

use std::sync::Arc;

pub(crate) use content::Store;
pub(crate) use tunnel::{SessionName, Tunnel};

use shipway_proto::MESSAGE_LIMIT;
use shipway_proto::content::content_server::ContentServer;
use shipway_proto::filesync::auth_server::AuthServer;
use shipway_proto::filesync::file_sync_server::FileSyncServer;
use shipway_proto::health::health_server::HealthServer;
use shipway_proto::secrets::secrets_server::SecretsServer;
use shipway_proto::sshforward::ssh_server::SshServer;
use tonic::service::{Routes, RoutesBuilder};

use crate::build::plan::{Plan, Sink};

/// The services of one session.
pub(crate) struct Offer {
    /// Answers calls by their path.
    pub(crate) routes: Routes,
    /// The paths that the daemon is told about.
    pub(crate) methods: Vec<&'static str>,
}

/// Puts together what a build needs; `stores` are the content stores by the daemon's name for them.
pub(crate) fn offer(plan: &Plan, stores: Vec<(String, Arc<Store>)>) -> Offer {
    let mut routes = RoutesBuilder::default();
    routes.add_service(HealthServer::new(health::Health));
    routes.add_service(AuthServer::new(auth::Auth::new(plan.auth_tls.clone())));
    let mut methods = vec![
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/moby.filesync.v1.Auth/Credentials",
        "/moby.filesync.v1.Auth/FetchToken",
        "/moby.filesync.v1.Auth/GetTokenAuthority",
        "/moby.filesync.v1.Auth/VerifyTokenAuthority",
    ];
    if !plan.locals.is_empty() {
        let service = file_sync::FileSync::new(plan.locals.clone());
        routes.add_service(FileSyncServer::new(service).max_decoding_message_size(MESSAGE_LIMIT));
        methods.push("/moby.filesync.v1.FileSync/DiffCopy");
    }
    if plan
        .exports
        .iter()
        .any(|export| !matches!(export.sink, Sink::Daemon | Sink::Store(_)))
    {
        routes.add_service(file_send::FileSend::new(plan.exports.clone()));
        methods.push("/moby.filesync.v1.FileSend/DiffCopy");
    }
    if !plan.secrets.is_empty() {
        routes.add_service(SecretsServer::new(secrets::Secrets::new(&plan.secrets)));
        methods.push("/moby.buildkit.secrets.v1.Secrets/GetSecret");
    }
    if !plan.agents.is_empty() {
        routes.add_service(SshServer::new(agent::Agents::new(plan.agents.clone())));
        methods.push("/moby.sshforward.v1.SSH/CheckAgent");
        methods.push("/moby.sshforward.v1.SSH/ForwardAgent");
    }
    if !stores.is_empty() {
        let service = content::Stores::new(stores);
        routes.add_service(ContentServer::new(service).max_decoding_message_size(MESSAGE_LIMIT));
        methods.extend(content::METHODS);
    }
    Offer {
        routes: routes.routes(),
        methods,
    }
}
