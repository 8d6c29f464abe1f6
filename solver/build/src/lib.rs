//! The use case: one request from definition to exports. Knows what a build is made of and in which order it happens; all
//! that it needs of the outside comes as backend traits.

mod bridge;
mod builder;
mod builds;
mod cache;
mod containers;
mod conversation;
mod explain;
mod exports;
mod image_frontend;
mod job;
mod judging;
mod keep;
mod look;
mod lookup;
mod pipe;
mod policy;
pub mod progress;
mod provenance;
mod recording;
pub mod request;
mod results;
mod scans;
mod scope;
mod scoped;
pub mod upkeep;
mod vertex;

pub use builder::{Builder, Parts, Settings};
pub use builds::Found;
pub use containers::{NewContainer, Place};
pub use conversation::{Call, Conversation};
pub use image_frontend::{BridgeServer, Caller};
pub use job::Build;
pub use recording::{BlobFormat, Recorder};
pub use request::{Plan, Request};
pub use results::StoredResults;
pub use scope::Producers;
pub use shipway_frontend::gateway::{ImagePolicy, Policy as FrontendPolicy};
pub use shipway_ops::{Container, ProcessRequest};
