//! Builds by their id: those that run, the last that have ended, and ids of requests that were refused before there was a
//! build. Who asks for one may come before it does. It knows nothing of what a build is.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shipway_model::Failure;
use shipway_model::failure::FailureKind;
use tokio::sync::Notify;

/// Ended builds that are remembered for late readers of their progress, and refused ids.
const REMEMBERED: usize = 32;

/// Builds by their id.
pub(crate) struct Builds<T> {
    known: Mutex<Known<T>>,
    changed: Notify,
}

struct Known<T> {
    by_id: HashMap<String, Arc<T>>,
    /// Ids among them, the longest ended first.
    ended: VecDeque<String>,
    refused: VecDeque<String>,
}

impl<T> Default for Builds<T> {
    fn default() -> Self {
        Self {
            known: Mutex::new(Known {
                by_id: HashMap::new(),
                ended: VecDeque::new(),
                refused: VecDeque::new(),
            }),
            changed: Notify::new(),
        }
    }
}

/// What an id stands for.
pub enum Found<T> {
    /// A build.
    Build(Arc<T>),
    /// A request that was refused: there won't be a build.
    Refused,
}

impl<T> Found<T> {
    /// The build of `id`.
    ///
    /// # Errors
    /// There won't be one.
    pub fn or_missing(self, id: &str) -> Result<Arc<T>, Failure> {
        match self {
            Self::Build(build) => Ok(build),
            Self::Refused => Err(missing(id)),
        }
    }
}

impl<T> Builds<T> {
    /// Adds a build that runs.
    ///
    /// # Errors
    /// There is one with this id.
    pub(crate) fn add(&self, id: &str, build: &Arc<T>) -> Result<(), Failure> {
        let mut known = self.known.lock();
        if known.by_id.contains_key(id) {
            return Err(Failure::new(format!("job ID {id} exists")));
        }
        known.by_id.insert(id.to_owned(), Arc::clone(build));
        drop(known);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Notes that a build has ended.
    pub(crate) fn ended(&self, id: &str) {
        let mut known = self.known.lock();
        known.ended.push_back(id.to_owned());
        while known.ended.len() > REMEMBERED {
            if let Some(oldest) = known.ended.pop_front() {
                known.by_id.remove(&oldest);
            }
        }
    }

    /// Notes that there won't be a build of this id.
    pub(crate) fn refused(&self, id: &str) {
        let mut known = self.known.lock();
        known.refused.push_back(id.to_owned());
        if known.refused.len() > REMEMBERED {
            known.refused.pop_front();
        }
        drop(known);
        self.changed.notify_waiters();
    }

    /// What an id stands for, waited for up to `patience`.
    ///
    /// # Errors
    /// Nothing came.
    pub(crate) async fn find(&self, id: &str, patience: Duration) -> Result<Found<T>, Failure> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = self.get(id) {
                return Ok(found);
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Err(missing(id));
            }
        }
    }

    fn get(&self, id: &str) -> Option<Found<T>> {
        let known = self.known.lock();
        if let Some(build) = known.by_id.get(id) {
            return Some(Found::Build(Arc::clone(build)));
        }
        let refused = known.refused.iter().any(|refused| refused == id);
        refused.then_some(Found::Refused)
    }

    /// True where no build runs.
    pub(crate) fn is_idle(&self) -> bool {
        let known = self.known.lock();
        known.by_id.len() == known.ended.len()
    }
}

/// The failure of an id that nothing is known of.
fn missing(id: &str) -> Failure {
    Failure::of_kind(FailureKind::NotFound, format!("no such job {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn build(found: Result<Found<u32>, Failure>) -> Option<u32> {
        match found {
            Ok(Found::Build(build)) => Some(*build),
            Ok(Found::Refused) => None,
            Err(failure) => panic!("{failure}"),
        }
    }

    #[tokio::test]
    async fn a_build_is_waited_for() {
        let builds = Builds::default();
        let (found, ()) = tokio::join!(builds.find("a", LONG), async {
            builds.add("a", &Arc::new(1)).unwrap();
        });
        assert_eq!(build(found), Some(1));
        assert!(builds.add("a", &Arc::new(2)).is_err());
        let failure = builds.find("b", Duration::ZERO).await.err().unwrap();
        assert_eq!(failure.to_string(), "no such job b");
    }

    #[tokio::test]
    async fn nobody_waits_for_a_request_that_was_refused() {
        let builds = Builds::default();
        let (found, ()) = tokio::join!(builds.find("a", LONG), async { builds.refused("a") });
        assert_eq!(build(found), None);
        assert_eq!(build(builds.find("a", Duration::ZERO).await), None);
        // A later request of that id may be good.
        builds.add("a", &Arc::new(1)).unwrap();
        assert_eq!(build(builds.find("a", LONG).await), Some(1));
    }

    #[tokio::test]
    async fn only_the_last_ended_builds_are_remembered() {
        let builds = Builds::default();
        for id in 0..=REMEMBERED {
            builds.add(&id.to_string(), &Arc::new(id)).unwrap();
            assert!(!builds.is_idle());
            builds.ended(&id.to_string());
            assert!(builds.is_idle());
        }
        assert!(builds.find("0", Duration::ZERO).await.is_err());
        assert!(builds.find("1", Duration::ZERO).await.is_ok());
    }
}
