//! How the processes of a container that somebody runs by hand have ended, for the answer to its release. Pure.

use shipway_model::Failure;

/// What is known of a container's processes.
#[derive(Debug, Default)]
pub(super) struct Ends {
    running: usize,
    first: Option<Failure>,
}

impl Ends {
    /// A process begins.
    pub(super) fn begins(&mut self) {
        self.running += 1;
    }

    /// A process has ended, and its caller is about to be told so.
    pub(super) fn ends(&mut self, failure: Option<&Failure>) {
        self.running = self.running.saturating_sub(1);
        if self.first.is_none() {
            self.first = failure.cloned();
        }
    }

    /// What whoever releases the container is told, as BuildKit does: the first failure, or that something still ran.
    pub(super) fn outcome(&self) -> Result<(), Failure> {
        match &self.first {
            Some(failure) => Err(failure.clone()),
            None if self.running > 0 => Err(Failure::cancelled()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_counts_and_then_what_still_runs() {
        let mut ends = Ends::default();
        assert_eq!(ends.outcome(), Ok(()));
        ends.begins();
        ends.begins();
        ends.ends(None);
        assert_eq!(ends.outcome(), Err(Failure::cancelled()));
        ends.ends(None);
        assert_eq!(ends.outcome(), Ok(()));
        for code in ["1", "2"] {
            ends.begins();
            ends.ends(Some(&Failure::new(code)));
        }
        ends.begins();
        assert_eq!(ends.outcome(), Err(Failure::new("1")));
    }
}
