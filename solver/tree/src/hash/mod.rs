//! Content checksums of trees, byte for byte those of BuildKit, so that its caches and ours can be the same. Made of
//! one index per layer; a stack's checksum is computed from its layers' indices.

mod arriving;
mod content;
pub mod header;
pub mod index;
mod select;

pub use arriving::ArrivingSum;
pub use content::{Content, Indexed};
pub use index::{LayerIndex, Sum};
pub use select::{Selector, deduplicate};

#[cfg(test)]
mod tests;
