//! A validated graph of operations. Vertices stand in topological order: an input's vertex index is always smaller
//! than its user's. It holds no protobuf; `llb` makes it from bytes and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::op::Op;
use crate::{Digest, Platform};

/// A validated build graph and the edge that is wanted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Definition {
    /// Inputs before their users; no two with the same digest.
    pub vertices: Vec<Vertex>,
    /// What is asked for; `None` for the empty definition (scratch).
    pub target: Option<Edge>,
    /// Where the vertices come from, for error messages.
    pub source_maps: SourceMaps,
}

/// One output of one vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// Index into [`Definition::vertices`].
    pub vertex: usize,
    /// Which of its outputs.
    pub output: usize,
}

/// One operation of a [`Definition`].
#[derive(Debug, Clone, PartialEq)]
pub struct Vertex {
    /// Digest of `bytes`: the vertex's identity on the wire.
    pub digest: Digest,
    /// The marshalled op, kept so that the digest survives a round trip.
    pub bytes: Arc<[u8]>,
    /// In the op's order.
    pub inputs: Vec<Edge>,
    /// What to do.
    pub op: Op,
    /// Platform that the op asks for.
    pub platform: Option<Platform>,
    /// Worker filters, as sent.
    pub constraints: Vec<String>,
    /// What does not change the digest.
    pub meta: VertexMeta,
}

/// What describes a vertex without being part of its identity.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VertexMeta {
    /// Do not use the cache for this one.
    pub ignore_cache: bool,
    /// `llb.customname` and others.
    pub description: BTreeMap<String, String>,
    /// Whether exporters of caches must or must not take this one.
    pub export_cache: Option<bool>,
    /// Capabilities that the vertex needs.
    pub caps: BTreeMap<String, bool>,
    /// Group in progress displays.
    pub progress_group: Option<ProgressGroup>,
    /// CPU and memory limits; boxed since few vertices have any.
    pub linux_resources: Option<Box<LinuxResources>>,
}

/// Vertices that displays show as one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProgressGroup {
    /// Identity.
    pub id: String,
    /// Name to show.
    pub name: String,
    /// Shown only when a strong member runs.
    pub weak: bool,
}

/// Limits of a step; zero and empty mean none. Units as in the OCI runtime specification.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(
    missing_docs,
    reason = "named as in the OCI runtime specification's linux.resources"
)]
pub struct LinuxResources {
    pub memory: i64,
    pub memory_swap: i64,
    pub cpu_shares: u64,
    pub cpu_period: u64,
    pub cpu_quota: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
}

/// Which lines of which file each vertex comes from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SourceMaps {
    /// The files.
    pub infos: Vec<SourceInfo>,
    /// Locations by vertex digest.
    pub locations: BTreeMap<Digest, Vec<Location>>,
}

/// A source file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SourceInfo {
    /// Name.
    pub filename: String,
    /// Contents.
    pub data: Vec<u8>,
    /// `Dockerfile`, …
    pub language: String,
    /// The LLB that the file itself comes from, encoded (a `pb.Definition`), where known.
    pub definition: Option<Vec<u8>>,
}

/// Ranges in one source file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Location {
    /// Index into [`SourceMaps::infos`].
    pub source: usize,
    /// Ranges.
    pub ranges: Vec<crate::SourceRange>,
}

impl Definition {
    /// Vertices that `target` needs, itself included, inputs first.
    #[must_use]
    pub fn reachable(&self) -> Vec<usize> {
        let Some(target) = self.target else {
            return Vec::new();
        };
        let mut wanted = vec![false; self.vertices.len()];
        wanted[target.vertex] = true;
        for index in (0..=target.vertex).rev() {
            if !wanted[index] {
                continue;
            }
            self.vertices[index]
                .inputs
                .iter()
                .for_each(|input| wanted[input.vertex] = true);
        }
        (0..wanted.len()).filter(|&index| wanted[index]).collect()
    }
}
