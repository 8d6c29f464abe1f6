//! Lines of a Dockerfile. An instruction may cover several.

use shipway_model::SourceRange;

/// An inclusive range of lines, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Lines {
    /// First line.
    pub first: u32,
    /// Last line; never before `first`.
    pub last: u32,
}

impl Lines {
    /// One line.
    #[must_use]
    pub const fn one(line: u32) -> Self {
        Self {
            first: line,
            last: line,
        }
    }

    /// One range for each line, as BuildKit's clients show them.
    #[must_use]
    pub fn ranges(self) -> Vec<SourceRange> {
        let line = |line: u32| i32::try_from(line).unwrap_or(i32::MAX);
        (self.first..=self.last.max(self.first))
            .map(|at| SourceRange::lines(line(at), line(at)))
            .collect()
    }
}
