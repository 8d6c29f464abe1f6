//! Turns: who works on something that two at once would spoil, or do twice. One turn per key, in memory only.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// A turn; the next one begins when it is dropped.
pub(crate) type Held = OwnedMutexGuard<()>;

/// Waits for the turn of a key. Keys of different kinds must differ.
pub(crate) async fn take(key: String) -> Held {
    static TURNS: LazyLock<Mutex<HashMap<String, Weak<Turn<()>>>>> = LazyLock::new(Mutex::default);
    let turn = {
        let mut turns = TURNS.lock();
        turns.retain(|_, turn| turn.strong_count() > 0);
        let known = turns.get(&key).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let turn = Arc::new(Turn::new(()));
            turns.insert(key, Arc::downgrade(&turn));
            turn
        })
    };
    turn.lock_owned().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_ends_when_it_is_dropped() {
        let first = take("k".into()).await;
        let other = take("other".into()).await;
        let mut second = Box::pin(take("k".into()));
        assert!(futures::poll!(&mut second).is_pending());
        drop((first, other));
        drop(second.await);
    }
}
