//! Blobs made while the build goes on: as soon as a step on the way to an exported image commits its layer, the layer is
//! archived and compressed beside the steps that follow. The exporter then finds the blob, or waits for the rest of it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use shipway_layers::{BlobOptions, Need, Snapshot};
use shipway_model::op::Op;
use shipway_model::{Definition, Digest, Edge};
use shipway_source::Env;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Layers that become blobs as soon as they are there.
#[derive(Default)]
pub struct Eager {
    wanted: Mutex<HashMap<Digest, Vec<Wanted>>>,
    tasks: TaskTracker,
    stopped: CancellationToken,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Wanted {
    output: usize,
    options: BlobOptions,
    force: bool,
}

impl Eager {
    /// Wants the blobs of every layer that a definition's target will be made of.
    pub fn want(&self, definition: &Definition, options: BlobOptions, force: bool) {
        let mut wanted = self.wanted.lock();
        for edge in chain(definition) {
            let digest = definition.vertices[edge.vertex].digest;
            let want = Wanted {
                output: edge.output,
                options,
                force,
            };
            let wants = wanted.entry(digest).or_default();
            if !wants.contains(&want) {
                wants.push(want);
            }
        }
    }

    /// A vertex has run and committed its outputs.
    pub(crate) fn committed(
        &self,
        vertex: &Digest,
        outputs: &[Snapshot],
        env: &Arc<Env>,
        need: &Need,
    ) {
        let wants = self.wanted.lock().get(vertex).cloned().unwrap_or_default();
        for want in wants {
            let Some(snapshot) = outputs.get(want.output).cloned() else {
                continue;
            };
            let (env, need, stopped) = (Arc::clone(env), need.clone(), self.stopped.clone());
            self.tasks.spawn(async move {
                let Some((top, below)) = snapshot.layers().split_last() else {
                    return;
                };
                let made = env
                    .layers
                    .blob(top, below, &want.options, want.force, &need);
                tokio::select! {
                    made = made => if let Err(error) = made {
                        // The exporter meets the same error and reports it.
                        tracing::debug!(%error, "making a layer's blob ahead");
                    },
                    () = stopped.cancelled() => {}
                }
            });
        }
    }

    /// Ends what is still being made, and waits for it.
    pub async fn stop(&self) {
        self.stopped.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Outputs that the target's layers come from, the target first: each step's root, each change's destination.
fn chain(definition: &Definition) -> Vec<Edge> {
    let mut chain = Vec::new();
    let mut next = definition.target;
    while let Some(edge) = next {
        chain.push(edge);
        let vertex = &definition.vertices[edge.vertex];
        let input = match &vertex.op {
            Op::Exec(exec) => exec
                .mounts
                .iter()
                .find(|m| m.output == Some(edge.output))
                .and_then(|m| m.input),
            Op::File(file) => destination(file, edge.output, vertex.inputs.len()),
            Op::Source(_) | Op::Build(_) | Op::Merge(_) | Op::Diff(_) | Op::Passthrough(_) => None,
        };
        next = input.and_then(|input| vertex.inputs.get(input)).copied();
    }
    chain
}

/// The input that an output of file changes was made from.
fn destination(file: &shipway_model::op::FileOp, output: usize, inputs: usize) -> Option<usize> {
    let mut at = file
        .actions
        .iter()
        .position(|action| action.output == Some(output))?;
    loop {
        let input = file.actions.get(at)?.input?;
        if input < inputs {
            return Some(input);
        }
        at = input - inputs;
    }
}
