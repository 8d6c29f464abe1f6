//! Sources as engine operations: images from registries and from containerd, and the client's own directories.

pub mod env;
pub mod image;
pub mod local;
pub mod resolve;
mod smallblobs;
mod unpack;

pub use env::{Env, SandboxSlot};
pub use resolve::{ImageResolver, ResolvedImage};
