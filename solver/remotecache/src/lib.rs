//! Build caches that travel: BuildKit's cache manifest, written to and read from registries, directories of clients and
//! images. What is imported is fetched layer by layer, when a build needs it. It knows no wire protocol: registries and
//! clients come as backend traits.

pub mod chains;
pub mod config;
mod export;
mod import;
mod index;
mod insecure;
pub mod options;
mod sink;

pub use export::{Exporting, OpenResult};
pub use import::{ImportError, ImportedCache, OpenLayer, Place, UNCOMPRESSED};
pub use index::Index;
pub use insecure::insecure;
pub use options::{CacheExport, CacheImport, ExportTo, InvalidCache, Mode};
pub use sink::Sink;
