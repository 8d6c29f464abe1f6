//! Bounds on definitions that come from outside. They only keep memory and time finite; real builds stay far below.

/// Ops of one definition.
pub(crate) const OPS: usize = 200_000;
/// Bytes of all ops of one definition.
pub(crate) const BYTES: usize = 64 << 20;
/// Vertices on the longest path.
pub(crate) const DEPTH: usize = 100_000;
/// Inputs of one op.
pub(crate) const INPUTS: usize = 65_536;
/// Mounts of one exec op, or actions of one file op.
pub(crate) const PARTS: usize = 65_536;
