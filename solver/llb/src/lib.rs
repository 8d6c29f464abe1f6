//! LLB: the graph that clients and frontends send, between its bytes and [`shipway_model::Definition`].
//!
//! - [`decode()`] reads a definition that may be hostile; every refusal has a name.
//! - [`encode()`] writes one back; an op's bytes are kept, so digests survive the round trip.
//! - [`definition_json()`] shows one to people and programs.
//! - [`build`] makes definitions: what a frontend or any other program uses as a library.
//! - [`op_json`] shows ops as BuildKit's Go structs are shown.
//! - [`caps`] lists what clients may ask for by name.
//!
//! It never runs, fetches or resolves anything.
#![forbid(unsafe_code)]

pub mod build;
pub mod caps;
pub mod decode;
pub mod encode;
pub mod git;
mod json;
mod limits;
pub mod op_json;
mod rewrite;

pub use build::{Graph, State, VertexOptions};
pub use decode::{InvalidDefinition, InvalidOp, decode, decode_bytes};
pub use encode::{encode, encode_bytes};
pub use json::{definition_json, op_proto_json};
pub use rewrite::replace_sources;

/// Key of a vertex's description that holds the name shown in progress displays.
pub const CUSTOM_NAME: &str = "llb.customname";
