//! Cache-key derivation, key links and key stores. It decides what makes two steps equal and remembers which results
//! they had; it never runs, loads or deletes a result.

mod disk;
pub mod export;
pub mod key;
mod kv;
mod link;
mod record;
mod rows;
mod store;

pub use link::{KeyId, KeyParts, Link, LinkRow, step};
pub use record::{Record, ResultId, ResultInfo, ResultUsage, Update};
pub use store::{Durable, KeyIndex, KeyStore, StoreError};
