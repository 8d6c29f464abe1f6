//! Decides which lists of files are believed: relative clean paths, each directory before its entries, sorted by path
//! component. It never touches a file.

use shipway_backend::session::FileStat;
use shipway_proto::fsutil::Stat;

use crate::gofs;

/// Longest path; Linux takes no longer one either.
const PATH: usize = 4096;
/// Longest path component on any Linux filesystem.
const COMPONENT: usize = 255;
/// More entries than anybody's context has.
const ENTRIES: u32 = 20_000_000;

/// Why a list of files is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidList {
    #[error("path {0:?} is not relative and clean")]
    Unclean(String),
    #[error("path {0:?} is too long")]
    TooLong(String),
    #[error("changes out of order: {0:?} comes after {1:?}")]
    OutOfOrder(String, String),
    #[error("path {0:?} comes without its directory")]
    NoParent(String),
    #[error("path {0:?} has a negative size")]
    NegativeSize(String),
    #[error("more than {ENTRIES} files")]
    TooMany,
}

/// Checks the entries of one list, in the order of their arrival.
pub(crate) struct Validator {
    entries: u32,
    /// The open directories from the root down, each with the last name seen in it.
    open: Vec<Open>,
}

struct Open {
    dir: String,
    last: Option<String>,
}

impl Default for Validator {
    fn default() -> Self {
        let root = Open {
            dir: String::new(),
            last: None,
        };
        Self {
            entries: 0,
            open: vec![root],
        }
    }
}

impl Validator {
    /// The next entry with its index.
    pub(crate) fn entry(&mut self, stat: Stat) -> Result<(u32, FileStat), InvalidList> {
        check_path(&stat.path)?;
        let size =
            u64::try_from(stat.size).map_err(|_| InvalidList::NegativeSize(stat.path.clone()))?;
        if gofs::is_regular(stat.mode) && !stat.linkname.is_empty() {
            check_path(&stat.linkname)?;
        }
        self.check_order(&stat.path, gofs::is_dir(stat.mode))?;
        if self.entries >= ENTRIES {
            return Err(InvalidList::TooMany);
        }
        let index = self.entries;
        self.entries += 1;
        let xattrs = stat.xattrs.into_iter();
        let entry = FileStat {
            path: stat.path,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            size,
            mod_time: stat.mod_time,
            link_name: stat.linkname,
            dev_major: stat.devmajor,
            dev_minor: stat.devminor,
            xattrs: xattrs.map(|(name, value)| (name, value.into())).collect(),
        };
        Ok((index, entry))
    }

    fn check_order(&mut self, path: &str, is_dir: bool) -> Result<(), InvalidList> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        while self.open.len() > 1 && self.top().dir != dir {
            self.open.pop();
        }
        if self.top().dir != dir {
            return Err(InvalidList::NoParent(path.to_owned()));
        }
        let top = self.top();
        if let Some(last) = &top.last
            && last.as_str() >= name
        {
            let last = join(dir, last);
            return Err(InvalidList::OutOfOrder(path.to_owned(), last));
        }
        top.last = Some(name.to_owned());
        if is_dir {
            let dir = path.to_owned();
            self.open.push(Open { dir, last: None });
        }
        Ok(())
    }

    fn top(&mut self) -> &mut Open {
        self.open.last_mut().expect("the root is never closed")
    }
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        return name.to_owned();
    }
    format!("{dir}/{name}")
}

fn check_path(path: &str) -> Result<(), InvalidList> {
    let shown = || path.chars().take(PATH).collect();
    let dirty = |part: &str| part.is_empty() || part == "." || part == "..";
    if path.split('/').any(dirty) || path.contains('\0') {
        return Err(InvalidList::Unclean(shown()));
    }
    if path.len() >= PATH || path.split('/').any(|part| part.len() > COMPONENT) {
        return Err(InvalidList::TooLong(shown()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn list(entries: &[(&str, bool)]) -> Result<(), InvalidList> {
        let mut validator = Validator::default();
        for (path, is_dir) in entries {
            let mode = if *is_dir { 1 << 31 | 0o755 } else { 0o644 };
            let stat = Stat {
                path: (*path).to_owned(),
                mode,
                ..Default::default()
            };
            validator.entry(stat)?;
        }
        Ok(())
    }

    #[test]
    fn a_sorted_list_with_its_directories_is_believed() {
        let entries = [
            ("a", true),
            ("a/b", true),
            ("a/b/c", false),
            ("a/d", false),
            // By component `a` comes before `a.b`, by byte `a/` would come after it.
            ("a.b", true),
            ("a.b/x", false),
            ("b", false),
        ];
        assert_eq!(list(&entries), Ok(()));
    }

    #[test]
    fn each_senseless_list_is_refused_by_name() {
        let long = "x".repeat(256);
        let cases: [(&[(&str, bool)], &str); 12] = [
            (&[("", false)], "is not relative and clean"),
            (&[("/a", false)], "is not relative and clean"),
            (&[("../a", false)], "is not relative and clean"),
            (
                &[("a", true), ("a/../b", false)],
                "is not relative and clean",
            ),
            (&[("a", true), ("a//b", false)], "is not relative and clean"),
            (&[("a/", true)], "is not relative and clean"),
            (&[(&long, false)], "is too long"),
            (&[("b", false), ("a", false)], "out of order"),
            (&[("a", false), ("a", false)], "out of order"),
            (&[("a", true), ("a/b", false), ("a", true)], "out of order"),
            (&[("a/b", false)], "comes without its directory"),
            (
                &[("a", false), ("a/b", false)],
                "comes without its directory",
            ),
        ];
        for (entries, message) in cases {
            let error = list(entries).unwrap_err().to_string();
            assert!(error.contains(message), "{entries:?}: {error}");
        }
    }

    #[test]
    fn a_hard_link_that_leaves_the_tree_is_refused() {
        let stat = Stat {
            path: "a".into(),
            linkname: "../../etc/shadow".into(),
            ..Default::default()
        };
        assert!(matches!(
            Validator::default().entry(stat),
            Err(InvalidList::Unclean(_))
        ));
    }

    proptest! {
        #[test]
        fn every_tree_in_component_order_is_believed(
            files in proptest::collection::vec(proptest::collection::vec("[.]?[a-c -][a-c. -]{0,2}", 1..4), 0..20)
        ) {
            let mut dirs = BTreeSet::new();
            for file in &files {
                for depth in 1..=file.len() {
                    dirs.insert(file[..depth].to_vec());
                }
            }
            let paths: Vec<String> = dirs.iter().map(|parts| parts.join("/")).collect();
            let entries: Vec<(&str, bool)> = paths.iter().map(|path| (path.as_str(), true)).collect();
            prop_assert_eq!(list(&entries), Ok(()));
        }
    }
}
