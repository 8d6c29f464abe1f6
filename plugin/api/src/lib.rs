//! BuildKit's API on one socket: Control, LLBBridge, health, traces, content (read only). Turns wire messages into the
//! domain's terms and back; decides nothing about builds.

mod binfmt;
mod bridge;
mod containers;
mod content;
mod control;
mod endpoint;
mod exec;
mod health;
mod stdio;
mod trace;
mod upkeep;
pub mod wire;
mod workers;

pub use endpoint::{Endpoint, Identity};
pub use stdio::StdioBridge;
pub use upkeep::{Repair, Repaired};
pub use workers::{DOCKERFILE_SYNTAX, Workers};
