//! Resolves the paths that the daemon wants followed: each link on the way is listed too, so that it still resolves on
//! the other side. Never leaves the root: absolute targets start there.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use shipway_patterns::{clean, glob_match, join};

use super::WalkError;

/// The paths to include so that `paths` and all links on the way to them are there. None means everything.
pub(super) fn resolve(root: &Path, paths: &[String]) -> Result<Option<Vec<String>>, WalkError> {
    let mut resolver = Resolver {
        root,
        resolved: BTreeSet::new(),
    };
    for path in paths {
        resolver.add(path)?;
    }
    Ok(without_nested(resolver.resolved.into_iter().collect()))
}

/// Drops what lies below another entry of a sorted list. None if the root itself is in it.
pub(super) fn without_nested(sorted: Vec<String>) -> Option<Vec<String>> {
    let mut kept: Vec<String> = Vec::with_capacity(sorted.len());
    for path in sorted {
        if path == "." {
            return None;
        }
        let nested = kept.last().is_some_and(|last| {
            path.strip_prefix(last.as_str())
                .is_some_and(|r| r.starts_with('/'))
        });
        if !nested {
            kept.push(path);
        }
    }
    Some(kept)
}

struct Resolver<'a> {
    root: &'a Path,
    resolved: BTreeSet<String>,
}

impl Resolver<'_> {
    fn add(&mut self, path: &str) -> Result<(), WalkError> {
        let path = relative(path);
        let mut current = String::from(".");
        let mut rest = Some(path.as_str());
        while let Some(path) = rest {
            let (first, after) = match path.split_once('/') {
                Some((first, after)) => (first, Some(after)),
                None => (path, None),
            };
            current = join(&current, first);
            rest = after;
            let Some(targets) = self.targets(&current, true)? else {
                continue;
            };
            // A link seen before has been followed before; this also ends cycles.
            if !self.resolved.insert(current.clone()) {
                return Ok(());
            }
            for target in targets {
                self.add(&join(&target, rest.unwrap_or_default()))?;
            }
            return Ok(());
        }
        self.resolved.insert(current);
        Ok(())
    }

    /// Where the link at `path` (or each link that the wildcard in its last element matches) points. None: no link.
    fn targets(&self, path: &str, wildcards: bool) -> Result<Option<Vec<String>>, WalkError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        if wildcards && has_wildcard(name) {
            return self.wildcard_targets(parent, name);
        }
        let full = self.root.join(path);
        match std::fs::read_link(&full) {
            Ok(target) => {
                let target = clean(&target.to_string_lossy());
                Ok(Some(vec![if target.starts_with('/') {
                    target
                } else {
                    join(&join("/", parent), &target)
                }]))
            }
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(None),
            Err(error) if is_missing(&error) => Ok(None),
            Err(source) => Err(WalkError::Read {
                doing: "reading link",
                path: full,
                source,
            }),
        }
    }

    fn wildcard_targets(&self, parent: &str, name: &str) -> Result<Option<Vec<String>>, WalkError> {
        let full = self.root.join(parent);
        let read = |source| WalkError::Read {
            doing: "reading directory",
            path: full.clone(),
            source,
        };
        let entries = match std::fs::read_dir(&full) {
            Err(error) if is_missing(&error) => return Ok(None),
            other => other.map_err(read)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry
                .map_err(read)?
                .file_name()
                .to_string_lossy()
                .into_owned();
            if glob_match(name, &entry).unwrap_or(false) {
                found.extend(
                    self.targets(&join(parent, &entry), false)?
                        .unwrap_or_default(),
                );
            }
        }
        Ok((!found.is_empty()).then_some(found))
    }
}

/// A cleaned path without a leading slash; whatever climbs out of the root stays at it.
fn relative(path: &str) -> String {
    let rooted = join("/", path);
    match rooted.trim_start_matches('/') {
        "" => ".".to_owned(),
        rest => rest.to_owned(),
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn has_wildcard(name: &str) -> bool {
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn resolved(root: &Path, paths: &[&str]) -> Option<Vec<String>> {
        let paths: Vec<_> = paths.iter().map(|p| (*p).to_owned()).collect();
        resolve(root, &paths).unwrap()
    }

    #[test]
    fn links_on_the_way_are_listed_with_their_targets() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("real/sub")).unwrap();
        std::fs::write(root.join("real/sub/file"), "").unwrap();
        symlink("real", root.join("link")).unwrap();
        symlink("/real/sub", root.join("real/abs")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("../../../outside", root.join("up")).unwrap();

        let names = |list: &[&str]| Some(list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            resolved(root, &["link/sub/file"]),
            names(&["link", "real/sub/file"])
        );
        assert_eq!(
            resolved(root, &["real/abs/file"]),
            names(&["real/abs", "real/sub/file"])
        );
        assert_eq!(resolved(root, &["loop"]), names(&["loop"]));
        assert_eq!(resolved(root, &["up"]), names(&["outside", "up"]));
        assert_eq!(resolved(root, &["missing/x"]), names(&["missing/x"]));
        assert_eq!(resolved(root, &["l*"]), names(&["l*", "loop", "real"]));
        assert_eq!(resolved(root, &["real", "real/sub"]), names(&["real"]));
        assert_eq!(resolved(root, &["/"]), None);
    }
}
