//! On whose behalf a process is prepared: a vertex that clients want, or a client that asked for the process itself. It
//! decides nothing.

use std::sync::Arc;

use shipway_engine::OpContext;
use tokio_util::sync::CancellationToken;

/// Who wants a process.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Sessions that answer for secrets and agents.
    pub(crate) sessions: Vec<Arc<str>>,
    /// Fires when nobody wants it any more.
    pub(crate) cancelled: CancellationToken,
}

impl Caller {
    /// The clients that have a vertex now.
    pub(crate) fn of(ctx: &OpContext) -> Self {
        Self {
            sessions: ctx.sessions(),
            cancelled: ctx.cancelled().clone(),
        }
    }
}
