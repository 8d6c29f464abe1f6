//! In-memory implementations of the backend traits, for tests of what is built on them. They keep the traits' laws, and
//! pass the suites; they never touch a disk, a socket or a process, unless a [`FakeHost`] is given a directory for snapshots.

mod executor;
mod host;
mod networks;
mod records;
mod registry;
mod session;
mod snapshots;

pub use executor::{FakeExecutor, FakeRun};
pub use host::FakeHost;
pub use networks::FakeNetworks;
pub use registry::FakeRegistry;
pub use session::{FakeSession, FakeSessions, Judged, Received};

use std::sync::{Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
