//! The domain's plain types: digests, platforms, operations, definitions, descriptors, images, progress.
//! It never reads a file, a clock or a socket.

pub mod cache;
pub mod definition;
pub mod descriptor;
pub mod digest;
pub mod failure;
pub mod image;
pub mod metadata;
pub mod op;
pub mod platform;
pub mod policy;
pub mod progress;
pub mod reference;

pub use cache::CacheEntry;
pub use definition::{Definition, Edge, SourceMaps, Vertex, VertexMeta};
pub use descriptor::Descriptor;
pub use digest::Digest;
pub use failure::{Failure, FailureDetail, SourceRange};
pub use platform::Platform;
pub use reference::ImageRef;
