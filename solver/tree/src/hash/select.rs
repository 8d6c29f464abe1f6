//! Content keys: the digest of what a set of selectors chooses from a tree, by BuildKit's rules. Whole paths give
//! their recursive checksum, wildcards and patterns a list of the files and directory headers chosen.

use sha2::{Digest as _, Sha256};
use shipway_model::Digest;
use shipway_patterns::{MatchInfo, PatternMatcher};

use super::content::{Content, Found};
use crate::error::{Error, Result};
use crate::glob::{Glob, split_pattern};

/// A choice of entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent options of the wire"
)]
pub struct Selector {
    /// Path, or with `wildcard` a pattern of paths.
    pub path: String,
    /// The path is a pattern.
    pub wildcard: bool,
    /// Follow a link that is the path itself.
    pub follow_links: bool,
    /// Only these, relative to the path.
    pub include: Vec<String>,
    /// Not these.
    pub exclude: Vec<String>,
    /// Paths of which each must be the start of one that is chosen.
    pub required: Vec<String>,
}

impl Selector {
    fn is_whole(&self) -> bool {
        !self.wildcard && self.include.is_empty() && self.exclude.is_empty()
    }
}

/// Removes selectors that others contain and sorts the rest, as BuildKit does before it hashes a file operation's
/// sources.
#[must_use]
pub fn deduplicate(selectors: &[Selector]) -> Vec<Selector> {
    let mut kept: Vec<Selector> = Vec::new();
    for follow in [false, true] {
        let whole = |s: &&Selector| s.is_whole() && s.follow_links == follow;
        let mut paths: Vec<&str> = selectors
            .iter()
            .filter(whole)
            .map(|s| s.path.as_str())
            .collect();
        paths.sort_unstable();
        paths.dedup();
        let contained = |path: &str| paths.iter().any(|other| is_below(path, other));
        let outer = paths.iter().filter(|path| !contained(path));
        kept.extend(outer.map(|path| Selector {
            path: (*path).to_owned(),
            follow_links: follow,
            ..Selector::default()
        }));
    }
    kept.extend(selectors.iter().filter(|s| !s.is_whole()).cloned());
    kept.sort_by(|a, b| a.path.cmp(&b.path));
    kept
}

fn is_below(path: &str, dir: &str) -> bool {
    let rest = path.strip_prefix(dir.strip_suffix('/').unwrap_or(dir));
    path != dir && rest.is_some_and(|rest| rest.starts_with('/'))
}

impl Content {
    /// The content key for these selectors; no selector means everything.
    pub fn key(&self, selectors: &[Selector]) -> Result<Digest> {
        let everything = [Selector::default()];
        let selectors = if selectors.is_empty() {
            &everything
        } else {
            selectors
        };
        let digests = selectors
            .iter()
            .map(|selector| Ok(self.checksum(selector)?.to_string()));
        let digests = digests.collect::<Result<Vec<_>>>()?;
        Ok(Digest::of(digests.join("\0")))
    }

    /// The checksum of one selector.
    pub fn checksum(&self, selector: &Selector) -> Result<Digest> {
        let path = clean(&selector.path);
        if self.is_empty() {
            return if path.is_empty() {
                Ok(Digest::of(b""))
            } else {
                Err(Error::io("open", path, rustix::io::Errno::NOENT))
            };
        }
        if selector.is_whole() {
            return self.whole(&path, selector.follow_links);
        }
        let (prefix, chosen) = Choice::new(self, selector, &path)?.run()?;
        let nodes: Vec<_> = chosen.iter().map(|entry| entry.found.top()).collect();
        self.complete(&nodes)?;
        let mut list = Vec::with_capacity(chosen.len());
        for entry in &chosen {
            let link = entry.follow && self.is_symlink(&entry.found);
            let digest = if link {
                self.whole(&entry.path, selector.follow_links)?
            } else {
                Digest::from_bytes(self.sum(entry.found.top())?)
            };
            list.push((&entry.path, digest));
        }
        let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
        match &list[..] {
            [] => return Ok(Digest::of(b"")),
            [(only, digest)] if base(only) == base(&path) => return Ok(*digest),
            _ => {}
        }
        let mut hash = Sha256::new();
        for (path, digest) in list {
            let below = path.strip_prefix(prefix.as_str()).unwrap_or(path);
            let key = if below.is_empty() {
                "\0".to_owned()
            } else {
                below.replace('/', "\0")
            };
            hash.update(key);
            hash.update(digest.to_string());
        }
        Ok(Digest::from_bytes(hash.finalize().into()))
    }

    fn whole(&self, path: &str, follow: bool) -> Result<Digest> {
        let (_, found) = self.lookup(path.as_bytes(), follow)?;
        let found = found.ok_or_else(|| {
            Error::NotFound(if path.is_empty() {
                "/".to_owned()
            } else {
                path.to_owned()
            })
        })?;
        self.recursive(&found).map(Digest::from_bytes)
    }
}

/// `/a/b`, or empty for the root.
fn clean(path: &str) -> String {
    let joined = shipway_patterns::join("/", path);
    if joined == "/" { String::new() } else { joined }
}

/// An entry that is chosen.
struct Chosen {
    path: String,
    found: Found,
    /// It is one of the outermost, where links are followed.
    follow: bool,
}

/// A directory around the entry that is looked at.
struct Around {
    chosen: Option<Chosen>,
    path: String,
    include: MatchInfo,
    exclude: MatchInfo,
}

struct Choice<'a> {
    content: &'a Content,
    selector: &'a Selector,
    /// The selector's path, clean.
    path: &'a str,
    glob: Option<Glob>,
    include: Option<PatternMatcher>,
    exclude: Option<PatternMatcher>,
    /// What matched the wildcard last; paths below it are matched by patterns only.
    matched: Option<String>,
    around: Vec<Around>,
    chosen: Vec<Chosen>,
}

impl<'a> Choice<'a> {
    fn new(content: &'a Content, selector: &'a Selector, path: &'a str) -> Result<Self> {
        let matcher = |patterns: &[String]| match patterns {
            [] => Ok(None),
            _ => PatternMatcher::new(patterns)
                .map(Some)
                .map_err(|e| Error::Pattern(e.to_string())),
        };
        let glob = selector.wildcard && !path.is_empty();
        Ok(Self {
            content,
            selector,
            path,
            glob: if glob {
                Some(Glob::new(path.as_bytes())?)
            } else {
                None
            },
            include: matcher(&selector.include)?,
            exclude: matcher(&selector.exclude)?,
            matched: None,
            around: Vec::new(),
            chosen: Vec::new(),
        })
    }

    /// What is chosen, in order, and the prefix that paths are hashed without.
    fn run(mut self) -> Result<(String, Vec<Chosen>)> {
        let (prefix, start) = self.start()?;
        if let Some(found) = start {
            self.visit(prefix.clone(), found);
        }
        for required in &self.selector.required {
            if !self
                .chosen
                .iter()
                .any(|entry| entry.path.starts_with(required.as_str()))
            {
                return Err(Error::NotFound(required.clone()));
            }
        }
        Ok((prefix, self.chosen))
    }

    /// Where the walk begins, and the path that it has for the selector.
    fn start(&self) -> Result<(String, Option<Found>)> {
        if !self.selector.wildcard {
            let found = self.content.lookup(self.path.as_bytes(), false)?.1;
            return Ok((self.path.to_owned(), found));
        }
        let (literal, pattern) = split_pattern(self.path);
        if literal == "/" {
            return Ok((String::new(), Some(self.content.root())));
        }
        let found = self
            .content
            .lookup(literal.as_bytes(), !pattern.is_empty())?
            .1;
        Ok((literal, found))
    }

    fn visit(&mut self, path: String, found: Found) {
        let Found::Dir(parts) = &found else {
            return self.leaf(path, found);
        };
        let parts = parts.clone();
        // A source directory written with a slash at its end is chosen without itself: here only the root is.
        let itself = !(path.is_empty() && self.path.is_empty());
        let entered = itself && self.enter(&path, &found);
        for (name, child) in self.content.list(&parts) {
            let name = String::from_utf8_lossy(name);
            self.visit(format!("{path}/{name}"), child);
        }
        if entered {
            self.around.pop();
        }
    }

    /// Looks at a directory's header; false if it and what patterns say of it do not matter below.
    fn enter(&mut self, path: &str, found: &Found) -> bool {
        if !self.matches_wildcard(path) {
            return false;
        }
        let (chosen, include, exclude) = self.select(path);
        let follow = self.around.is_empty() && self.selector.follow_links;
        let entry = Chosen {
            path: path.to_owned(),
            found: found.clone(),
            follow,
        };
        let mut around = Around {
            chosen: Some(entry),
            path: path.to_owned(),
            include,
            exclude,
        };
        if chosen {
            self.choose_around();
            self.chosen.extend(around.chosen.take());
        }
        self.around.push(around);
        true
    }

    fn leaf(&mut self, path: String, found: Found) {
        if !self.matches_wildcard(&path) || !self.select(&path).0 {
            return;
        }
        let follow = self.around.is_empty() && self.selector.follow_links;
        self.choose_around();
        self.chosen.push(Chosen {
            path,
            found,
            follow,
        });
    }

    /// Directories around a chosen entry are chosen with it.
    fn choose_around(&mut self) {
        let around = self.around.iter_mut().filter_map(|dir| dir.chosen.take());
        self.chosen.extend(around);
    }

    fn matches_wildcard(&mut self, path: &str) -> bool {
        let Some(glob) = &self.glob else { return true };
        if self
            .matched
            .as_deref()
            .is_some_and(|matched| is_below(path, matched))
        {
            return true;
        }
        let matches = glob.matches(path.as_bytes());
        if matches {
            self.matched = Some(path.to_owned());
        }
        matches
    }

    /// What patterns say of an entry.
    fn select(&self, path: &str) -> (bool, MatchInfo, MatchInfo) {
        let base = match &self.matched {
            Some(matched) => matched.as_str(),
            None if self.selector.wildcard => "",
            None => self.path,
        };
        let below = path.strip_prefix(base).unwrap_or(path);
        let below = below.strip_prefix('/').unwrap_or(below);
        let around = self
            .around
            .last()
            .filter(|around| is_below(path, &around.path) || around.path.is_empty());
        let none = MatchInfo::default();
        let (mut include, mut exclude) = (none.clone(), none.clone());
        if let Some(matcher) = &self.include {
            let parent = around.map_or(&none, |around| &around.include);
            let (matched, info) = matcher.enter(below, parent);
            include = info;
            if !matched {
                return (false, include, exclude);
            }
        }
        if let Some(matcher) = &self.exclude {
            let parent = around.map_or(&none, |around| &around.exclude);
            let (matched, info) = matcher.enter(below, parent);
            exclude = info;
            if matched {
                return (false, include, exclude);
            }
        }
        (true, include, exclude)
    }
}
