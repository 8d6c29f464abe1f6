//! The harness: private daemons, real clients, and what is measured and shown with them.
//!
//! Decides how a test gets a containerd, a builder and a registry of its own and how all of it ends again. It never
//! touches the machine's own containerd, and ends processes only by a pid that it wrote down when it started them.

pub mod base_image;
pub mod bench;
pub mod builder;
pub mod clients;
pub mod command;
pub mod conformance;
pub mod containerd;
pub mod demo;
mod error;
pub mod http;
pub mod kills;
pub mod leaks;
pub mod machine;
pub mod process;
pub mod registry;
pub mod report;
mod scenarios;
pub mod stand;
pub mod teardown;
mod verdict;

pub use error::{Error, Result};
