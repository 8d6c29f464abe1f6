//! Networks of their own for build steps: network namespaces in which CNI plugins have put interfaces.
//!
//! [`Cni`] lends namespaces and keeps some ready. Each is recorded on disk before a plugin hears of it, so that a daemon
//! that was killed gives back addresses and firewall rules at its next start. It decides nothing about which step gets
//! which network, and configures no interface itself.

mod error;
mod link;
mod list;
mod namespace;
mod plugin;
mod pool;
mod record;

pub use error::NetworkError;
pub use list::NetworkList;
pub use pool::{Cni, Settings};
pub use record::clean_up;
