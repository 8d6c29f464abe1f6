//! The shim under a real containerd 2.x, as root: builds and their steps, ordinary containers, and what happens when
//! something is killed. Needs `containerd` (2.0 or newer) and `ctr` in PATH, and a static busybox at /bin/busybox.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints what it measures"
)]

#[path = "containerd/builds.rs"]
mod builds;
#[path = "containerd/harness.rs"]
mod harness;
#[path = "containerd/killed.rs"]
mod killed;
#[path = "containerd/limits.rs"]
mod limits;
#[path = "containerd/ordinary.rs"]
mod ordinary;
#[path = "containerd/roots.rs"]
mod roots;
#[path = "containerd/spec.rs"]
mod spec;
#[path = "containerd/steps.rs"]
mod steps;
