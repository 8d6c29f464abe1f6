//! Works through a tree of tasks with all processors: a task may add others, and the first error ends the work. It
//! knows nothing of what the tasks do.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::error::{Error, Result};

struct State<T> {
    waiting: Vec<T>,
    running: usize,
    failed: Option<Error>,
}

struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next task; waits while others may still add some.
    fn next(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if state.failed.is_some() {
                return None;
            }
            if let Some(task) = state.waiting.pop() {
                state.running += 1;
                return Some(task);
            }
            if state.running == 0 {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self, result: Result<Vec<T>>) {
        let mut state = self.lock();
        state.running -= 1;
        match result {
            Ok(more) => state.waiting.extend(more),
            Err(error) => {
                state.failed.get_or_insert(error);
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    fn work(&self, run: &(impl Fn(T) -> Result<Vec<T>> + Sync)) {
        while let Some(task) = self.next() {
            self.done(run(task));
        }
    }
}

/// Runs every task and those that they give.
pub(crate) fn run<T: Send>(tasks: Vec<T>, run: impl Fn(T) -> Result<Vec<T>> + Sync) -> Result<()> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let state = State {
        waiting: tasks,
        running: 0,
        failed: None,
    };
    let queue = Queue {
        state: Mutex::new(state),
        changed: Condvar::new(),
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| queue.work(&run));
        }
        queue.work(&run);
    });
    let state = queue
        .state
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    state.failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn tasks_that_tasks_give_are_run_too() {
        let count = AtomicU32::new(0);
        run(vec![4_u32, 3], |depth| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(vec![
                depth.saturating_sub(1);
                if depth == 0 { 0 } else { 2 }
            ])
        })
        .unwrap();
        assert_eq!(count.into_inner(), 31 + 15);
    }

    #[test]
    fn the_first_error_ends_the_work() {
        let failed = run(vec![1, 2, 3], |task| match task {
            2 => Err(Error::NotFound("two".into())),
            _ => Ok(vec![]),
        });
        assert_eq!(failed.unwrap_err().to_string(), "\"two\": not found");
    }
}
