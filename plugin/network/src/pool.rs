//! Lends namespaces: those that are ready first, else new ones. What is given back is kept for a while, as far as the
//! configuration and recent use ask for it. What to remove is decided by pure functions.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use shipway_backend::{BackendError, NetworkUse, Networks};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::NetworkError;
use crate::list::NetworkList;
use crate::record::{Record, clean_up, note_bridge};
use crate::{link, namespace, plugin};

/// How long a namespace beyond the number that is kept ready waits for another step.
const GRACE: Duration = Duration::from_secs(5 * 60);
/// Time between two looks at what waits.
const PERIOD: Duration = Duration::from_secs(30);

/// How networks are made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The network.
    pub list: NetworkList,
    /// The bridge that goes with the last namespace unless it was there before.
    pub bridge: Option<String>,
    /// Where the plugins are.
    pub binaries: PathBuf,
    /// So many namespaces are kept ready.
    pub ready: usize,
    /// A directory for namespaces and their records.
    pub state: PathBuf,
}

/// Networks made by CNI plugins. Cheap to clone.
#[derive(Clone)]
pub struct Cni(Arc<Shared>);

struct Shared {
    settings: Settings,
    waiting: Mutex<Waiting>,
    given_back: Notify,
}

/// Namespaces that no step uses.
#[derive(Default)]
struct Waiting {
    /// For the next step; the one used last is at the end.
    idle: Vec<(Record, Instant)>,
    /// For no step.
    doomed: Vec<Record>,
}

impl Waiting {
    /// Moves what has waited too long to the doomed, and gives them all.
    fn take_doomed(&mut self, ready: usize, now: Instant) -> Vec<Record> {
        let surplus = self.idle.len().saturating_sub(ready);
        let old = self.idle[..surplus]
            .iter()
            .take_while(|(_, since)| now.duration_since(*since) >= GRACE)
            .count();
        let old = self.idle.drain(..old).map(|(record, _)| record);
        self.doomed.extend(old);
        std::mem::take(&mut self.doomed)
    }
}

impl Cni {
    /// Undoes what an earlier daemon left, and makes the first namespace: a configuration that does not work is found now.
    ///
    /// # Errors
    /// Names the plugin, the file or the directory that stands in the way.
    pub async fn open(settings: Settings) -> Result<Self, NetworkError> {
        if let Some(program) = plugin::missing(&settings.list, &settings.binaries) {
            return Err(NetworkError::NoPlugin(program));
        }
        clean_up(&settings.state).await?;
        namespace::open_place(&settings.state).map_err(NetworkError::file(
            "mounting namespaces' directory",
            &settings.state,
        ))?;
        if let Some(bridge) = settings
            .bridge
            .as_deref()
            .filter(|name| !link::exists(name))
        {
            note_bridge(&settings.state, bridge)?;
        }
        let cni = Self(Arc::new(Shared {
            settings,
            waiting: Mutex::default(),
            given_back: Notify::new(),
        }));
        match cni.0.make(None).await {
            Ok(first) => cni.0.waiting().idle.push((first, Instant::now())),
            Err(error) => {
                clean_up(&cni.0.settings.state).await?;
                return Err(error);
            }
        }
        Ok(cni)
    }

    /// Keeps as many namespaces ready as are configured, removes what is not needed any more, and at the end everything.
    pub async fn maintain(&self, stopping: CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD);
        while !stopping.is_cancelled() {
            self.0.remove_doomed().await;
            self.0.fill().await;
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.0.given_back.notified() => {}
                () = stopping.cancelled() => {}
            }
        }
        if let Err(error) = clean_up(&self.0.settings.state).await {
            tracing::warn!(%error, "networks stay until the next start");
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn make(&self, hostname: Option<&str>) -> Result<Record, NetworkError> {
        let record = Record {
            id: format!("shipway-{}", uuid::Uuid::new_v4().simple()),
            list: self.settings.list.clone(),
            binaries: self.settings.binaries.clone(),
            hostname: hostname.map(str::to_owned),
            result: None,
        };
        record.set_up(&self.settings.state).await
    }

    async fn fill(&self) {
        while self.waiting().idle.len() < self.settings.ready {
            match self.make(None).await {
                Ok(record) => self.waiting().idle.insert(0, (record, Instant::now())),
                Err(error) => {
                    tracing::warn!(%error, "keeping a network ready");
                    return;
                }
            }
        }
    }

    async fn remove_doomed(&self) {
        let doomed = self
            .waiting()
            .take_doomed(self.settings.ready, Instant::now());
        for record in doomed {
            if let Err(error) = record.tear_down(&self.settings.state).await {
                tracing::warn!(%error, "removing a network");
            }
        }
    }
}

/// A namespace that a step uses; given back when dropped.
struct Lent {
    shared: Arc<Shared>,
    record: Option<Record>,
    path: PathBuf,
}

impl NetworkUse for Lent {
    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(record) = self.record.take() else {
            return;
        };
        let mut waiting = self.shared.waiting();
        // What plugins were told a name for is of no use to another step.
        if record.hostname.is_some() {
            waiting.doomed.push(record);
        } else {
            waiting.idle.push((record, Instant::now()));
        }
        drop(waiting);
        self.shared.given_back.notify_one();
    }
}

#[async_trait]
impl Networks for Cni {
    async fn enter(&self, hostname: Option<&str>) -> Result<Box<dyn NetworkUse>, BackendError> {
        let ready = match hostname {
            None => self.0.waiting().idle.pop(),
            Some(_) => None,
        };
        let record = match ready {
            Some((record, _)) => record,
            None => self.0.make(hostname).await?,
        };
        Ok(Box::new(Lent {
            path: record.path(&self.0.settings.state),
            shared: Arc::clone(&self.0),
            record: Some(record),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        Record {
            id: id.to_owned(),
            list: NetworkList::bridge("b", "10.0.0.0/24"),
            binaries: PathBuf::new(),
            hostname: None,
            result: None,
        }
    }

    #[test]
    fn only_surplus_that_waited_long_is_removed() {
        let old = Instant::now();
        let now = old + GRACE;
        let fresh = now;
        let mut waiting = Waiting {
            idle: vec![(record("a"), old), (record("b"), old), (record("c"), fresh)],
            doomed: vec![record("d")],
        };
        let ids = |records: Vec<Record>| records.into_iter().map(|r| r.id).collect::<Vec<_>>();
        assert_eq!(ids(waiting.take_doomed(2, now)), ["d", "a"]);
        assert_eq!(ids(waiting.take_doomed(0, now)), ["b"]);
        assert_eq!(ids(waiting.take_doomed(0, now)), [""; 0]);
    }
}
