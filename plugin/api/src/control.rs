//! Control: builds, their status, sessions, workers, disk usage.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use shipway_build::Found;
use shipway_build::upkeep::{Bounds, PrunePolicy, UsageRecord};
use shipway_history::{Change, HistoryError, Query, TraceParent};
use shipway_model::Failure;
use shipway_patterns::filter::Filters;
use shipway_proto::control as wire;
use shipway_proto::control::control_server::Control;
use tonic::{Request, Response, Status, Streaming};

use crate::wire::failure::to_status;
use crate::wire::{history, progress, solve};
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
        let request = request.into_inner();
        let filters = filters(&request.filter)?;
        let now = jiff::Timestamp::now().as_nanosecond();
        let old = |record: &UsageRecord| {
            let age = now - record.touched().as_nanosecond();
            age >= i128::from(request.age_limit)
        };
        let records = self.builder.disk_usage().map_err(|e| to_status(&e))?;
        let shown = records.into_iter().filter(|record| {
            let passes = filters.as_ref().is_none_or(|f| record.passes(f));
            passes && (request.age_limit == 0 || old(record))
        });
        let record = shown.map(usage).collect();
        Ok(Response::new(wire::DiskUsageResponse { record }))
    }

    type PruneStream = Answers<wire::UsageRecord>;

    async fn prune(
        &self,
        request: Request<wire::PruneRequest>,
    ) -> Result<Response<Self::PruneStream>, Status> {
        let request = request.into_inner();
        let bytes = |space: i64| u64::try_from(space).unwrap_or(0);
        let bounds = Bounds {
            reserved: bytes(request.reserved_space),
            most: bytes(request.max_used_space),
            free: bytes(request.min_free_space),
        };
        let measured = || {
            let records = self.builder.disk_usage()?;
            let total = records.iter().map(|record| record.size).sum();
            Ok::<_, Failure>(bounds.keep(total, self.builder.free_space()?))
        };
        let policy = PrunePolicy {
            keep_duration: request.keep_duration,
            keep_bytes: measured().map_err(|e| to_status(&e))?,
            kinds: Vec::new(),
            filters: filters(&request.filter)?,
        };
        let gone = self
            .builder
            .prune(&policy)
            .await
            .map_err(|e| to_status(&e))?;
        // Ended builds may have left blobs that containerd, unasked, keeps until something else is removed.
        let collected = self.namespace.leases.collect().await;
        collected.map_err(|e| to_status(&e.into()))?;
        let answers = futures::stream::iter(gone.into_iter().map(|record| Ok(usage(record))));
        Ok(Response::new(answers.boxed()))
    }

    async fn solve(
        &self,
        request: Request<wire::SolveRequest>,
    ) -> Result<Response<wire::SolveResponse>, Status> {
        let trace = request.metadata().get("traceparent");
        let trace = trace.and_then(|header| TraceParent::parse(header.to_str().ok()?));
        let request = request.into_inner();
        let id = request.r#ref.clone();
        let request = solve::request(request, self.namespace.clone(), trace);
        let request = request.map_err(|e| {
            self.builder.refuse(&id);
            to_status(&e)
        })?;
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
        let endpoint = self.clone();
        // Headers go out at once; the build may arrive later.
        let answers = futures::stream::once(async move {
            match endpoint.replayed(&id).await {
                Ok(Some(messages)) => {
                    return futures::stream::iter(messages.into_iter().map(Ok)).boxed();
                }
                Ok(None) => {}
                Err(failure) => return futures::stream::iter([Err(to_status(&failure))]).boxed(),
            }
            match builder.find(&id, STATUS_PATIENCE).await {
                Err(failure) => futures::stream::iter([Err(to_status(&failure))]).boxed(),
                // Its client learns why from the answer to its request.
                Ok(Found::Refused) => futures::stream::empty().boxed(),
                Ok(Found::Build(build)) => {
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
        Ok(dated(answers.flatten().boxed()))
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
        let request = request.into_inner();
        let query = Query {
            namespace: self.namespace.name.to_string(),
            id: request.r#ref,
            active_only: request.active_only,
            filters: request.filter,
            limit: request.limit,
        };
        let history = &self.builder.parts().recorder.history;
        let (found, listener) = history.listen(query).await.map_err(|e| failed(&e))?;
        let found = futures::stream::iter(found.into_iter().map(|e| Ok(history::event(e))));
        if request.early_exit {
            return Ok(dated(found.boxed()));
        }
        let later = futures::stream::unfold(listener, |mut listener| async {
            let event = listener.next().await?;
            Some((Ok(history::event(event)), listener))
        });
        Ok(dated(found.chain(later).boxed()))
    }

    async fn update_build_history(
        &self,
        request: Request<wire::UpdateBuildHistoryRequest>,
    ) -> Result<Response<wire::UpdateBuildHistoryResponse>, Status> {
        let request = request.into_inner();
        let change = if request.delete {
            Change::Delete
        } else if request.finalize {
            Change::Finalize
        } else {
            Change::Pin(request.pinned)
        };
        let history = &self.builder.parts().recorder.history;
        let changed = history.change(&self.namespace.name, &request.r#ref, change);
        changed.await.map_err(|e| failed(&e))?;
        Ok(Response::new(wire::UpdateBuildHistoryResponse {}))
    }
}

/// An answer that tells the daemon's time, to which clients relate the times in it.
fn dated<T>(answers: Answers<T>) -> Response<Answers<T>> {
    let mut response = Response::new(answers);
    if let Ok(now) = jiff::Timestamp::now().to_string().parse() {
        let headers = response.metadata_mut();
        headers.insert("buildkit-current-timestamp", now);
    }
    response
}

fn failed(error: &HistoryError) -> Status {
    to_status(&Failure::from_error(error))
}

impl Endpoint {
    /// The progress of a build that the history remembers.
    async fn replayed(&self, id: &str) -> Result<Option<Vec<wire::StatusResponse>>, Failure> {
        let history = &self.builder.parts().recorder.history;
        let found = history.find(&self.namespace.name, id).await;
        let Some(record) = found.map_err(|e| Failure::from_error(&e))? else {
            return Ok(None);
        };
        let Some(logs) = record.logs else {
            return Ok(Some(Vec::new()));
        };
        let blobs = history.blobs_of(&self.namespace.name).blobs;
        let mut data = blobs.open(&logs.digest, 0).await?;
        let mut bytes = bytes::BytesMut::new();
        while let Some(chunk) = data.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        Ok(Some(history::replay(bytes.freeze())))
    }
}

/// Filters of records; `None` where all pass, as an empty one lets all pass.
fn filters(texts: &[String]) -> Result<Option<Filters>, Status> {
    if texts.iter().any(String::is_empty) || texts.is_empty() {
        return Ok(None);
    }
    let read = Filters::parse(texts.iter().map(String::as_str));
    let read = read.map_err(|e| Status::unknown(format!("failed to parse filters: {e}")))?;
    Ok(Some(read))
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
        parents: record.parents,
    }
}
