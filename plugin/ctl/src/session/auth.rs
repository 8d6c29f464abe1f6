//! Registry credentials for the daemon, from Docker's configuration, and tokens fetched with them. Keeps both for the
//! length of a build only.

use std::collections::BTreeMap;

use shipway_proto::filesync::auth_server;
use shipway_proto::filesync::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
    GetTokenAuthorityRequest, GetTokenAuthorityResponse, VerifyTokenAuthorityRequest,
    VerifyTokenAuthorityResponse,
};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

use super::authority::{self, Authority};
use super::docker_config::{self, Credentials, DockerConfig};
use super::token;
use crate::args::csv;
use crate::build::plan::AuthTls;
use crate::error::Error;

/// The credentials service.
#[derive(Debug)]
pub(crate) struct Auth {
    /// Asked for once per registry and build; helpers may be slow or ask the user.
    known: Mutex<BTreeMap<String, Credentials>>,
    /// TLS settings of token servers, by registry.
    tls: BTreeMap<String, AuthTls>,
}

fn failed(error: &Error) -> Status {
    Status::unknown(error.chain())
}

impl Auth {
    pub(crate) fn new(tls: BTreeMap<String, AuthTls>) -> Self {
        Self {
            known: Mutex::default(),
            tls,
        }
    }

    async fn credentials_for(&self, host: &str) -> Result<Credentials, Status> {
        let mut known = self.known.lock().await;
        if let Some(credentials) = known.get(host) {
            return Ok(credentials.clone());
        }
        let config = DockerConfig::load().map_err(|error| failed(&error))?;
        let found = config
            .credentials(host)
            .await
            .map_err(|error| failed(&error))?;
        known.insert(host.to_owned(), found.clone());
        Ok(found)
    }

    async fn authority(&self, host: &str, salt: &[u8]) -> Result<Authority, Status> {
        let disabled = std::env::var("BUILDKIT_NO_CLIENT_TOKEN").ok();
        if disabled.as_deref().and_then(csv::boolean).unwrap_or(false) {
            return Err(Status::unavailable("client side tokens disabled"));
        }
        let seed = match self.credentials_for(host).await? {
            Credentials::Anonymous | Credentials::Registry(_) => None,
            Credentials::Password { .. } | Credentials::Identity(_) => {
                let seed = authority::seed(docker_config::directory(), host);
                Some(seed.map_err(|error| failed(&error))?)
            }
        };
        Authority::derive(salt, seed.as_deref()).map_err(|error| failed(&error))
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
            Credentials::Anonymous | Credentials::Registry(_) => (String::new(), String::new()),
            Credentials::Password { username, password } => (username, password),
            Credentials::Identity(token) => (String::new(), token),
        };
        Ok(Response::new(CredentialsResponse { username, secret }))
    }

    async fn fetch_token(
        &self,
        request: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        let request = request.into_inner();
        let credentials = self.credentials_for(&request.host).await?;
        let fetched = token::fetch(&request, &credentials, &self.tls).await;
        let doing = match credentials {
            Credentials::Anonymous => "failed to fetch anonymous token",
            _ => "failed to fetch oauth token",
        };
        fetched
            .map(Response::new)
            .map_err(|error| Status::unknown(format!("{doing}: {}", error.chain())))
    }

    async fn get_token_authority(
        &self,
        request: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        let request = request.into_inner();
        let authority = self.authority(&request.host, &request.salt).await?;
        let public_key = authority.public_key().into();
        Ok(Response::new(GetTokenAuthorityResponse { public_key }))
    }

    async fn verify_token_authority(
        &self,
        request: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        let request = request.into_inner();
        let authority = self.authority(&request.host, &request.salt).await?;
        let signed = authority.sign(&request.payload).into();
        Ok(Response::new(VerifyTokenAuthorityResponse { signed }))
    }
}
