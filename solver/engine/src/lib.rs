//! The scheduler: a pure graph, one driver task, jobs, sharing and cancellation.
//!
//! A build hands in a [`Graph`] of [`Operation`]s and names the output it wants. The engine asks operations for cache
//! keys, finds results in the key store, and runs only what no key answers. Equal vertices of all builds share one
//! execution. It knows nothing of layers, processes or LLB: a result is whatever `V` is.
//!
//! ```text
//! Job ──command──► driver ──event──► machine (pure) ──actions──► driver ──► tasks: key, load, execute, save
//!                     ▲                                                        │
//!                     └────────────────────────── event ──────────────────────┘
//! ```

mod context;
mod driver;
mod engine;
mod error;
mod graph;
mod job;
mod machine;
mod operation;
mod progress;
mod results;
mod tasks;

pub use context::OpContext;
pub use engine::{Config, Engine};
pub use error::{During, EngineError};
pub use graph::{Edge, Graph};
pub use job::{Job, JobId, JobSpec};
pub use operation::{CacheMap, ContentKey, Dep, Operation, Prepare, VertexInfo};
pub use progress::VertexProgress;
pub use results::{CacheSource, Results};
