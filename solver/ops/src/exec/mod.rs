//! The exec operation: runs one step in its build's task and turns what it wrote into layers.

mod caller;
mod clip;
pub(crate) mod container;
mod ends;
pub(crate) mod failed;
mod net_files;
mod plan;
mod run;
mod scratch;
mod seccomp;
mod spec;
mod specification;
mod ssh;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use jiff::Timestamp;
use shipway_backend::Exit;
use shipway_engine::{CacheMap, OpContext, Operation, VertexInfo};
use shipway_layers::Snapshot;
use shipway_model::definition::LinuxResources;
use shipway_model::op::{ContentCache, ExecOp, MountKind};
use shipway_model::{Failure, Platform, Vertex};

pub use clip::LogLimits;
pub use net_files::DnsConfig;
pub use plan::View;

use crate::content::{ContentInput, Unlazy, content_dep, selector_digest};
use crate::graph::OpsEnv;

/// A process as an operation.
pub(crate) struct ExecOperation {
    info: VertexInfo,
    ops: Arc<OpsEnv>,
    op: ExecOp,
    inputs: usize,
    platform: Platform,
    resources: Option<LinuxResources>,
    marshalled: Marshalled,
    measured: OnceLock<Arc<Measured>>,
}

/// How a step's process ended, and what it had used by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// When.
    pub ended: Timestamp,
    /// How.
    pub exit: Exit,
}

/// The vertex as its definition has it, for whoever examines its failure.
#[derive(Clone)]
pub(crate) struct Marshalled {
    op: Arc<[u8]>,
    description: BTreeMap<String, String>,
}

impl Marshalled {
    pub(crate) fn of(vertex: &Vertex) -> Self {
        Self {
            op: Arc::clone(&vertex.bytes),
            description: vertex.meta.description.clone(),
        }
    }
}

/// What the mounts of one input contribute to the step's key.
#[derive(Debug, Clone, PartialEq, Default)]
struct MountDep {
    selectors: Vec<String>,
    by_content: bool,
}

impl ExecOperation {
    pub(crate) fn new(info: VertexInfo, ops: Arc<OpsEnv>, vertex: &Vertex, op: ExecOp) -> Self {
        let platform = vertex
            .platform
            .as_ref()
            .unwrap_or(&ops.env.platform)
            .normalized();
        let resources = vertex.meta.linux_resources.as_deref().cloned();
        Self {
            info,
            ops,
            op,
            inputs: vertex.inputs.len(),
            platform,
            resources,
            marshalled: Marshalled::of(vertex),
            measured: OnceLock::new(),
        }
    }
}

/// How each input counts, by its mounts (BuildKit: a mount counts by content where no file that it does not select can
/// reach an output; of several mounts of one input the last decides).
fn mount_deps(op: &ExecOp, inputs: usize) -> Result<Vec<MountDep>, Failure> {
    let mut deps = vec![MountDep::default(); inputs];
    for mount in &op.mounts {
        if !matches!(mount.kind, MountKind::Bind | MountKind::Cache { .. }) {
            continue;
        }
        let Some(input) = mount.input else { continue };
        let dep = deps.get_mut(input).ok_or_else(|| {
            Failure::new(format!(
                "mount {} names input {input} of {inputs}",
                mount.dest
            ))
        })?;
        let selector = clean(&mount.selector);
        let whole = selector == "/";
        dep.selectors.push(selector);
        let safe = mount.output.is_none() || mount.readonly || whole;
        dep.by_content = match mount.content_cache {
            ContentCache::On if !safe => {
                return Err(Failure::new(format!(
                    "mount {} cannot be cached by content: it has an output and selects a part",
                    mount.dest
                )));
            }
            ContentCache::On => true,
            ContentCache::Off => false,
            ContentCache::Default => safe && mount.dest != "/",
        };
    }
    Ok(deps)
}

/// A mount's source path, absolute and clean.
fn clean(selector: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in selector.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[async_trait]
impl Operation<Snapshot> for ExecOperation {
    fn vertex(&self) -> &VertexInfo {
        &self.info
    }

    async fn cache_map(&self, _ctx: &OpContext) -> Result<CacheMap<Snapshot>, Failure> {
        let key = shipway_cache::key::exec(&self.op, &self.platform);
        let mut map = CacheMap::new(key, self.inputs);
        let deps = mount_deps(&self.op, self.inputs)?;
        for (input, (dep, mounts)) in map.deps.iter_mut().zip(deps).enumerate() {
            if !mounts.selectors.is_empty() {
                dep.selector = Some(selector_digest(mounts.selectors.iter()));
            }
            if mounts.by_content {
                let of = ContentInput {
                    env: &self.ops.env,
                    vertex: &self.marshalled,
                    input,
                };
                dep.content = Some(content_dep(of, &mounts.selectors));
            }
            dep.prepare = Some(Arc::new(Unlazy(Arc::clone(&self.ops.env))));
        }
        if self.info.ignore_cache {
            plan::clear_cache_mounts(&self.op, &self.ops.cache_mounts)?;
        }
        Ok(map)
    }

    async fn execute(
        &self,
        ctx: &OpContext,
        inputs: Vec<Snapshot>,
    ) -> Result<Vec<Snapshot>, Failure> {
        run::run(self, ctx, inputs).await
    }

    fn facts(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::clone(self.measured.get()?) as _)
    }
}

#[cfg(test)]
mod tests {
    use shipway_model::op::Mount;

    use super::*;

    fn mount(dest: &str, selector: &str, output: Option<usize>, readonly: bool) -> Mount {
        Mount {
            input: Some(0),
            selector: selector.into(),
            dest: dest.into(),
            output,
            readonly,
            kind: MountKind::Bind,
            content_cache: ContentCache::Default,
            result_id: String::new(),
        }
    }

    #[test]
    fn only_mounts_that_cannot_leak_count_by_content() {
        for (dest, selector, output, readonly, by_content) in [
            ("/", "", Some(0), false, false),
            ("/m", "/o", None, true, true),
            ("/m", "/o", None, false, true),
            ("/m", "/o", Some(1), false, false),
            ("/m", "/o", Some(1), true, true),
            ("/m", "", Some(1), false, true),
        ] {
            let op = ExecOp {
                mounts: vec![mount(dest, selector, output, readonly)],
                ..ExecOp::default()
            };
            let deps = mount_deps(&op, 1).unwrap();
            assert_eq!(
                deps[0].by_content, by_content,
                "{dest} {selector} {output:?} {readonly}"
            );
        }
    }

    #[test]
    fn selectors_are_cleaned() {
        for (given, cleaned) in [("", "/"), ("/a/../b/", "/b"), ("../x", "/x")] {
            assert_eq!(clean(given), cleaned);
        }
    }
}
