//! A build, from the wish to the result. `plan` is the wish, `conversation` the exchange with the daemon, `outcome` what
//! is kept of it.

mod cache;
mod conversation;
mod definition;
mod details;
mod failed;
mod index;
mod kept;
mod outcome;
pub mod plan;
pub(crate) mod policy;
mod request;
mod shell;

pub(crate) use conversation::{Build, Outcome, run};
pub(crate) use definition::{Vertex, ignore_cache, read as read_definition, vertices};
pub(crate) use details::snippets;
pub(crate) use outcome::{write_metadata, write_whole};
