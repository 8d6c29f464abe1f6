//! Reaps this process's children and hands each one's end to whoever asks for it, before or after it came. It never waits
//! for a child by blocking, and it is the only place that waits at all.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::sys::{Ended, wait_for};

/// Ends that nobody has asked for are forgotten when there are more: orphans of containers that share this PID namespace.
const MOST_UNCLAIMED: usize = 1024;

/// The reaper. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reaper(Arc<Mutex<Children>>);

#[derive(Debug, Default)]
struct Children {
    unclaimed: VecDeque<Ended>,
    waiting: HashMap<i32, oneshot::Sender<Ended>>,
}

impl Reaper {
    /// Reaps for as long as this process lives.
    pub(crate) async fn run(self) -> io::Result<()> {
        let mut signals = signal(SignalKind::child())?;
        loop {
            self.reap()?;
            if signals.recv().await.is_none() {
                return Ok(());
            }
        }
    }

    /// Waits for a child's end.
    pub(crate) async fn end_of(&self, pid: i32) -> Ended {
        let receiver = {
            let mut children = self.children();
            if let Some(at) = children.unclaimed.iter().position(|ended| ended.pid == pid) {
                return children
                    .unclaimed
                    .remove(at)
                    .expect("the position is inside");
            }
            let (sender, receiver) = oneshot::channel();
            children.waiting.insert(pid, sender);
            receiver
        };
        receiver
            .await
            .expect("the reaper keeps a sender until the child has ended")
    }

    fn reap(&self) -> io::Result<()> {
        while let Some(ended) = wait_for(-1)? {
            let mut children = self.children();
            let unheard = match children.waiting.remove(&ended.pid) {
                Some(waiting) => waiting.send(ended).err(),
                None => Some(ended),
            };
            children.unclaimed.extend(unheard);
            if children.unclaimed.len() > MOST_UNCLAIMED {
                children.unclaimed.pop_front();
            }
        }
        Ok(())
    }

    fn children(&self) -> MutexGuard<'_, Children> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
