//! Secrets handed to single steps, read at the moment they are asked for. Keeps none in memory.

use std::collections::BTreeMap;

use shipway_proto::secrets::secrets_server;
use shipway_proto::secrets::{GetSecretRequest, GetSecretResponse};
use tonic::{Request, Response, Status};

use crate::build::plan::{SECRET_LIMIT, Secret};

/// The secrets service.
#[derive(Debug)]
pub(crate) struct Secrets {
    by_id: BTreeMap<String, Secret>,
}

impl Secrets {
    pub(crate) fn new(secrets: &[Secret]) -> Self {
        Self {
            by_id: secrets
                .iter()
                .map(|s| (s.id().to_owned(), s.clone()))
                .collect(),
        }
    }
}

#[tonic::async_trait]
impl secrets_server::Secrets for Secrets {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        let secret = self.by_id.get(&id);
        let data = match secret.ok_or_else(|| Status::not_found("not found"))? {
            Secret::Env { name, .. } => {
                use std::os::unix::ffi::OsStringExt as _;
                std::env::var_os(name).unwrap_or_default().into_vec()
            }
            Secret::File { path, .. } => tokio::fs::read(path).await.map_err(|e| {
                Status::unknown(format!("reading secret {id} from {}: {e}", path.display()))
            })?,
        };
        if data.len() as u64 > SECRET_LIMIT {
            return Err(Status::unknown(format!(
                "invalid secret size {}",
                data.len()
            )));
        }
        Ok(Response::new(GetSecretResponse { data: data.into() }))
    }
}
