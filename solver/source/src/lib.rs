//! Sources as engine operations: images from registries and from containerd, files from the web,
//! git repositories, and the client's own directories and OCI layouts.

pub mod env;
pub mod git;
pub mod http;
pub mod image;
pub mod layout;
mod lease_slot;
pub mod local;
pub mod resolve;
mod smallblobs;
mod turns;
mod unpack;

pub use env::{Env, SandboxSlot};
pub use lease_slot::LeaseSlot;
pub use resolve::{ImageResolver, ResolvedImage};
