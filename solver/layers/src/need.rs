//! On whose behalf a layer is fetched: namespace, lease, credentials, and where to report. It decides nothing.

use std::sync::Arc;

use shipway_backend::{Lease, Namespace, RegistryAccess};

/// Takes the progress of parts, such as the download of one blob.
pub trait Report: Send + Sync {
    /// State of the part `id`: `current` of `total` (0 where unknown) done, `done` at its end.
    fn part(&self, id: &str, name: &str, current: u64, total: u64, done: bool);
}

/// Reports to nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoReport;

impl Report for NoReport {
    fn part(&self, _id: &str, _name: &str, _current: u64, _total: u64, _done: bool) {}
}

/// On whose behalf a layer is fetched or written.
#[derive(Clone)]
pub struct Need {
    /// Where blobs go.
    pub namespace: Namespace,
    /// Holds them until something else does.
    pub lease: Lease,
    /// How registries may be spoken to.
    pub access: RegistryAccess,
    /// Where to report.
    pub report: Arc<dyn Report>,
}
