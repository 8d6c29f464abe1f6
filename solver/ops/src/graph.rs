//! The engine's graph for a definition: one operation per vertex.

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use shipway_backend::Networks;
use shipway_engine::{Edge, Engine, Graph, Operation, VertexInfo};
use shipway_layers::Snapshot;
use shipway_model::failure::FailureKind;
use shipway_model::op::{CdiDevice, NetMode, Op, SecurityMode, SourceOp};
use shipway_model::{Definition, Failure, FailureDetail, Vertex};
use shipway_source::Env;
use shipway_source::git::GitSource;
use shipway_source::http::HttpSource;
use shipway_source::image::ImageSource;
use shipway_source::layout::LayoutSource;
use shipway_source::local::{LocalSource, Mirrors};

use crate::cache_mounts::CacheMounts;
use crate::cdi::{self, CdiDirs, DeviceGrants};
use crate::eager::Eager;
use crate::exec::{DnsConfig, ExecOperation, LogLimits};
use crate::file::FileOperation;
use crate::nested::{BuildOperation, PassthroughOperation};
use crate::stack::{DiffOperation, MergeOperation};

/// What operations need beside [`Env`].
pub struct OpsEnv {
    /// The build's and the daemon's.
    pub env: Arc<Env>,
    /// Mirrors of client directories.
    pub mirrors: Arc<Mirrors>,
    /// Directories of cache mounts.
    pub cache_mounts: Arc<CacheMounts>,
    /// Private directory in memory for secrets and sockets of steps.
    pub step_files: PathBuf,
    /// Limits of a step's output.
    pub log_limits: LogLimits,
    /// Name service of steps.
    pub dns: DnsConfig,
    /// Networks of steps that ask for none in particular; the host's if there are none.
    pub networks: Option<Arc<dyn Networks>>,
    /// Blobs made ahead.
    pub eager: Eager,
    /// Runs nested builds.
    pub engine: Engine<Snapshot>,
    /// What the build's policies make of a nested build's graph.
    pub judge: Judge,
    /// What the build was granted.
    pub entitlements: Entitlements,
    /// Where devices are described.
    pub cdi: CdiDirs,
    /// Devices that the build was granted.
    pub devices: DeviceGrants,
}

/// Applies policies to a graph.
pub type Judge =
    Arc<dyn Fn(Definition) -> BoxFuture<'static, Result<Definition, Failure>> + Send + Sync>;

/// What a build was granted.
#[expect(clippy::struct_excessive_bools, reason = "one per entitlement")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entitlements {
    /// `network.host`.
    pub network_host: bool,
    /// `security.insecure`.
    pub security_insecure: bool,
}

/// Key of a vertex's description that holds its name.
const CUSTOM_NAME: &str = "llb.customname";

/// The engine's graph for a definition, and where in it the definition's target is; `None` for the empty definition.
pub fn graph(
    definition: &Definition,
    ops: &Arc<OpsEnv>,
) -> Result<(Graph<Snapshot>, Option<Edge>), Failure> {
    let mut graph = Graph::default();
    for vertex in &definition.vertices {
        let operation =
            operation(vertex, ops).map_err(|failure| at(vertex, definition, failure))?;
        let inputs = vertex.inputs.iter().map(|i| Edge {
            vertex: i.vertex,
            output: i.output,
        });
        graph.add(operation, inputs.collect());
    }
    let target = definition.target.map(|t| Edge {
        vertex: t.vertex,
        output: t.output,
    });
    Ok((graph, target))
}

/// The failure of a vertex, with where it stands in its source.
#[must_use]
pub fn at(vertex: &Vertex, definition: &Definition, failure: Failure) -> Failure {
    let failure = failure.with(FailureDetail::Vertex(vertex.digest));
    let locations = definition.source_maps.locations.get(&vertex.digest);
    locations
        .into_iter()
        .flatten()
        .fold(failure, |failure, location| {
            match definition.source_maps.infos.get(location.source) {
                Some(info) => failure.with(FailureDetail::Source {
                    info: Arc::new(info.clone()),
                    ranges: location.ranges.clone(),
                }),
                None => failure,
            }
        })
}

fn operation(vertex: &Vertex, ops: &Arc<OpsEnv>) -> Result<Arc<dyn Operation<Snapshot>>, Failure> {
    let info = VertexInfo {
        digest: vertex.digest,
        name: name(vertex).into(),
        progress_group: vertex.meta.progress_group.clone(),
        ignore_cache: vertex.meta.ignore_cache,
    };
    let inputs = vertex.inputs.len();
    Ok(match &vertex.op {
        Op::Exec(exec) => {
            granted(ops.entitlements, exec.network, exec.security)?;
            let mut exec = (**exec).clone();
            exec.cdi_devices = devices(&exec.cdi_devices, vertex, ops)?;
            Arc::new(ExecOperation::new(info, Arc::clone(ops), vertex, exec))
        }
        Op::Source(source) => self::source(info, vertex, source, ops)?,
        Op::File(file) => Arc::new(FileOperation::new(
            info,
            Arc::clone(ops),
            file.clone(),
            vertex,
        )),
        Op::Merge(merge) => Arc::new(MergeOperation::new(
            info,
            Arc::clone(&ops.env),
            merge.clone(),
            inputs,
        )),
        Op::Diff(diff) => Arc::new(DiffOperation::new(
            info,
            Arc::clone(&ops.env),
            diff.clone(),
            inputs,
        )),
        Op::Build(build) => Arc::new(BuildOperation::new(
            info,
            Arc::clone(ops),
            build.clone(),
            inputs,
        )),
        Op::Passthrough(pass) => Arc::new(PassthroughOperation::new(info, pass.clone(), inputs)),
    })
}

fn unsupported(what: &str) -> Failure {
    Failure::of_kind(
        FailureKind::Unimplemented,
        format!("{what} is not supported"),
    )
}

fn source(
    info: VertexInfo,
    vertex: &Vertex,
    source: &SourceOp,
    ops: &Arc<OpsEnv>,
) -> Result<Arc<dyn Operation<Snapshot>>, Failure> {
    let env = Arc::clone(&ops.env);
    Ok(match source.split() {
        Some(("docker-image", rest)) => {
            let platform = vertex.platform.as_ref();
            Arc::new(ImageSource::new(info, env, rest, &source.attrs, platform)?)
        }
        Some(("oci-layout", rest)) => {
            let platform = vertex.platform.as_ref();
            Arc::new(LayoutSource::new(info, env, rest, &source.attrs, platform)?)
        }
        Some(("local", rest)) => Arc::new(LocalSource::new(
            info,
            env,
            Arc::clone(&ops.mirrors),
            rest,
            &source.attrs,
        )?),
        Some(("git", rest)) => Arc::new(GitSource::new(info, env, rest, &source.attrs)?),
        Some(("http" | "https", _)) => Arc::new(HttpSource::new(
            info,
            env,
            &source.identifier,
            &source.attrs,
        )?),
        _ => return Err(unsupported(&format!("source {:?}", source.identifier))),
    })
}

/// The devices that a step gets.
fn devices(wanted: &[CdiDevice], vertex: &Vertex, ops: &OpsEnv) -> Result<Vec<CdiDevice>, Failure> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    if ops.cdi.0.is_none() {
        return cdi::without_devices(wanted, &name(vertex));
    }
    cdi::Devices::read(&ops.cdi).granted(wanted, &ops.devices)
}

/// Refuses what the build was not granted.
pub(crate) fn granted(
    granted: Entitlements,
    network: NetMode,
    security: SecurityMode,
) -> Result<(), Failure> {
    let refused = |what| {
        Err(Failure::of_kind(
            FailureKind::PermissionDenied,
            format!("{what} is not allowed"),
        ))
    };
    if network == NetMode::Host && !granted.network_host {
        return refused("network.host");
    }
    if security == SecurityMode::Insecure && !granted.security_insecure {
        return refused("security.insecure");
    }
    Ok(())
}

/// Text to show for a vertex.
fn name(vertex: &Vertex) -> String {
    if let Some(name) = vertex.meta.description.get(CUSTOM_NAME) {
        return name.clone();
    }
    match &vertex.op {
        Op::Source(source) => source.identifier.clone(),
        Op::Exec(exec) => exec.meta.args.join(" "),
        Op::File(file) => crate::file::describe(file),
        Op::Merge(merge) => format!("merge {:?}", merge.inputs),
        Op::Diff(diff) => format!("diff {:?} -> {:?}", diff.lower, diff.upper),
        Op::Build(_) => "build".into(),
        Op::Passthrough(_) => "passthrough".into(),
    }
}
