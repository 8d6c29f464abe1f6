//! Registry credentials for the daemon, from Docker's configuration. Fetches no token itself: the daemon does that with
//! the credentials, as it does for every client that lacks these calls.

use std::collections::BTreeMap;

use shipway_proto::filesync::auth_server;
use shipway_proto::filesync::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
    GetTokenAuthorityRequest, GetTokenAuthorityResponse, VerifyTokenAuthorityRequest,
    VerifyTokenAuthorityResponse,
};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

use super::docker_config::{Credentials, DockerConfig};
use crate::build::plan::AuthTls;

/// The credentials service.
#[derive(Debug)]
pub(crate) struct Auth {
    /// Asked for once per registry and build; helpers may be slow or ask the user.
    known: Mutex<BTreeMap<String, Credentials>>,
}

impl Auth {
    pub(crate) fn new(_tls: BTreeMap<String, AuthTls>) -> Self {
        Self {
            known: Mutex::default(),
        }
    }

    async fn credentials_for(&self, host: &str) -> Result<Credentials, Status> {
        let mut known = self.known.lock().await;
        if let Some(credentials) = known.get(host) {
            return Ok(credentials.clone());
        }
        let config = DockerConfig::load().map_err(|error| Status::unknown(error.chain()))?;
        let found = config
            .credentials(host)
            .await
            .map_err(|error| Status::unknown(error.chain()))?;
        known.insert(host.to_owned(), found.clone());
        Ok(found)
    }
}

#[tonic::async_trait]
impl auth_server::Auth for Auth {
    async fn credentials(
        &self,
        request: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        let found = self.credentials_for(&request.get_ref().host).await?;
        let (username, secret) = match found {
            Credentials::Anonymous => (String::new(), String::new()),
            Credentials::Password { username, password } => (username, password),
            Credentials::Identity(token) => (String::new(), token),
        };
        Ok(Response::new(CredentialsResponse { username, secret }))
    }

    async fn fetch_token(
        &self,
        _: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        Err(Status::unimplemented("tokens are fetched by the daemon"))
    }

    async fn get_token_authority(
        &self,
        _: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("tokens are fetched by the daemon"))
    }

    async fn verify_token_authority(
        &self,
        _: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("tokens are fetched by the daemon"))
    }
}
