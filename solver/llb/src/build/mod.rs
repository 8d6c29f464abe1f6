//! Builds definitions: the library side of LLB. A [`Graph`] owns vertices, a [`State`] names one output of one of them
//! together with the settings (environment, directory, user, …) that the next process or file action starts from.
//! Nothing is marshalled before [`Graph::definition`], so a vertex may be bound late ([`Graph::deferred`]).
//!
//! The result is what BuildKit's Go client makes of the same calls, byte for byte in the ops.
//!
//! ```
//! use shipway_llb::build::{Graph, Image, Run, VertexOptions};
//!
//! let mut graph = Graph::default();
//! let base = graph.image(Image::new("docker.io/library/busybox:latest"), VertexOptions::default());
//! let run = Run::new(["/bin/sh", "-c", "echo hi > /hi"]);
//! let built = graph.run(&base.env("A", "1"), run, VertexOptions::named("say hi"));
//! let definition = graph.definition(built.root(), None).expect("a graph with a result");
//! assert_eq!(definition.vertices.len(), 2);
//! ```

mod exec;
mod file;
mod import;
mod marshal;
mod options;
mod source;
mod state;
mod vars;

pub use exec::{BindMount, Executed, Run, RunMount, Secret, SshSocket};
pub use file::{Chmod, Copy, FileActions, MkDir, MkFile, Owner, Rm, Symlink, clean};
pub use marshal::BuildError;
pub use options::VertexOptions;
pub use source::{Git, Http, Image, ImageBlob, LayoutStore, Local, LocalDiffer, ResolveMode};
pub use state::State;
pub use vars::Vars;

use shipway_model::definition::SourceInfo;
use shipway_model::op::SourceOp;
use shipway_model::{Digest, Vertex};
use std::collections::BTreeMap;

/// One output of one vertex of a [`Graph`]; `None` where used as an option is scratch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Output {
    node: usize,
    index: usize,
}

/// The vertices of one or more definitions that share them.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    sources: Vec<SourceInfo>,
}

#[derive(Debug, Clone)]
struct Node {
    kind: Kind,
    options: VertexOptions,
}

#[derive(Debug, Clone)]
enum Kind {
    Source(SourceOp),
    Exec(Box<exec::ExecNode>),
    File(Vec<file::ActionNode>),
    Merge(Vec<Output>),
    Diff {
        lower: Option<Output>,
        upper: Option<Output>,
    },
    /// The graph that a file of an input holds.
    Build {
        input: Option<Output>,
        attrs: BTreeMap<String, String>,
    },
    Passthrough {
        id: String,
        inputs: Vec<Output>,
        outputs: Vec<usize>,
    },
    /// Stands for another output, which is not named yet.
    Unbound,
    /// Stands for another output, or for scratch.
    Alias(Option<Output>),
    /// Came from a definition, bytes and all.
    Imported {
        vertex: Box<Vertex>,
        inputs: Vec<Output>,
    },
}

/// A place in a [`Graph`] that gets its contents later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deferred(usize);

/// Refers to a source file that a graph knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceFile(pub(crate) usize);

impl Graph {
    /// Declares a source file that vertices may come from.
    pub fn source_file(&mut self, info: SourceInfo) -> SourceFile {
        let known = self
            .sources
            .iter()
            .position(|known| same_file(known, &info));
        SourceFile(known.unwrap_or_else(|| {
            self.sources.push(info);
            self.sources.len() - 1
        }))
    }

    /// A state whose contents [`Graph::bind`] names later.
    pub fn deferred(&mut self) -> (Deferred, State) {
        let node = self.push(Kind::Unbound, VertexOptions::default());
        (Deferred(node), State::of(Output { node, index: 0 }))
    }

    /// Says what a deferred state stands for.
    pub fn bind(&mut self, place: Deferred, state: &State) {
        self.nodes[place.0].kind = Kind::Alias(state.output());
    }

    /// Stacks states, lowest first; settings are the first one's. Scratch adds nothing.
    pub fn merge(&mut self, states: &[State], options: VertexOptions) -> State {
        let full: Vec<&State> = states.iter().filter(|s| s.output().is_some()).collect();
        match full[..] {
            [] => State::scratch(),
            [one] => one.clone(),
            [first, ..] => {
                let inputs = full.iter().filter_map(|state| state.output()).collect();
                let node = self.push(Kind::Merge(inputs), options.cap("mergeop"));
                first.with_output(Some(Output { node, index: 0 }))
            }
        }
    }

    /// What `upper` adds to `lower`.
    pub fn diff(&mut self, lower: &State, upper: &State, options: VertexOptions) -> State {
        if lower.output().is_none() {
            return upper.clone();
        }
        let kind = Kind::Diff {
            lower: lower.output(),
            upper: upper.output(),
        };
        let node = self.push(kind, options.cap("diffop"));
        lower.with_output(Some(Output { node, index: 0 }))
    }

    /// `state`, but `dependencies` must have succeeded first. `id` tells equal ones apart.
    pub fn requires(
        &mut self,
        state: &State,
        id: &str,
        dependencies: &[State],
        options: VertexOptions,
    ) -> State {
        let Some(output) = state.output() else {
            return state.clone();
        };
        if dependencies.is_empty() {
            return state.clone();
        }
        let others = dependencies.iter().filter_map(State::output);
        let inputs = std::iter::once(output).chain(others).collect();
        let kind = Kind::Passthrough {
            id: id.to_owned(),
            inputs,
            outputs: vec![0],
        };
        let node = self.push(kind, options.cap("passthroughop"));
        state.with_output(Some(Output { node, index: 0 }))
    }

    /// Builds the definition that a file of `state` holds; its path is `buildkit.llb.definition` unless `file` is another.
    pub fn build(&mut self, state: &State, file: Option<&str>, options: VertexOptions) -> State {
        let attrs = file.map(|file| ("llbbuild.filename".to_owned(), file.to_owned()));
        let kind = Kind::Build {
            input: state.output(),
            attrs: attrs.into_iter().collect(),
        };
        let options = options.cap_if(file.is_some(), "source.buildop.llbfilename");
        let node = self.push(kind, options);
        State::of(Output { node, index: 0 })
    }

    fn push(&mut self, kind: Kind, options: VertexOptions) -> usize {
        self.nodes.push(Node { kind, options });
        self.nodes.len() - 1
    }
}

/// A client hands a graph back with its metadata written anew: where the file came from counts by what the vertices do.
fn same_file(a: &SourceInfo, b: &SourceInfo) -> bool {
    let text = |info: &SourceInfo| (info.filename.clone(), info.language.clone());
    if a.data != b.data || text(a) != text(b) {
        return false;
    }
    a.definition == b.definition || origin(a).is_some_and(|from| Some(from) == origin(b))
}

/// The result of the graph that a file came from; a vertex's digest covers all below it.
fn origin(info: &SourceInfo) -> Option<(Digest, usize)> {
    let definition = crate::decode_bytes(info.definition.as_deref()?).ok()?;
    let target = definition.target?;
    Some((definition.vertices[target.vertex].digest, target.output))
}

#[cfg(test)]
mod tests;
