//! What a build hands in. It decides only whether that is a graph.

use std::sync::Arc;

use crate::{EngineError, Operation};

/// One output of a vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// Position in [`Graph::vertices`].
    pub vertex: usize,
    /// Which output.
    pub output: usize,
}

/// Operations and how they feed each other. Inputs stand before the vertices that take them.
pub struct Graph<V> {
    /// The vertices.
    pub vertices: Vec<Arc<dyn Operation<V>>>,
    /// Inputs of each vertex, in its order.
    pub inputs: Vec<Vec<Edge>>,
}

impl<V> Default for Graph<V> {
    fn default() -> Self {
        Self {
            vertices: Vec::new(),
            inputs: Vec::new(),
        }
    }
}

impl<V> Clone for Graph<V> {
    fn clone(&self) -> Self {
        Self {
            vertices: self.vertices.clone(),
            inputs: self.inputs.clone(),
        }
    }
}

impl<V> Graph<V> {
    /// Adds a vertex after its inputs and returns its position.
    pub fn add(&mut self, operation: Arc<dyn Operation<V>>, inputs: Vec<Edge>) -> usize {
        self.vertices.push(operation);
        self.inputs.push(inputs);
        self.vertices.len() - 1
    }

    pub(crate) fn check(&self, target: Edge) -> Result<(), EngineError> {
        let invalid = |reason| Err(EngineError::InvalidGraph { reason });
        if self.vertices.len() != self.inputs.len() {
            return invalid("it has not one list of inputs per vertex");
        }
        if target.vertex >= self.vertices.len() {
            return invalid("its target does not exist");
        }
        let forward = |(at, inputs): (usize, &Vec<Edge>)| inputs.iter().any(|i| i.vertex >= at);
        if self.inputs.iter().enumerate().any(forward) {
            return invalid("a vertex stands before its input");
        }
        Ok(())
    }
}
