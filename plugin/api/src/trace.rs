//! Takes the traces that clients export: spans of builds that the history still waits for become part of their traces. There
//! is no collector to hand the others to.

use std::sync::Arc;

use shipway_history::History;
use shipway_proto::trace::trace_service_server::TraceService;
use shipway_proto::trace::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use tonic::{Request, Response, Status};

use crate::wire::spans;

pub(crate) struct TraceCollector(pub(crate) Arc<History>);

#[tonic::async_trait]
impl TraceService for TraceCollector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for (trace, spans) in spans::by_trace(request.into_inner()) {
            self.0.client_spans(&trace, spans);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
