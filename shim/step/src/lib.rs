//! The contract between daemon and shim: what makes a container a build, what one of its steps is, and what a step
//! leaves behind. It decides formats only; it never mounts, starts or reads anything.
//!
//! A build is a container of runtime [`RUNTIME`] whose OCI specification carries the annotation [`BUILD_ANNOTATION`]
//! (see [`BuildContainer`]); its task needs no root mounts. A step is an `Exec` in that task whose `spec` is an `Any`
//! with type URL [`STEP_TYPE_URL`] and the JSON of a [`StepSpec`] as value; a further process of a running step is one with
//! [`VISIT_TYPE_URL`] and a [`VisitSpec`].

mod build;
mod error;
pub mod identity;
mod layers;
mod outcome;
mod step;
mod visit;

pub use build::{BUILD_ANNOTATION, BuildContainer, DAEMON_SOCKET, daemon_socket, is_build};
pub use error::InvalidStep;
pub use layers::{LayerStack, Writable};
pub use outcome::{StepFailure, StepOutcome};
pub use step::{MountAttribute, MountSource, MountStubs, StepMount, StepSpec};
pub use visit::VisitSpec;

/// The containerd runtime whose shim understands this contract.
pub const RUNTIME: &str = "io.containerd.shipway.v1";

/// Type URL of the `Any` that carries a [`VisitSpec`] as JSON.
pub const VISIT_TYPE_URL: &str = "shipway.dev/Visit";

/// Type URL of the `Any` that carries a [`StepSpec`] as JSON.
pub const STEP_TYPE_URL: &str = "shipway.dev/Step";
