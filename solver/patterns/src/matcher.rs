//! A list of patterns applied to paths, one by one or along a walk. Never decides what a match means: including and
//! excluding are the caller's.

use crate::glob::{DoubleStar, Glob};
use crate::{InvalidPattern, clean};

/// A list of patterns. The last one that matches a path, or one of its parents, decides.
#[derive(Debug, Clone)]
pub struct PatternMatcher {
    patterns: Vec<Pattern>,
}

/// Which patterns matched a directory. The default stands for the root, which nothing matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MatchInfo(Vec<bool>);

#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    exception: bool,
    shape: Shape,
}

#[derive(Debug, Clone)]
enum Shape {
    Glob(Glob),
    /// `**name`, without a slash: what BuildKit matches against the end of any path.
    Suffix(String),
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let text = clean(text);
        let (exception, text) = match text.strip_prefix('!') {
            Some("") => return Err(InvalidPattern::EmptyException),
            Some(rest) => (true, rest.to_owned()),
            None => (false, text),
        };
        let glob = Glob::compile(&text, DoubleStar::Crosses)?;
        let special = |c| matches!(c, '*' | '?' | '[' | ']' | '\\');
        let shape = match text.strip_prefix("**") {
            Some(name) if !name.is_empty() && !name.starts_with('/') && !name.contains(special) => {
                Shape::Suffix(name.to_owned())
            }
            _ => Shape::Glob(glob),
        };
        Ok(Self {
            text,
            exception,
            shape,
        })
    }

    fn matches(&self, path: &str) -> bool {
        match &self.shape {
            Shape::Glob(glob) => glob.matches(path),
            Shape::Suffix(suffix) => path.ends_with(suffix.as_str()),
        }
    }

    /// Matches the path or one of its parents.
    fn matches_upwards(&self, path: &str) -> bool {
        match &self.shape {
            Shape::Glob(glob) => glob.matches_upwards(path),
            Shape::Suffix(suffix) => {
                let mut ends = path.match_indices('/').map(|(at, _)| at);
                ends.any(|at| path[..at].ends_with(suffix)) || path.ends_with(suffix)
            }
        }
    }

    /// The directory below which alone the pattern can match, if it has one: the pattern less a `*` at its end.
    fn literal_stem(&self) -> Option<&str> {
        let stem = self.text.strip_suffix("/**").unwrap_or(&self.text);
        let stem = stem.strip_suffix("/*").unwrap_or(stem);
        (!stem.contains(['*', '[', ']', '?', '^', '\\'])).then_some(stem)
    }
}

impl PatternMatcher {
    /// Compiles patterns; blank ones are left out, surrounding space and superfluous slashes are dropped.
    ///
    /// # Errors
    /// [`InvalidPattern`] for the first pattern that can't be understood.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, InvalidPattern> {
        let patterns = patterns
            .iter()
            .map(|pattern| pattern.as_ref().trim())
            .filter(|pattern| !pattern.is_empty())
            .map(Pattern::parse)
            .collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }

    /// Whether no pattern is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether any pattern is an exception (`!`).
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.exception)
    }

    /// Whether a slash-separated relative path, or one of its parents, is matched.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.decide(path, None, |_, _| {})
    }

    /// Like [`matches`](Self::matches), for a path whose parent directory gave `parent`.
    #[must_use]
    pub fn matches_in(&self, path: &str, parent: &MatchInfo) -> bool {
        self.decide(path, Some(parent), |_, _| {})
    }

    /// Like [`matches_in`](Self::matches_in) for a directory, with what the entries below it need.
    #[must_use]
    pub fn enter(&self, path: &str, parent: &MatchInfo) -> (bool, MatchInfo) {
        let mut info = vec![false; self.patterns.len()];
        let matched = self.decide(path, Some(parent), |at, hit| info[at] = hit);
        (matched, MatchInfo(info))
    }

    /// Whether a pattern might match something below `directory`, which itself is not matched: false means that an
    /// include list can leave the directory out unseen.
    #[must_use]
    pub fn may_match_below(&self, directory: &str) -> bool {
        Self::any_below(
            self.patterns.iter().filter(|pattern| !pattern.exception),
            directory,
        )
    }

    /// Whether an exception might take something below the matched `directory` back: false means that an exclude list
    /// can leave the directory out unseen.
    #[must_use]
    pub fn may_except_below(&self, directory: &str) -> bool {
        Self::any_below(
            self.patterns.iter().filter(|pattern| pattern.exception),
            directory,
        )
    }

    fn any_below<'a>(mut patterns: impl Iterator<Item = &'a Pattern>, directory: &str) -> bool {
        // A stem equal to the directory counts: its pattern may have ended in `/*`.
        patterns.any(|pattern| match pattern.literal_stem() {
            Some(stem) => stem
                .strip_prefix(directory)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            None => true,
        })
    }

    fn decide(
        &self,
        path: &str,
        parent: Option<&MatchInfo>,
        mut record: impl FnMut(usize, bool),
    ) -> bool {
        let mut matched = false;
        for (at, pattern) in self.patterns.iter().enumerate() {
            let inherited = parent.is_some_and(|parent| parent.0.get(at).copied().unwrap_or(false));
            // A pattern that can't change the outcome is not tried, and so not passed on to the entries below. Clients
            // and daemons have agreed on that.
            if !inherited && pattern.exception != matched {
                continue;
            }
            let hit = match parent {
                Some(_) => inherited || pattern.matches(path),
                None => pattern.matches_upwards(path),
            };
            record(at, hit);
            if hit {
                matched = !pattern.exception;
            }
        }
        matched
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(patterns: &[&str], path: &str) -> bool {
        PatternMatcher::new(patterns).unwrap().matches(path)
    }

    #[test]
    fn single_patterns_match_as_docker_documents() {
        for (pattern, path, expected) in [
            ("**", "file", true),
            ("**", "dir/file", true),
            ("**/", "file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir/dir2/file", true),
            ("dir/**", "dir", false),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/*", "dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir2/file", true),
            ("**file", "file", true),
            ("**file", "dir/file", true),
            ("**file", "dir/thefile", true),
            ("**/file", "thefile", false),
            ("**/file*", "dir/file.txt", true),
            ("**/file*txt", "dir/dir/file.txt", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "a/dir/dir/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a[b-d]e", "ace", true),
            ("a[b-d]e", "aae", false),
            ("abc.def", "abcdef", false),
            ("abc?def", "abcZdef", true),
            ("abc?def", "abcdef", false),
            ("a\\\\", "a\\", true),
            ("**/foo/bar", "foo/bar", true),
            ("**/foo/bar", "dir/dir2/foo/bar", true),
            ("abc/**", "abc", false),
            (".*", ".foo", true),
            (".*", "foo", false),
            ("a(b)c/def", "a(b)c/def", true),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            ("  dir/ ", "dir/x", true),
        ] {
            assert_eq!(matches(&[pattern], path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn the_last_match_of_a_path_or_parent_decides() {
        assert!(!matches(&["docs", "!docs/README.md"], "docs/README.md"));
        assert!(matches(&["docs", "!docs/README.md"], "docs/other"));
        assert!(!matches(&["*", "!dir"], "dir/file"));
        assert!(matches(&["*", "!dir", "dir/file"], "dir/file"));
        assert!(matches(&["!docs", "docs"], "docs/x"));
        assert!(!matches(&["**", "!util/docker/web"], "util/docker/web/foo"));
    }

    #[test]
    fn a_lone_exclamation_mark_is_refused() {
        assert_eq!(
            PatternMatcher::new(&["!"]).unwrap_err(),
            InvalidPattern::EmptyException
        );
    }

    #[test]
    fn directories_without_a_chance_are_left_out() {
        let includes = PatternMatcher::new(&["src/lib/*", "doc"]).unwrap();
        assert!(includes.may_match_below("src"));
        assert!(includes.may_match_below("src/lib"));
        assert!(!includes.may_match_below("srcs"));
        assert!(!includes.may_match_below("target"));
        assert!(
            PatternMatcher::new(&["*/x"])
                .unwrap()
                .may_match_below("target")
        );

        let excludes = PatternMatcher::new(&["node_modules", "!node_modules/keep"]).unwrap();
        assert!(excludes.may_except_below("node_modules"));
        assert!(!excludes.may_except_below("node_modules/other"));
    }

    /// Walks down to `path`, as a directory walk does.
    fn walk(matcher: &PatternMatcher, path: &str) -> bool {
        let mut info = MatchInfo::default();
        for (at, _) in path.match_indices('/') {
            info = matcher.enter(&path[..at], &info).1;
        }
        matcher.matches_in(path, &info)
    }

    proptest! {
        #[test]
        fn walking_down_agrees_with_asking_at_once_without_exceptions(
            patterns in prop::collection::vec("[ab*]{1,2}(/[ab*]{1,2}){0,2}", 1..4),
            path in "[ab]{1,2}(/[ab]{1,2}){0,2}",
        ) {
            let matcher = PatternMatcher::new(&patterns).unwrap();
            prop_assert_eq!(walk(&matcher, &path), matcher.matches(&path));
        }
    }
}
