//! One conversation over the bridge: that of a build's client, or of a frontend in a container. Keeps what belongs to it:
//! the graphs that it was handed, its containers, its answer. It speaks no protocol.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shipway_frontend::FrontendResult;
use shipway_model::failure::FailureKind;
use shipway_model::{Definition, Failure};
use shipway_ops::Container;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::scope::Scope;

/// What a conversation ends with.
pub(crate) type Answer = Result<FrontendResult, Failure>;

/// One conversation.
pub struct Conversation {
    inputs: BTreeMap<String, Definition>,
    scope: Arc<Scope>,
    answer: watch::Sender<Option<Answer>>,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    /// Container requests that are being worked on.
    preparing: TaskTracker,
    closing: CancellationToken,
    calls: watch::Sender<usize>,
}

/// A call that is being answered.
pub struct Call(Arc<Conversation>);

impl Conversation {
    /// Who asks in it.
    pub(crate) fn scope(&self) -> &Arc<Scope> {
        &self.scope
    }

    /// A conversation with somebody who was handed these graphs; what is asked in it is noted in a scope.
    pub(crate) fn new(inputs: BTreeMap<String, Definition>, scope: Arc<Scope>) -> Arc<Self> {
        Arc::new(Self {
            inputs,
            scope,
            answer: watch::Sender::new(None),
            containers: Mutex::default(),
            preparing: TaskTracker::new(),
            closing: CancellationToken::new(),
            calls: watch::Sender::new(0),
        })
    }

    /// The graphs that the frontend was handed, by name.
    #[must_use]
    pub const fn inputs(&self) -> &BTreeMap<String, Definition> {
        &self.inputs
    }

    /// Takes the answer.
    ///
    /// # Errors
    /// Where there is one.
    pub fn give_back(&self, answer: Result<FrontendResult, Failure>) -> Result<(), Failure> {
        let mut answer = Some(answer);
        let first = self.answer.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = answer.take();
            }
            first
        });
        if first {
            return Ok(());
        }
        Err(Failure::new("gateway result is already set"))
    }

    /// Waits for the answer.
    pub(crate) async fn answered(&self) -> Answer {
        let mut answer = self.answer.subscribe();
        let answer = answer.wait_for(Option::is_some).await;
        let answer = answer.map_err(|e| Failure::from_error(&e))?;
        let missing = || Err(Failure::new("nothing was returned"));
        answer.clone().unwrap_or_else(missing)
    }

    /// The answer, if it has been given.
    pub(crate) fn answer(&self) -> Option<Answer> {
        self.answer.borrow().clone()
    }

    /// Marks a call as being answered, until the guard is dropped.
    pub fn call(self: &Arc<Self>) -> Call {
        self.calls.send_modify(|calls| *calls += 1);
        Call(Arc::clone(self))
    }

    /// Returns when nothing has been asked and nothing is being answered: for `first` at the beginning, for `later`
    /// after the first call.
    pub(crate) async fn silence(&self, first: Duration, later: Duration) {
        let mut calls = self.calls.subscribe();
        let mut patience = first;
        loop {
            match tokio::time::timeout(patience, calls.changed()).await {
                Ok(_) => patience = later,
                Err(_) if *calls.borrow() == 0 => return,
                Err(_) => {}
            }
        }
    }

    /// Adds a container that `prepare` makes.
    pub(crate) async fn add_container(
        &self,
        id: &str,
        prepare: impl Future<Output = Result<Container, Failure>>,
    ) -> Result<(), Failure> {
        let _preparing = self.preparing.token();
        if self.closing.is_cancelled() {
            return Err(Failure::new("the conversation is over"));
        }
        let container = tokio::select! {
            container = prepare => Arc::new(container?),
            () = self.closing.cancelled() => return Err(Failure::cancelled()),
        };
        let taken = {
            let mut containers = self.containers.lock();
            let taken = containers.contains_key(id);
            if !taken {
                containers.insert(id.to_owned(), Arc::clone(&container));
            }
            taken
        };
        if taken {
            container.release().await?;
            let message = format!("Container {id} already exists");
            return Err(Failure::of_kind(FailureKind::AlreadyExists, message));
        }
        Ok(())
    }

    /// A container by its id.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, Failure> {
        let found = self.containers.lock().get(id).cloned();
        found.ok_or_else(|| no_container(id))
    }

    /// Ends a container; the answer tells how its processes did ([`Container::outcome`]).
    pub async fn release_container(&self, id: &str) -> Result<(), Failure> {
        let container = self.containers.lock().remove(id);
        let container = container.ok_or_else(|| no_container(id))?;
        let outcome = container.outcome();
        container.release().await?;
        outcome
    }

    /// Ends all containers. Nothing new is taken from here on.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        self.preparing.close();
        self.preparing.wait().await;
        let containers: Vec<_> = self.containers.lock().drain().collect();
        for (id, container) in containers {
            if let Err(error) = container.release().await {
                tracing::warn!(container = id, %error, "ending a container");
            }
        }
    }
}

fn no_container(id: &str) -> Failure {
    let message = format!("container {id:?} previously released or not created");
    Failure::of_kind(FailureKind::NotFound, message)
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.send_modify(|calls| *calls -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_answer_counts() {
        let talk = Conversation::new(BTreeMap::new(), Scope::root());
        talk.give_back(Err(Failure::new("a"))).unwrap();
        let second = talk.give_back(Ok(FrontendResult::default())).unwrap_err();
        assert_eq!(&*second.message, "gateway result is already set");
        let answer = talk.answer().unwrap();
        assert_eq!(&*answer.unwrap_err().message, "a");
    }

    #[tokio::test]
    async fn silence_is_only_what_is_not_being_answered() {
        let talk = Conversation::new(BTreeMap::new(), Scope::root());
        let (first, later) = (Duration::from_millis(1), Duration::from_millis(20));
        talk.silence(first, later).await;
        let call = talk.call();
        let waited = tokio::time::timeout(later * 3, talk.silence(first, later)).await;
        assert!(waited.is_err());
        drop(call);
        talk.silence(first, later).await;
    }
}
