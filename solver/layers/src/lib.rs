//! Layer handles: what a build's results are made of. A [`Snapshot`] is a list of [`Layer`]s, lowest first; a layer is a
//! directory in the store, or a blob that becomes one when somebody needs it. No containerd, no registry: those come as
//! backend traits and as a layer's provider.

mod blob;
mod digest;
mod layer;
mod manager;
mod meta;
mod need;
mod snapshot;
mod usage;
pub use usage::measure;

pub use blob::{BlobOptions, ChunkSink, ChunkStream, Level, StreamReader};
pub use layer::{Layer, Provider};
pub use manager::{Building, LayerError, Layers};
pub use meta::{BlobRecord, CREATED_AT, DESCRIPTION, LayerMeta};
pub use need::{Need, NoReport, Report};
pub use snapshot::{SavedLayer, SavedSnapshot, Snapshot};
