//! What a failed step saw and left, for debuggers: the results behind its mounts, before and after it ran. They live as
//! long as somebody holds the failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use shipway_layers::{Layers, Snapshot};
use shipway_model::failure::{FailedPart, Held};
use shipway_model::op::ExecOp;
use shipway_model::{Failure, FailureDetail};

use super::Marshalled;
use super::plan::{Discarded, Output, Plan};

/// The results that a failed step had and made.
#[derive(Debug, Clone)]
pub struct FailedStep {
    /// The step.
    pub op: FailedOp,
    /// As they were before the step: of a process by its mounts, of changes of files by the op's inputs, of content the
    /// one that could not be read.
    pub inputs: Vec<Option<KeptResult>>,
    /// As the step left them: of a process by its mounts, of changes of files by the actions.
    pub mounts: Vec<Option<KeptResult>>,
}

/// A step that failed.
#[derive(Debug, Clone)]
pub enum FailedOp {
    /// A process.
    Exec(Box<ExecOp>),
    /// Changes of files.
    File {
        /// Place of the action that failed.
        action: usize,
    },
    /// Anything whose key was not found for the content of an input.
    Content {
        /// Place of the input.
        input: usize,
    },
}

/// One result and the id that clients name it by.
#[derive(Debug, Clone)]
pub struct KeptResult {
    /// Unique in the daemon.
    pub id: Arc<str>,
    /// The files.
    pub snapshot: Snapshot,
}

impl KeptResult {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let now = Timestamp::now().as_nanosecond();
        Self {
            id: format!("failed-{now:x}-{number}").into(),
            snapshot,
        }
    }
}

impl FailedStep {
    /// Commits what a step has written. Blocks on the disk.
    pub(super) fn keep(
        op: &ExecOp,
        plan: Plan,
        name: &str,
        layers: &Layers,
    ) -> Result<Self, Failure> {
        let input = |mount: &shipway_model::op::Mount| {
            let input = mount.input.and_then(|i| plan.inputs.get(i))?;
            Some(KeptResult::new(input.clone()))
        };
        let inputs: Vec<Option<KeptResult>> = op.mounts.iter().map(input).collect();
        let mut mounts = inputs.clone();
        let written = plan.outputs.into_iter().map(|out| (out.mount, out.output));
        let discarded = plan.discarded.into_iter().map(|left| {
            let Discarded {
                mount,
                input,
                building,
            } = left;
            (mount, Output::Changed(input, building))
        });
        for (mount, output) in written.chain(discarded) {
            if let Output::Changed(input, building) = output {
                let layer = building.finish(name, Timestamp::now())?;
                // A step that filled the disk must not keep it full.
                layers.store().flush()?;
                mounts[mount] = Some(KeptResult::new(input.with(layer)));
            }
        }
        Ok(Self {
            op: FailedOp::Exec(Box::new(op.clone())),
            inputs,
            mounts,
        })
    }

    /// A step that did not run, since the content of an input gives it no key.
    pub(crate) fn unkeyed(input: usize, snapshot: Snapshot) -> Self {
        Self {
            op: FailedOp::Content { input },
            inputs: vec![Some(KeptResult::new(snapshot))],
            mounts: Vec::new(),
        }
    }

    /// The detail that goes with the failure of a vertex.
    pub(crate) fn detail(self, vertex: &Marshalled) -> FailureDetail {
        let ids = |results: &[Option<KeptResult>]| {
            let id = |result: &Option<KeptResult>| {
                result
                    .as_ref()
                    .map_or_else(String::new, |r| r.id.to_string())
            };
            results.iter().map(id).collect()
        };
        let subject = match self.op {
            FailedOp::Exec(_) => FailedPart::Whole,
            FailedOp::File { action } => FailedPart::FileAction(action),
            FailedOp::Content { input } => FailedPart::Content(input),
        };
        FailureDetail::Solve {
            subject,
            input_ids: ids(&self.inputs),
            mount_ids: ids(&self.mounts),
            op: Arc::clone(&vertex.op),
            description: vertex.description.clone(),
            held: Held::new(self),
        }
    }

    /// The step's process, if it is one.
    #[must_use]
    pub fn process(&self) -> Option<&ExecOp> {
        match &self.op {
            FailedOp::Exec(op) => Some(op),
            FailedOp::File { .. } | FailedOp::Content { .. } => None,
        }
    }

    /// What a failure's detail holds, if it is of a step.
    #[must_use]
    pub fn of(detail: &FailureDetail) -> Option<&Self> {
        let FailureDetail::Solve { held, .. } = detail else {
            return None;
        };
        held.get()
    }
}
