//! grpc health: the daemon as a whole is serving as long as it answers.

use futures::stream::BoxStream;
use shipway_proto::health::health_check_response::ServingStatus;
use shipway_proto::health::health_server::Health;
use shipway_proto::health::{HealthCheckRequest, HealthCheckResponse};
use tonic::{Request, Response, Status};

pub(crate) struct HealthService;

fn answer(service: &str) -> Result<HealthCheckResponse, Status> {
    if service.is_empty() {
        return Ok(HealthCheckResponse {
            status: ServingStatus::Serving.into(),
        });
    }
    Err(Status::not_found("unknown service"))
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        answer(&request.get_ref().service).map(Response::new)
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        use futures::StreamExt as _;
        let now = answer(&request.get_ref().service)?;
        let forever =
            futures::stream::once(async move { Ok(now) }).chain(futures::stream::pending());
        Ok(Response::new(forever.boxed()))
    }
}
