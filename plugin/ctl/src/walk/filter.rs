//! Include, exclude and follow lists applied along a walk. Touches the file system only to follow links.

use std::path::Path;

use shipway_patterns::{MatchInfo, PatternMatcher};

use super::{WalkError, follow};

/// Which entries of a directory the daemon asked for.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    include: Option<PatternMatcher>,
    exclude: Option<PatternMatcher>,
}

/// What matched a directory, for the entries below it.
#[derive(Debug, Default, Clone)]
pub(super) struct Inherited {
    include: MatchInfo,
    exclude: MatchInfo,
}

/// What becomes of a directory.
#[derive(Debug)]
pub(super) enum Directory {
    /// It and what is below is not wanted.
    Pruned,
    /// What is below may be wanted; `listed` says whether the directory itself is.
    Entered { listed: bool, inherited: Inherited },
}

impl Filter {
    /// Reads the lists; paths to follow are resolved below `root` now.
    pub(crate) fn new(
        root: &Path,
        include: Vec<String>,
        exclude: &[String],
        followed: &[String],
    ) -> Result<Self, WalkError> {
        let mut include = include;
        if !followed.is_empty()
            && let Some(targets) = follow::resolve(root, followed)?
        {
            include.extend(targets);
            include.sort();
            include = follow::without_nested(include).unwrap_or_default();
        }
        Ok(Self {
            include: matcher("includepatterns", &include)?,
            exclude: matcher("excludepatterns", exclude)?,
        })
    }

    /// Whether a file or other leaf is wanted.
    pub(super) fn wants(&self, path: &str, parent: &Inherited) -> bool {
        let included = self
            .include
            .as_ref()
            .is_none_or(|list| list.matches_in(path, &parent.include));
        included
            && !self
                .exclude
                .as_ref()
                .is_some_and(|list| list.matches_in(path, &parent.exclude))
    }

    /// What becomes of a directory.
    pub(super) fn enter(&self, path: &str, parent: &Inherited) -> Directory {
        let mut inherited = Inherited::default();
        let mut listed = true;
        if let Some(list) = &self.include {
            let (matched, info) = list.enter(path, &parent.include);
            inherited.include = info;
            if !matched && !list.may_match_below(path) {
                return Directory::Pruned;
            }
            listed = matched;
        }
        if let Some(list) = &self.exclude {
            let (matched, info) = list.enter(path, &parent.exclude);
            inherited.exclude = info;
            if matched && !list.may_except_below(path) {
                return Directory::Pruned;
            }
            listed &= !matched;
        }
        Directory::Entered { listed, inherited }
    }
}

fn matcher(list: &'static str, patterns: &[String]) -> Result<Option<PatternMatcher>, WalkError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    PatternMatcher::new(patterns)
        .map(Some)
        .map_err(|source| WalkError::Pattern { list, source })
}
