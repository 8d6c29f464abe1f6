//! Marshals the vertices that one state needs, inputs first, each once. Iterative: graphs are deep.

use super::{Graph, Kind, Node, Output, State, VertexOptions, exec};
use crate::encode::encode_op;
use shipway_model::definition::{Location, SourceInfo};
use shipway_model::op::{
    BuildOp, DiffOp, FileAction, FileActionKind, FileCopy, FileOp, MergeOp, Op, PassthroughOp,
};
use shipway_model::{Definition, Digest, Edge, Platform, Vertex, VertexMeta};
use std::collections::{BTreeMap, HashMap};

/// Input of a nested build that holds its definition.
const DEFINITION_INPUT: &str = "buildkit.llb.definition";

/// Why a graph cannot become a definition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A process without program.
    #[error("arguments are required")]
    NoArgs,
    /// A deferred state that was never bound, or that stands for itself.
    #[error("a deferred state has no contents")]
    Unbound,
    /// A source that names nothing.
    #[error("source identifier can't be empty")]
    NoIdentifier,
}

impl Graph {
    /// The definition whose result is `state`. `platform` is used where a vertex needs one and neither it nor its state
    /// has one; the host's by default.
    ///
    /// # Errors
    /// A vertex that lacks what it cannot do without.
    pub fn definition(
        &self,
        state: &State,
        platform: Option<&Platform>,
    ) -> Result<Definition, BuildError> {
        marshal(Nodes::Kept(&self.nodes), &self.sources, state, platform)
    }

    /// The same for a graph that is of no more use; nothing is copied.
    ///
    /// # Errors
    /// A vertex that lacks what it cannot do without.
    pub fn into_definition(
        self,
        state: &State,
        platform: Option<&Platform>,
    ) -> Result<Definition, BuildError> {
        let nodes = self.nodes.into_iter().map(Some).collect();
        marshal(Nodes::Given(nodes), &self.sources, state, platform)
    }
}

fn marshal(
    nodes: Nodes<'_>,
    sources: &[SourceInfo],
    state: &State,
    platform: Option<&Platform>,
) -> Result<Definition, BuildError> {
    let Some(target) = nodes.resolve(state.output())? else {
        return Ok(Definition::default());
    };
    let count = nodes.len();
    let mut marshal = Marshal {
        nodes,
        sources,
        platform: platform.map_or_else(Platform::host, Platform::clone),
        places: vec![None; count],
        by_digest: HashMap::with_capacity(count),
        definition: Definition {
            vertices: Vec::with_capacity(count),
            ..Definition::default()
        },
        locations: Vec::with_capacity(count),
        files: HashMap::new(),
    };
    marshal.visit(target.node)?;
    let vertex = marshal.places[target.node].ok_or(BuildError::Unbound)?;
    let Marshal {
        mut definition,
        locations,
        ..
    } = marshal;
    definition.target = Some(Edge {
        vertex,
        output: target.index,
    });
    let digests = definition.vertices.iter().map(|vertex| vertex.digest);
    let located = digests.zip(locations);
    let located = located.filter(|(_, locations)| !locations.is_empty());
    definition.source_maps.locations = located.collect();
    Ok(definition)
}

/// Nodes that stay, or that may be used up.
enum Nodes<'a> {
    Kept(&'a [Node]),
    Given(Vec<Option<Node>>),
}

impl Nodes<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Kept(nodes) => nodes.len(),
            Self::Given(nodes) => nodes.len(),
        }
    }

    /// `None` where it is used up.
    fn get(&self, node: usize) -> Option<&Node> {
        match self {
            Self::Kept(nodes) => nodes.get(node),
            Self::Given(nodes) => nodes.get(node).and_then(Option::as_ref),
        }
    }

    fn take(&mut self, node: usize) -> Option<Node> {
        match self {
            Self::Kept(nodes) => nodes.get(node).cloned(),
            Self::Given(nodes) => nodes.get_mut(node).and_then(Option::take),
        }
    }

    /// What an output stands for after deferred states are looked through.
    fn resolve(&self, mut output: Option<Output>) -> Result<Option<Output>, BuildError> {
        for _ in 0..=self.len() {
            let Some(Output { node, .. }) = output else {
                return Ok(None);
            };
            match self.get(node).map(|node| &node.kind) {
                Some(Kind::Unbound) => return Err(BuildError::Unbound),
                Some(Kind::Alias(bound)) => output = *bound,
                _ => return Ok(output),
            }
        }
        Err(BuildError::Unbound)
    }

    /// Inputs in the order in which clients visit them. It only decides the order of vertices in the definition.
    fn visit_order(&self, node: usize) -> Result<Vec<usize>, BuildError> {
        let Some(node) = self.get(node) else {
            return Ok(Vec::new());
        };
        let mut nodes = Vec::new();
        let mut visit = |output: Option<Output>| {
            nodes.extend(self.resolve(output)?.map(|output| output.node));
            Ok(())
        };
        match &node.kind {
            Kind::Source(_) | Kind::Unbound | Kind::Alias(_) => {}
            Kind::Exec(exec) => exec.sources.iter().copied().try_for_each(visit)?,
            Kind::File(actions) => {
                let outputs = actions.iter().rev();
                let mut outputs = outputs.flat_map(|action| [action.base, action.source]);
                outputs.try_for_each(visit)?;
            }
            Kind::Merge(inputs)
            | Kind::Passthrough { inputs, .. }
            | Kind::Imported { inputs, .. } => {
                inputs.iter().copied().map(Some).try_for_each(visit)?;
            }
            Kind::Build { input, .. } => visit(*input)?,
            Kind::Diff { lower, upper } => {
                visit(*lower)?;
                visit(*upper)?;
            }
        }
        Ok(nodes)
    }
}

struct Marshal<'a> {
    nodes: Nodes<'a>,
    sources: &'a [SourceInfo],
    platform: Platform,
    /// Vertex index of each node that is done.
    places: Vec<Option<usize>>,
    by_digest: HashMap<Digest, usize>,
    definition: Definition,
    /// Of each vertex of the definition.
    locations: Vec<Vec<Location>>,
    /// Source files of the graph that the definition uses.
    files: HashMap<usize, usize>,
}

impl Marshal<'_> {
    fn visit(&mut self, root: usize) -> Result<(), BuildError> {
        let mut stack = vec![(root, self.nodes.visit_order(root)?)];
        stack[0].1.reverse();
        while let Some((node, pending)) = stack.last_mut() {
            let Some(input) = pending.pop() else {
                let node = *node;
                stack.pop();
                self.marshal(node)?;
                continue;
            };
            if self.places[input].is_none() {
                let mut order = self.nodes.visit_order(input)?;
                order.reverse();
                stack.push((input, order));
            }
        }
        Ok(())
    }

    fn marshal(&mut self, index: usize) -> Result<(), BuildError> {
        if self.places[index].is_some() {
            return Ok(());
        }
        let Some(Node { kind, options }) = self.nodes.take(index) else {
            return Ok(());
        };
        let mut options = options;
        let locations = std::mem::take(&mut options.locations);
        let vertex = match kind {
            Kind::Imported { vertex, inputs } => {
                let inputs_of = Inputs::new(self);
                let edges = inputs.iter().map(|&input| inputs_of.edge(Some(input)));
                let edges = edges
                    .collect::<Result<Vec<_>, _>>()?
                    .into_iter()
                    .flatten()
                    .collect();
                Vertex {
                    inputs: edges,
                    ..*vertex
                }
            }
            kind => self.vertex(kind, options)?,
        };
        let place = self.place(vertex);
        self.places[index] = Some(place);
        self.locate(place, locations);
        Ok(())
    }

    fn vertex(&self, kind: Kind, options: VertexOptions) -> Result<Vertex, BuildError> {
        let mut inputs = Inputs::new(self);
        let state_platform = match &kind {
            Kind::Exec(exec) => exec.platform.clone(),
            _ => None,
        };
        let op = op(kind, &mut inputs)?;
        let edges = inputs.edges;
        let digests: Vec<(Digest, usize)> = edges
            .iter()
            .map(|edge| (self.definition.vertices[edge.vertex].digest, edge.output))
            .collect();
        let platform = self.platform_of(&op, options.platform.map(|own| *own), state_platform);
        let bytes = encode_op(&op, &digests, platform.as_ref(), &options.filters);
        Ok(Vertex {
            digest: Digest::of(&bytes),
            bytes: bytes.into(),
            inputs: edges,
            op,
            platform,
            constraints: options.filters,
            meta: options.meta,
        })
    }

    /// Only processes and images differ between platforms.
    fn platform_of(
        &self,
        op: &Op,
        own: Option<Platform>,
        of_state: Option<Platform>,
    ) -> Option<Platform> {
        let specific = match op {
            Op::Exec(_) => true,
            Op::Source(source) => {
                let scheme = source.split().map(|(scheme, _)| scheme);
                matches!(scheme, Some("docker-image" | "oci-layout"))
            }
            _ => false,
        };
        specific.then(|| own.or(of_state).unwrap_or_else(|| self.platform.clone()))
    }

    fn place(&mut self, vertex: Vertex) -> usize {
        if let Some(&place) = self.by_digest.get(&vertex.digest) {
            merge_meta(&mut self.definition.vertices[place].meta, vertex.meta);
            return place;
        }
        let place = self.definition.vertices.len();
        self.by_digest.insert(vertex.digest, place);
        self.definition.vertices.push(vertex);
        self.locations.push(Vec::new());
        place
    }

    fn locate(&mut self, place: usize, mut locations: Vec<Location>) {
        let infos = &mut self.definition.source_maps.infos;
        for location in &mut locations {
            location.source = *self.files.entry(location.source).or_insert_with(|| {
                infos.push(self.sources[location.source].clone());
                infos.len() - 1
            });
        }
        let known = &mut self.locations[place];
        if known.is_empty() {
            *known = locations;
        } else {
            known.extend(locations);
        }
    }
}

/// Two vertices turned out to be one: what either says holds, the later one wins.
fn merge_meta(into: &mut VertexMeta, other: VertexMeta) {
    into.ignore_cache |= other.ignore_cache;
    into.description.extend(other.description);
    into.caps.extend(other.caps);
    into.export_cache = other.export_cache.or(into.export_cache);
    into.progress_group = other.progress_group.or(into.progress_group.take());
    into.linux_resources = other.linux_resources.or(into.linux_resources.take());
}

/// Collects a vertex's inputs, each edge once.
struct Inputs<'a> {
    marshal: &'a Marshal<'a>,
    edges: Vec<Edge>,
}

impl<'a> Inputs<'a> {
    fn new(marshal: &'a Marshal<'_>) -> Self {
        Self {
            marshal,
            edges: Vec::new(),
        }
    }

    fn edge(&self, output: Option<Output>) -> Result<Option<Edge>, BuildError> {
        let output = self.marshal.nodes.resolve(output)?;
        Ok(output.map(|output| Edge {
            vertex: self.marshal.places[output.node].expect("inputs are marshalled first"),
            output: output.index,
        }))
    }

    /// Index of the input, shared between equal ones.
    fn add(&mut self, output: Option<Output>) -> Result<Option<usize>, BuildError> {
        let Some(edge) = self.edge(output)? else {
            return Ok(None);
        };
        if let Some(index) = self.edges.iter().position(|known| *known == edge) {
            return Ok(Some(index));
        }
        Ok(Some(self.push(edge)))
    }

    fn push(&mut self, edge: Edge) -> usize {
        self.edges.push(edge);
        self.edges.len() - 1
    }
}

fn op(kind: Kind, inputs: &mut Inputs<'_>) -> Result<Op, BuildError> {
    Ok(match kind {
        Kind::Source(source) if source.identifier.is_empty() => {
            return Err(BuildError::NoIdentifier);
        }
        Kind::Source(source) => Op::Source(source),
        Kind::Exec(exec) if exec.op.meta.args.is_empty() => return Err(BuildError::NoArgs),
        Kind::Exec(exec) => {
            let exec::ExecNode {
                mut op, sources, ..
            } = *exec;
            for (mount, source) in op.mounts.iter_mut().zip(sources) {
                mount.input = inputs.add(source)?;
            }
            Op::Exec(Box::new(op))
        }
        Kind::File(actions) => Op::File(file_op(actions, inputs)?),
        Kind::Merge(states) => {
            let mut merge = MergeOp::default();
            for state in states {
                if let Some(edge) = inputs.edge(Some(state))? {
                    merge.inputs.push(inputs.push(edge));
                }
            }
            Op::Merge(merge)
        }
        Kind::Build { input, attrs } => Op::Build(build_op(input, attrs, inputs)?),
        Kind::Diff { lower, upper } => {
            let mut push = |output| {
                let edge = inputs.edge(output)?;
                Ok::<_, BuildError>(edge.map(|edge| inputs.push(edge)))
            };
            Op::Diff(DiffOp {
                lower: push(lower)?,
                upper: push(upper)?,
            })
        }
        Kind::Passthrough {
            id,
            inputs: states,
            outputs,
        } => {
            for state in states {
                if let Some(edge) = inputs.edge(Some(state))? {
                    inputs.push(edge);
                }
            }
            let outputs = outputs.into_iter().map(Some).collect();
            Op::Passthrough(PassthroughOp { id, outputs })
        }
        Kind::Unbound | Kind::Alias(_) | Kind::Imported { .. } => return Err(BuildError::Unbound),
    })
}

fn build_op(
    definition: Option<Output>,
    attrs: BTreeMap<String, String>,
    inputs: &mut Inputs<'_>,
) -> Result<BuildOp, BuildError> {
    let input = inputs.add(definition)?;
    let named = input.map(|index| (DEFINITION_INPUT.to_owned(), index));
    Ok(BuildOp {
        builder: None,
        inputs: named.into_iter().collect(),
        attrs,
    })
}

fn file_op(
    actions: Vec<super::file::ActionNode>,
    inputs: &mut Inputs<'_>,
) -> Result<FileOp, BuildError> {
    let mut numbered = Vec::with_capacity(actions.len());
    for action in &actions {
        let base = inputs.add(action.base)?;
        numbered.push((base, inputs.add(action.source)?));
    }
    let count = inputs.edges.len();
    let last = actions.len() - 1;
    let actions = actions
        .into_iter()
        .zip(numbered)
        .enumerate()
        .map(|(place, (action, at))| {
            let (base, source) = at;
            let mut kind = action.kind;
            if let Some(owner) = &action.owner {
                set_owner(&mut kind, owner.resolve(base));
            }
            FileAction {
                input: if place == 0 {
                    base
                } else {
                    Some(count + place - 1)
                },
                secondary_input: source,
                output: (place == last).then_some(0),
                kind,
            }
        });
    Ok(FileOp {
        actions: actions.collect(),
    })
}

fn set_owner(kind: &mut FileActionKind, new: shipway_model::op::ChownOpt) {
    match kind {
        FileActionKind::Copy(FileCopy { owner, .. })
        | FileActionKind::MkFile { owner, .. }
        | FileActionKind::MkDir { owner, .. }
        | FileActionKind::Symlink { owner, .. } => *owner = Some(new),
        FileActionKind::Rm { .. } => {}
    }
}
