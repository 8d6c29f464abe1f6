//! The health check that the daemon calls every few seconds. Always well: a client that can't answer does not answer.

use shipway_proto::health::health_check_response::ServingStatus;
use shipway_proto::health::health_server;
use shipway_proto::health::{HealthCheckRequest, HealthCheckResponse};
use tokio_stream::Once;
use tonic::{Request, Response, Status};

/// The health service.
#[derive(Debug)]
pub(crate) struct Health;

fn serving() -> HealthCheckResponse {
    HealthCheckResponse {
        status: ServingStatus::Serving.into(),
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = Once<Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(serving()))
    }

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(tokio_stream::once(Ok(serving()))))
    }
}
