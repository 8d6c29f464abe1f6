//! Decides when a silent client counts as gone: two health checks in a row that fail or take too long.

use std::time::Duration;

use shipway_proto::health::HealthCheckRequest;
use shipway_proto::health::health_client::HealthClient;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::channel::{Channel, origin};

/// As often as buildkitd asks.
const INTERVAL: Duration = Duration::from_secs(5);
/// A check may be slow on a line full of file data.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Failures in a row that end a session.
const FAILURES: u32 = 2;

/// How long a client may take to answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience(Duration);

impl Patience {
    /// The usual patience, or what the client asked for.
    pub(crate) fn new(asked: Option<Duration>) -> Self {
        Self(asked.unwrap_or(TIMEOUT))
    }
}

/// Checks until the client counts as gone.
pub(crate) async fn watch(channel: Channel, patience: Patience) {
    let mut client = HealthClient::with_origin(channel, origin());
    let mut ticks = interval_at(Instant::now() + INTERVAL, INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0;
    while failures < FAILURES {
        ticks.tick().await;
        let check = client.check(HealthCheckRequest::default());
        match timeout(patience.0, check).await {
            Ok(Ok(_)) => failures = 0,
            Ok(Err(_)) | Err(_) => failures += 1,
        }
    }
}
