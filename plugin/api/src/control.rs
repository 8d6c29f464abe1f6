//! Control: builds, their status, sessions, workers, disk usage.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use shipway_build::upkeep::{PrunePolicy, UsageRecord};
use shipway_proto::control as wire;
use shipway_proto::control::control_server::Control;
use tonic::{Request, Response, Status, Streaming};

use crate::wire::failure::to_status;
use crate::wire::{progress, solve};
use crate::{Endpoint, workers};

/// How long a status request waits for its build.
const STATUS_PATIENCE: Duration = Duration::from_secs(6);

type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Control for Endpoint {
    async fn disk_usage(
        &self,
        request: Request<wire::DiskUsageRequest>,
    ) -> Result<Response<wire::DiskUsageResponse>, Status> {
        let filters = request.into_inner().filter;
        let records = self.builder.disk_usage().map_err(|e| to_status(&e))?;
        let record = select(records, &filters)?.into_iter().map(usage).collect();
        Ok(Response::new(wire::DiskUsageResponse { record }))
    }

    type PruneStream = Answers<wire::UsageRecord>;

    async fn prune(
        &self,
        request: Request<wire::PruneRequest>,
    ) -> Result<Response<Self::PruneStream>, Status> {
        let request = request.into_inner();
        if request.filter.iter().any(|filter| !filter.is_empty()) {
            return Err(Status::unimplemented("prune filters are not supported"));
        }
        if request.min_free_space > 0 {
            return Err(Status::unimplemented("min-free-space is not supported"));
        }
        let keep = request.max_used_space.max(request.reserved_space);
        let policy = PrunePolicy {
            keep_duration: request.keep_duration,
            keep_bytes: u64::try_from(keep).ok().filter(|&keep| keep > 0),
            kinds: Vec::new(),
        };
        let gone = self
            .builder
            .prune(&policy)
            .await
            .map_err(|e| to_status(&e))?;
        let answers = futures::stream::iter(gone.into_iter().map(|record| Ok(usage(record))));
        Ok(Response::new(answers.boxed()))
    }

    async fn solve(
        &self,
        request: Request<wire::SolveRequest>,
    ) -> Result<Response<wire::SolveResponse>, Status> {
        let request = solve::request(request.into_inner(), self.namespace.clone());
        let request = request.map_err(|e| to_status(&e))?;
        let response = self
            .builder
            .solve(request)
            .await
            .map_err(|e| to_status(&e))?;
        let exporter_response: BTreeMap<String, String> = response;
        Ok(Response::new(wire::SolveResponse { exporter_response }))
    }

    type StatusStream = Answers<wire::StatusResponse>;

    async fn status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<Self::StatusStream>, Status> {
        let id = request.into_inner().r#ref;
        let builder = std::sync::Arc::clone(&self.builder);
        // Headers go out at once; the build may arrive later.
        let answers = futures::stream::once(async move {
            match builder.find(&id, STATUS_PATIENCE).await {
                Err(failure) => futures::stream::iter([Err(to_status(&failure))]).boxed(),
                Ok(build) => {
                    futures::stream::unfold(build.progress().reader(), |mut reader| async {
                        let events = reader.next().await?;
                        let messages = progress::messages(events).into_iter().map(Ok);
                        Some((futures::stream::iter(messages), reader))
                    })
                    .flatten()
                    .boxed()
                }
            }
        });
        let mut response = Response::new(answers.flatten().boxed());
        let now = jiff::Timestamp::now().to_string();
        if let Ok(now) = now.parse() {
            response
                .metadata_mut()
                .insert("buildkit-current-timestamp", now);
        }
        Ok(response)
    }

    type SessionStream = Answers<wire::BytesMessage>;

    async fn session(
        &self,
        request: Request<Streaming<wire::BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let headers = request.metadata().clone().into_headers();
        let inbound = request.into_inner().map(|message| message.map(|m| m.data));
        let outbound = self.hub.attach(&headers, inbound);
        let outbound = outbound.map_err(|e| Status::unknown(e.to_string()))?;
        let answers = outbound.map(|data| Ok(wire::BytesMessage { data }));
        Ok(Response::new(answers.boxed()))
    }

    async fn list_workers(
        &self,
        request: Request<wire::ListWorkersRequest>,
    ) -> Result<Response<wire::ListWorkersResponse>, Status> {
        let worker = self.worker().await?;
        let shown = workers::matches(&worker, &request.get_ref().filter)?;
        let record = if shown { vec![worker] } else { Vec::new() };
        Ok(Response::new(wire::ListWorkersResponse { record }))
    }

    async fn info(
        &self,
        _request: Request<wire::InfoRequest>,
    ) -> Result<Response<wire::InfoResponse>, Status> {
        let buildkit_version = Some(self.version());
        Ok(Response::new(wire::InfoResponse { buildkit_version }))
    }

    type ListenBuildHistoryStream = Answers<wire::BuildHistoryEvent>;

    async fn listen_build_history(
        &self,
        request: Request<wire::BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        if request.get_ref().early_exit {
            return Ok(Response::new(futures::stream::empty().boxed()));
        }
        // Nothing is recorded, so nothing ever happens: the stream stays open until its reader leaves.
        Ok(Response::new(futures::stream::pending().boxed()))
    }

    async fn update_build_history(
        &self,
        request: Request<wire::UpdateBuildHistoryRequest>,
    ) -> Result<Response<wire::UpdateBuildHistoryResponse>, Status> {
        let request = request.into_inner();
        if request.delete {
            return Ok(Response::new(wire::UpdateBuildHistoryResponse {}));
        }
        Err(Status::unknown(format!(
            "build record {} not found",
            request.r#ref
        )))
    }
}

/// Records that pass a filter: `id`, `type`, `description` and others by equality; an empty filter passes all.
fn select(records: Vec<UsageRecord>, filters: &[String]) -> Result<Vec<UsageRecord>, Status> {
    if filters.iter().all(String::is_empty) {
        return Ok(records);
    }
    let field = |record: &UsageRecord, name: &str| match name {
        "id" => Ok(record.id.clone()),
        "type" => Ok(record.kind.to_owned()),
        "description" => Ok(record.description.clone()),
        "inuse" => Ok(record.in_use.to_string()),
        "mutable" => Ok(record.mutable.to_string()),
        other => Err(Status::unknown(format!(
            "filter field {other:?} is not supported"
        ))),
    };
    let mut kept = Vec::new();
    for record in records {
        for filter in filters {
            let Some((name, wanted)) = filter.split_once("==") else {
                return Err(Status::unknown(format!(
                    "filter {filter:?} is not supported"
                )));
            };
            if field(&record, name)? == wanted.trim_matches('"') {
                kept.push(record.clone());
                break;
            }
        }
    }
    Ok(kept)
}

fn usage(record: UsageRecord) -> wire::UsageRecord {
    wire::UsageRecord {
        id: record.id,
        mutable: record.mutable,
        in_use: record.in_use,
        size: record.size.cast_signed(),
        parent: String::new(),
        created_at: Some(progress::timestamp(record.created)),
        last_used_at: record.last_used.map(progress::timestamp),
        usage_count: record.uses.cast_signed(),
        description: record.description,
        record_type: record.kind.to_owned(),
        shared: false,
        parents: Vec::new(),
    }
}
