//! The layer store, and containerd's Snapshots service over it.
//!
//! A *layer* is one directory of changes with an id of our own and no parent; a stack is an ordered list of layers.
//! Build steps use layers directly ([`LayerStore`]). containerd uses *entries* (key, parent, kind, labels), each of
//! which names a layer; many entries may name one, which is how a finished build step becomes an image's snapshot in
//! any namespace without being copied. A layer lives while an entry, a durable owner or a pin needs it.
//!
//! | file | decides |
//! | --- | --- |
//! | `state` | what a change does to entries, layers and owners (pure) |
//! | `journal` | how records are durable |
//! | `core` | how changes are serialised and share disk writes |
//! | `store`, `listing`, `usage`, `worker` | layers: create, commit, own, pin, collect, and what that leaves to later |
//! | `layout`, `trash` | directories |
//! | `snapshots`, `alias`, `mounts`, `filter` | entries: what containerd asks for |
//! | `recover`, `probe`, `foreign`, `repair` | what is trusted: at start, from others, against containerd |
//! | `service` | the gRPC service |
//!
//! It never calls containerd, never mounts anything that anybody sees, and never writes into a committed layer.

mod alias;
mod backend;
mod core;
mod error;
mod filter;
mod foreign;
mod journal;
mod layout;
mod listing;
mod model;
mod mounts;
mod pins;
mod probe;
mod recover;
mod repair;
mod service;
mod snapshots;
mod state;
mod store;
mod trash;
mod usage;
mod worker;

pub use error::{Error, Result};
pub use model::{
    Collected, CommitInfo, Info, Kind, Labels, LayerId, LayerInfo, Mount, NewLayer, Recovered,
    Usage, parse_short_name, short_name,
};
pub use pins::{Offer, PinnedLayers};
pub use repair::{KnownSnapshot, MissingEntry, RepairPlan};
pub use service::{ServeError, serve};
pub use state::REFERENCE_LABEL;
pub use store::LayerStore;
pub use usage::disk_usage;
