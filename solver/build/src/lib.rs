//! The use case: one request from definition to exports. Knows what a build is made of and in which order it happens; all
//! that it needs of the outside comes as backend traits.

mod bridge;
mod builder;
mod cache;
mod job;
mod policy;
pub mod progress;
pub mod request;
mod results;
pub mod upkeep;
mod vertex;

pub use builder::{Builder, Parts, Settings};
pub use job::Build;
pub use request::{Plan, Request};
pub use results::StoredResults;
