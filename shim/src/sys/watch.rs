//! Watches owned descriptors for readiness. It never reads or writes them.
#![expect(
    unsafe_code,
    reason = "tokio can't see by a type that a descriptor stays the same one"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use tokio::io::unix::AsyncFd;

/// Owners of a descriptor that name the same one for as long as they live.
pub(crate) trait Owner: AsFd + AsRawFd {}

impl Owner for OwnedFd {}

impl Owner for Arc<OwnedFd> {}

/// Registers a non-blocking descriptor with the runtime.
pub(crate) fn watch<T: Owner>(descriptor: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the two owners always name the descriptor that they keep open.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}
