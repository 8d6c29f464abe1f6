//! The harness: private daemons, real clients, and what is measured and shown with them.
//!
//! Decides how a test gets a containerd, a builder and a registry of its own and how all of it ends again. It never
//! touches the machine's own containerd, and ends processes only by a pid that it wrote down when it started them.

pub mod base_image;
pub mod builder;
pub mod clients;
pub mod command;
pub mod containerd;
pub mod demo;
mod error;
pub mod leaks;
pub mod machine;
pub mod process;
pub mod report;
pub mod stand;
pub mod teardown;

pub use error::{Error, Result};
