//! LLBBridge: what a client that drives its own build asks of it. Calls name their build in a header, and may come before it.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use shipway_build::{Build, Builder, Call, Caller};
use shipway_frontend::{
    Bridge, FrontendRequest, FrontendResult, Refs, ResolveMode, ResolveRequest, SolveOptions,
};
use shipway_model::failure::FailureKind;
use shipway_model::metadata::{ImageMeta, SourceMeta};
use shipway_model::op::SourceOp;
use shipway_model::progress::Warning;
use shipway_model::{CacheEntry, Digest, Failure};
use shipway_proto::gateway as wire;
use shipway_proto::gateway::llb_bridge_server::LlbBridge;
use shipway_proto::{apicaps, pb};
use shipway_session::source_meta;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::wire::failure::{from_wire, to_status};
use crate::wire::{progress, result, solve};
use crate::{Endpoint, Workers, containers, exec};

/// How long a call waits for its build.
const BUILD_PATIENCE: Duration = Duration::from_secs(3);

/// Header that names a call's build.
const BUILD_ID: &str = "buildkit-controlapi-buildid";

/// Answers the bridge's calls.
#[derive(Clone)]
pub(crate) struct BridgeService {
    callers: Callers,
    workers: Workers,
}

/// Who calls.
#[derive(Clone)]
enum Callers {
    /// Clients; each call names its build.
    Clients(Arc<Builder>),
    /// One frontend.
    Frontend(Caller),
}

/// A caller, whose call is being answered while this lives.
pub(crate) struct Calling {
    pub(crate) caller: Caller,
    _call: Call,
}

impl std::ops::Deref for Calling {
    type Target = Build;

    fn deref(&self) -> &Build {
        &self.caller.build
    }
}

impl BridgeService {
    /// For the clients of a socket.
    pub(crate) fn of_clients(endpoint: &Endpoint) -> Self {
        Self {
            callers: Callers::Clients(Arc::clone(&endpoint.builder)),
            workers: endpoint.workers(),
        }
    }

    /// For one frontend in a container.
    pub(crate) fn of_frontend(caller: Caller, workers: Workers) -> Self {
        Self {
            callers: Callers::Frontend(caller),
            workers,
        }
    }

    pub(crate) async fn caller(&self, metadata: &MetadataMap) -> Result<Calling, Status> {
        let caller = match &self.callers {
            Callers::Frontend(caller) => caller.clone(),
            Callers::Clients(builder) => {
                let id = metadata.get(BUILD_ID).and_then(|id| id.to_str().ok());
                let id = id.ok_or_else(|| Status::unknown("no buildid found in context"))?;
                let found = builder.find(id, BUILD_PATIENCE).await;
                let build = found.and_then(|found| found.or_missing(id));
                let build = build.map_err(|e| to_status(&e))?;
                Caller {
                    conversation: Arc::clone(build.conversation()),
                    build,
                }
            }
        };
        Ok(Calling {
            _call: caller.conversation.call(),
            caller,
        })
    }

    async fn solved(
        &self,
        build: &Calling,
        request: wire::SolveRequest,
    ) -> Result<FrontendResult, Failure> {
        let evaluate = request.evaluate;
        let definition = request
            .definition
            .as_ref()
            .filter(|definition| !definition.def.is_empty());
        match (definition, request.frontend.as_str()) {
            (Some(_), frontend) if !frontend.is_empty() => Err(Failure::new(
                "cannot solve with both Definition and Frontend specified",
            )),
            (Some(definition), _) => {
                let options = SolveOptions {
                    evaluate: request.evaluate,
                    policies: solve::policies(&request.source_policies)?,
                    cache_imports: request
                        .cache_imports
                        .into_iter()
                        .map(|entry| CacheEntry {
                            kind: entry.r#type,
                            attrs: entry.attrs,
                        })
                        .collect(),
                };
                let bridge = build.caller.bridge();
                let solved = bridge.solve(solve::decode(definition)?, options).await?;
                Ok(FrontendResult {
                    refs: Refs::Single(solved),
                    ..FrontendResult::default()
                })
            }
            (None, "") => Ok(FrontendResult::default()),
            (None, name) => {
                let inputs = solve::inputs(&request.frontend_inputs)?;
                let frontend = FrontendRequest {
                    options: request.frontend_opt,
                    inputs,
                };
                let solved = build.caller.bridge().frontend(name, frontend).await?;
                if evaluate {
                    build.evaluate_result(&solved).await?;
                }
                Ok(solved)
            }
        }
    }
}

fn caps(ids: &[&str]) -> Vec<apicaps::ApiCap> {
    let each = ids.iter().map(|id| apicaps::ApiCap {
        id: (*id).to_owned(),
        enabled: true,
        ..apicaps::ApiCap::default()
    });
    each.collect()
}

fn mode(text: &str) -> Result<ResolveMode, Failure> {
    match text {
        "" | "default" => Ok(ResolveMode::Default),
        "pull" => Ok(ResolveMode::ForcePull),
        "local" => Ok(ResolveMode::PreferLocal),
        other => Err(Failure::new(format!("invalid resolvemode: {other}"))),
    }
}

/// The answer about a source that has no metadata to find: it stands for itself.
fn without_metadata(
    source: pb::SourceOp,
) -> Result<Response<wire::ResolveSourceMetaResponse>, Status> {
    if !source.identifier.starts_with("local://") {
        return unsupported(&format!("resolving {:?}", source.identifier));
    }
    Ok(Response::new(wire::ResolveSourceMetaResponse {
        source: Some(source),
        ..Default::default()
    }))
}

/// Session and store of an image in a client's OCI layout.
fn layout_store(source: &pb::SourceOp) -> (String, String) {
    let attr = |name: &str| source.attrs.get(name).cloned().unwrap_or_default();
    (attr("oci.session"), attr("oci.store"))
}

/// `(offset, length)` of a part of a file.
fn range(wire: wire::FileRange) -> Result<(u64, u64), Status> {
    let number = |value: i64| {
        u64::try_from(value)
            .map_err(|_| Status::invalid_argument("invalid range: a negative number"))
    };
    Ok((number(wire.offset)?, number(wire.length)?))
}

fn unsupported<T>(what: &str) -> Result<T, Status> {
    let message = format!("{what} is not supported");
    Err(to_status(&Failure::of_kind(
        FailureKind::Unimplemented,
        message,
    )))
}

/// What a source of git or of the web stands for now.
async fn resolve_remote(
    build: &Build,
    source: pb::SourceOp,
    request: wire::ResolveSourceMetaRequest,
) -> Result<Response<wire::ResolveSourceMetaResponse>, Status> {
    if request
        .http
        .is_some_and(|http| http.checksum_request.is_some())
    {
        return unsupported("a further checksum of an http source");
    }
    let objects = request.git.is_some_and(|git| git.return_object);
    let asked = SourceOp {
        identifier: source.identifier.clone(),
        attrs: source.attrs.clone().into_iter().collect(),
    };
    let found = build
        .resolve_source(&asked, &request.log_name, objects)
        .await
        .map_err(|e| to_status(&e))?;
    Ok(Response::new(source_meta(source, Some(found))))
}

#[tonic::async_trait]
impl LlbBridge for BridgeService {
    async fn resolve_image_config(
        &self,
        request: Request<wire::ResolveImageConfigRequest>,
    ) -> Result<Response<wire::ResolveImageConfigResponse>, Status> {
        let build = self.caller(request.metadata()).await?;
        let request = request.into_inner();
        let policies = solve::policies(&request.source_policies).map_err(|e| to_status(&e))?;
        // Resolver type 1 is a client's OCI layout.
        let oci_layout =
            (request.resolver_type == 1).then_some((request.session_id, request.store_id));
        let asked = ResolveRequest {
            reference: request.r#ref,
            platform: request.platform.map(containers::platform),
            mode: mode(&request.resolve_mode).map_err(|e| to_status(&e))?,
            log_name: request.log_name,
            oci_layout,
            policies,
        };
        let found = build.caller.bridge().resolve_image(asked).await;
        let found = found.map_err(|e| to_status(&e))?;
        if let Some(other) = found.replaced {
            let text = format!(
                "ref mutated by policy to non-image: docker-image://{} -> {}",
                found.reference, other.identifier
            );
            return Err(to_status(&Failure::new(text)));
        }
        Ok(Response::new(wire::ResolveImageConfigResponse {
            digest: found.digest.to_string(),
            config: found.config,
            r#ref: found.reference,
        }))
    }

    async fn resolve_source_meta(
        &self,
        request: Request<wire::ResolveSourceMetaRequest>,
    ) -> Result<Response<wire::ResolveSourceMetaResponse>, Status> {
        let build = self.caller(request.metadata()).await?;
        let mut request = request.into_inner();
        let policies = solve::policies(&request.source_policies).map_err(|e| to_status(&e))?;
        let source = request.source.take().unwrap_or_default();
        let kind = source.identifier.split("://").next().unwrap_or_default();
        if matches!(kind, "git" | "http" | "https") {
            return resolve_remote(&build, source, request).await;
        }
        let (scheme, reference) = source.identifier.split_once("://").unwrap_or_default();
        let oci_layout = (scheme == "oci-layout").then(|| layout_store(&source));
        if scheme != "docker-image" && oci_layout.is_none() {
            return without_metadata(source);
        }
        let asked = ResolveRequest {
            reference: reference.to_owned(),
            platform: request.platform.map(containers::platform),
            mode: mode(&request.resolve_mode).map_err(|e| to_status(&e))?,
            log_name: request.log_name,
            oci_layout,
            policies,
        };
        let found = build.caller.bridge().resolve_image(asked).await;
        let found = found.map_err(|e| to_status(&e))?;
        if let Some(other) = found.replaced {
            let source = Some(pb::SourceOp {
                identifier: other.identifier,
                attrs: other.attrs,
            });
            return Ok(Response::new(wire::ResolveSourceMetaResponse {
                source,
                ..Default::default()
            }));
        }
        let no_config = request.image.is_some_and(|image| image.no_config);
        let image = ImageMeta {
            digest: found.digest,
            config: if no_config {
                bytes::Bytes::new()
            } else {
                found.config
            },
        };
        let source = pb::SourceOp {
            identifier: format!("{scheme}://{}", found.reference),
            ..source
        };
        let known = Some(SourceMeta::Image(image));
        Ok(Response::new(source_meta(source, known)))
    }

    async fn solve(
        &self,
        request: Request<wire::SolveRequest>,
    ) -> Result<Response<wire::SolveResponse>, Status> {
        let build = self.caller(request.metadata()).await?;
        let solved = self
            .solved(&build, request.into_inner())
            .await
            .map_err(|e| to_status(&e))?;
        let result = Some(result::to_wire(&solved));
        Ok(Response::new(wire::SolveResponse {
            r#ref: String::new(),
            result,
        }))
    }

    async fn read_file(
        &self,
        request: Request<wire::ReadFileRequest>,
    ) -> Result<Response<wire::ReadFileResponse>, Status> {
        let build = self.caller(request.metadata()).await?;
        let request = request.into_inner();
        let range = request.range.map(range).transpose()?;
        let read = async {
            let of = build.find_ref(&request.r#ref)?;
            build.read_file(&of, &request.file_path, range).await
        };
        let data = read.await.map_err(|e| to_status(&e))?;
        Ok(Response::new(wire::ReadFileResponse { data }))
    }

    async fn read_dir(
        &self,
        request: Request<wire::ReadDirRequest>,
    ) -> Result<Response<wire::ReadDirResponse>, Status> {
        let build = self.caller(request.metadata()).await?;
        let request = request.into_inner();
        let read = async {
            let of = build.find_ref(&request.r#ref)?;
            build
                .read_dir(&of, &request.dir_path, &request.include_pattern)
                .await
        };
        let entries = read.await.map_err(|e| to_status(&e))?;
        let entries = entries.into_iter().map(result::stat).collect();
        Ok(Response::new(wire::ReadDirResponse { entries }))
    }

    async fn stat_file(
        &self,
        request: Request<wire::StatFileRequest>,
    ) -> Result<Response<wire::StatFileResponse>, Status> {
        let build = self.caller(request.metadata()).await?;
        let request = request.into_inner();
        let read = async {
            let of = build.find_ref(&request.r#ref)?;
            build.stat_file(&of, &request.path).await
        };
        let stat = read.await.map_err(|e| to_status(&e))?;
        Ok(Response::new(wire::StatFileResponse {
            stat: Some(result::stat(stat)),
        }))
    }

    async fn evaluate(
        &self,
        request: Request<wire::EvaluateRequest>,
    ) -> Result<Response<wire::EvaluateResponse>, Status> {
        let build = self.caller(request.metadata()).await?;
        let evaluated = async {
            let of = build.find_ref(&request.into_inner().r#ref)?;
            build.evaluate(&of).await
        };
        evaluated.await.map_err(|e| to_status(&e))?;
        Ok(Response::new(wire::EvaluateResponse {}))
    }

    async fn ping(
        &self,
        request: Request<wire::PingRequest>,
    ) -> Result<Response<wire::PongResponse>, Status> {
        let build = self.caller(request.metadata()).await?;
        Ok(Response::new(wire::PongResponse {
            frontend_api_caps: caps(shipway_llb::caps::GATEWAY),
            llb_caps: caps(shipway_llb::caps::LLB),
            workers: vec![self.workers.record(build.namespace()).await?],
        }))
    }

    async fn r#return(
        &self,
        request: Request<wire::ReturnRequest>,
    ) -> Result<Response<wire::ReturnResponse>, Status> {
        let build = self.caller(request.metadata()).await?;
        let request = request.into_inner();
        let returned = match (request.error, request.result) {
            (Some(error), _) => Err(from_wire(error)),
            (None, Some(result)) => result::from_wire(result, &build),
            (None, None) => return Err(Status::invalid_argument("result is required")),
        };
        let given = build.caller.conversation.give_back(returned);
        given.map_err(|e| to_status(&e))?;
        Ok(Response::new(wire::ReturnResponse {}))
    }

    async fn inputs(
        &self,
        request: Request<wire::InputsRequest>,
    ) -> Result<Response<wire::InputsResponse>, Status> {
        let build = self.caller(request.metadata()).await?;
        let inputs = build.caller.conversation.inputs().iter();
        let definitions = inputs.map(|(name, graph)| (name.clone(), shipway_llb::encode(graph)));
        Ok(Response::new(wire::InputsResponse {
            definitions: definitions.collect(),
        }))
    }

    async fn new_container(
        &self,
        request: Request<wire::NewContainerRequest>,
    ) -> Result<Response<wire::NewContainerResponse>, Status> {
        let build = self.caller(request.metadata()).await?;
        let request = request.into_inner();
        let filters = request.constraints.iter().flat_map(|c| &c.filter);
        let filters: Vec<String> = filters.cloned().collect();
        let worker = self.workers.record(build.namespace()).await?;
        if !crate::workers::matches(&worker, &filters)? {
            return Err(Status::not_found("no worker meets the constraints"));
        }
        let new = containers::new_container(request).map_err(|e| to_status(&e))?;
        let made = build.caller.new_container(new).await;
        made.map_err(|e| to_status(&e))?;
        Ok(Response::new(wire::NewContainerResponse {}))
    }

    async fn release_container(
        &self,
        request: Request<wire::ReleaseContainerRequest>,
    ) -> Result<Response<wire::ReleaseContainerResponse>, Status> {
        let build = self.caller(request.metadata()).await?;
        let id = request.into_inner().container_id;
        let released = build.caller.conversation.release_container(&id).await;
        released.map_err(|e| to_status(&e))?;
        Ok(Response::new(wire::ReleaseContainerResponse {}))
    }

    type ExecProcessStream = BoxStream<'static, Result<wire::ExecMessage, Status>>;

    async fn exec_process(
        &self,
        request: Request<Streaming<wire::ExecMessage>>,
    ) -> Result<Response<Self::ExecProcessStream>, Status> {
        let calling = self.caller(request.metadata()).await?;
        Ok(Response::new(exec::answers(calling, request.into_inner())))
    }

    async fn read_file_container(
        &self,
        request: Request<wire::ReadFileRequest>,
    ) -> Result<Response<wire::ReadFileResponse>, Status> {
        let build = self.caller(request.metadata()).await?;
        let request = request.into_inner();
        let range = request.range.map(range).transpose()?;
        let place = containers::place(&request.r#ref, request.mount_index, &request.file_path)?;
        let data = build.caller.read_container_file(place, range).await;
        let data = data.map_err(|e| to_status(&e))?;
        Ok(Response::new(wire::ReadFileResponse { data }))
    }

    async fn read_dir_container(
        &self,
        request: Request<wire::ReadDirRequest>,
    ) -> Result<Response<wire::ReadDirResponse>, Status> {
        let build = self.caller(request.metadata()).await?;
        let request = request.into_inner();
        let place = containers::place(&request.r#ref, request.mount_index, &request.dir_path)?;
        let pattern = &request.include_pattern;
        let entries = build.caller.list_container_dir(place, pattern).await;
        let entries = entries.map_err(|e| to_status(&e))?;
        let entries = entries.into_iter().map(result::stat).collect();
        Ok(Response::new(wire::ReadDirResponse { entries }))
    }

    async fn stat_file_container(
        &self,
        request: Request<wire::StatFileRequest>,
    ) -> Result<Response<wire::StatFileResponse>, Status> {
        let build = self.caller(request.metadata()).await?;
        let request = request.into_inner();
        let place = containers::place(&request.r#ref, request.mount_index, &request.path)?;
        let stat = build.caller.stat_container_path(place).await;
        let stat = stat.map_err(|e| to_status(&e))?;
        Ok(Response::new(wire::StatFileResponse {
            stat: Some(result::stat(stat)),
        }))
    }

    async fn warn(
        &self,
        request: Request<wire::WarnRequest>,
    ) -> Result<Response<wire::WarnResponse>, Status> {
        let build = self.caller(request.metadata()).await?;
        let request = request.into_inner();
        let vertex: Digest =
            request
                .digest
                .parse()
                .map_err(|e: shipway_model::digest::InvalidDigest| {
                    Status::invalid_argument(e.to_string())
                })?;
        let text = |bytes: bytes::Bytes| String::from_utf8_lossy(&bytes).into_owned();
        build.warn(Warning {
            vertex,
            level: i32::try_from(request.level).unwrap_or(i32::MAX),
            short: text(request.short),
            detail: request.detail.into_iter().map(text).collect(),
            url: request.url,
            info: request.info.map(|info| {
                Arc::new(shipway_model::definition::SourceInfo {
                    filename: info.filename,
                    data: info.data.to_vec(),
                    language: info.language,
                    definition: None,
                })
            }),
            ranges: request.ranges.iter().map(progress::range_from).collect(),
        });
        Ok(Response::new(wire::WarnResponse {}))
    }
}
