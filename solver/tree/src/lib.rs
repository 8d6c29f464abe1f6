//! Filesystem trees of layers: compare, archive, extract, compress, hash and copy. A *layer* is one overlay upper
//! directory (whiteouts are character devices 0/0, `trusted.overlay.opaque=y` marks opaque directories), a *stack*
//! is a list of layers, bottom first. Everything here is synchronous; it never speaks to a daemon.

pub mod archive;
pub mod chmod;
pub mod codec;
pub mod compose;
pub mod compress;
pub mod differ;
mod difference;
pub mod error;
pub mod extract;
pub mod fill;
pub mod glob;
pub mod hash;
pub mod layer;
mod newest;
mod parallel;
pub mod stack;
pub mod stat;
pub mod tarball;
pub mod transfer;
pub mod usage;
pub mod users;
pub mod view;

pub use archive::{write_layer, write_tree};
pub use codec::Compression;
pub use compose::{Composer, Origin};
pub use compress::{Compressed, compress};
pub use difference::{difference, everything, explicit, has_opaque};
pub use error::{Error, Result};
pub use extract::{Expected, Extracted, Limits, extract_layer};
pub use layer::Layer;
pub use newest::newest_file;
pub use stack::{Entry, Last, MergedDir, Stack};
pub use stat::{Kind, Owner, Stat, Time};
pub use view::View;
