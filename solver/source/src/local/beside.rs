//! Decides which directories of a context are worth listing beside the rest, from what was there last time.

use std::collections::BinaryHeap;
use std::ops::Range;

/// Groups that are made. The client has a few processors at best, and calls share flushes already.
const GROUPS: usize = 4;
/// Fewer entries are listed as fast by one call.
const WORTH: usize = 256;
/// A directory with more than this part of all entries is taken apart.
const SHARE: usize = 8 * GROUPS;
/// Directories that are named: the client compares directories with each of them.
const NAMED: usize = 512;
/// Longer paths are not named: they travel in headers.
const PATH: usize = 256;

/// A directory and all below it: so many entries from `begin` on. The greatest is that with most entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Subtree {
    entries: usize,
    begin: usize,
}

/// Groups of directories with about as many entries each. `paths` is in the order of transfers; `follow` is what the
/// transfer is limited to, empty for nothing.
pub(super) fn groups(paths: &[&str], follow: &[String]) -> Vec<Vec<String>> {
    let mut groups: Vec<(usize, Vec<String>)> = vec![(0, Vec::new()); GROUPS];
    for tree in subtrees(paths, follow) {
        if let Some((entries, group)) = groups.iter_mut().min_by_key(|(entries, _)| *entries) {
            *entries += tree.entries;
            group.push(paths[tree.begin].to_owned());
        }
    }
    groups.retain(|(_, group)| !group.is_empty());
    let beside: usize = groups.iter().map(|(entries, _)| entries).sum();
    let largest = groups.iter().map(|(entries, _)| *entries).max();
    let is_even = largest.is_some_and(|largest| largest <= paths.len() / 4 * 3);
    if beside < WORTH.max(paths.len() / 2) || !is_even {
        return Vec::new();
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Directories to name, none inside of another, largest first.
fn subtrees(paths: &[&str], follow: &[String]) -> Vec<Subtree> {
    let mut chosen = Vec::new();
    let mut open: BinaryHeap<Subtree> = inside(paths, 0..paths.len()).into();
    while let Some(tree) = open.pop() {
        let path = paths[tree.begin];
        let parts = inside(paths, tree.begin + 1..tree.begin + tree.entries);
        let is_named = is_plain(path) && is_followed(path, follow);
        let is_large = tree.entries > paths.len() / SHARE && !parts.is_empty();
        if !is_named || is_large && chosen.len() + open.len() + parts.len() <= NAMED {
            open.extend(parts);
        } else {
            chosen.push(tree);
        }
    }
    chosen.sort_unstable_by(|one: &Subtree, other| other.cmp(one));
    chosen.truncate(NAMED);
    chosen
}

/// The directories that lie immediately in a range of paths and have entries.
fn inside(paths: &[&str], range: Range<usize>) -> Vec<Subtree> {
    let mut trees = Vec::new();
    let mut begin = range.start;
    while begin < range.end {
        let dir = paths[begin];
        let below = &paths[begin + 1..range.end];
        let is_below = |path: &&str| path.strip_prefix(dir).is_some_and(|r| r.starts_with('/'));
        let entries = match below.first() {
            Some(path) if is_below(path) => 1 + below.partition_point(is_below),
            _ => 1,
        };
        if entries > 1 {
            trees.push(Subtree { entries, begin });
        }
        begin += entries;
    }
    trees
}

/// Whether a path means itself as a pattern.
fn is_plain(path: &str) -> bool {
    let is_special = |c: char| "*?[]^\\!".contains(c) || c.is_control();
    path.len() <= PATH && path.trim() == path && !path.contains(is_special)
}

/// Whether all below `path` is part of a transfer that is limited to `follow`.
fn is_followed(path: &str, follow: &[String]) -> bool {
    let is_in = |followed: &String| {
        let followed = followed.trim_start_matches("./").trim_matches('/');
        let mut parts = followed.split('/');
        if followed.is_empty() || followed == "." {
            return true;
        }
        let rest = path.strip_prefix(followed);
        is_plain(followed)
            && parts.all(|part| !matches!(part, "" | "." | ".."))
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    follow.is_empty() || follow.iter().any(is_in)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use shipway_backend::session::in_transfer_order;

    use super::*;

    /// All paths of files and of the directories that they are in.
    fn tree(files: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut all = BTreeSet::new();
        for file in files {
            let parents = file.match_indices('/').map(|(at, _)| file[..at].to_owned());
            all.extend(parents);
            all.insert(file);
        }
        let mut all: Vec<String> = all.into_iter().collect();
        all.sort_by(|one, other| in_transfer_order(one, other));
        all
    }

    fn grouped(paths: &[String], follow: &[&str]) -> Vec<Vec<String>> {
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let follow: Vec<String> = follow.iter().map(|&path| path.to_owned()).collect();
        groups(&paths, &follow)
    }

    fn dirs(dirs: usize, files: usize) -> Vec<String> {
        tree((0..dirs * files).map(|n| format!("src/{}/{n}", n % dirs)))
    }

    #[test]
    fn many_directories_are_shared_out_evenly() {
        let paths = dirs(40, 100);
        for follow in [&[][..], &["src"], &["/src/"], &["x*", "./src"], &["."]] {
            let groups = grouped(&paths, follow);
            let sizes: Vec<usize> = groups.iter().map(Vec::len).collect();
            assert_eq!(sizes, [10; GROUPS], "{follow:?}");
            let all: BTreeSet<String> = groups.into_iter().flatten().collect();
            assert_eq!(all.len(), 40);
            assert!(all.contains("src/0") && all.contains("src/39"));
        }
    }

    #[test]
    fn a_large_directory_is_taken_apart() {
        let small = (0..20).map(|n| format!("small{}/{n}", n % 2));
        let large = (0..2000).map(|n| format!("large/{}/{n}", n % 8));
        let groups = grouped(&tree(small.chain(large)), &[]);
        let all: BTreeSet<String> = groups.into_iter().flatten().collect();
        assert!(all.contains("large/7") && all.contains("small1") && !all.contains("large"));
    }

    #[test]
    fn fewer_directories_are_fewer_groups() {
        // A group that named nothing would list everything.
        for few in 2..GROUPS {
            let groups = grouped(&dirs(few, 200), &["src"]);
            assert_eq!(
                groups.iter().map(Vec::len).collect::<Vec<_>>(),
                vec![1; few]
            );
        }
    }

    #[test]
    fn what_gains_nothing_is_left_to_one_call() {
        let none: Vec<Vec<String>> = Vec::new();
        assert_eq!(grouped(&[], &[]), none);
        // Few, flat, too many directories, all in one that can't be taken apart.
        assert_eq!(grouped(&dirs(10, 20), &[]), none);
        assert_eq!(grouped(&tree((0..5000).map(|n| format!("{n}"))), &[]), none);
        assert_eq!(grouped(&dirs(5000, 2), &[]), none);
        let flat = (0..5000).map(|n| format!("{n}/a"));
        assert_eq!(grouped(&tree(flat), &[]), none);
        // Limited to what is not known to be all of a directory.
        for follow in ["src/*", "lib", "src/../src", "sr", "src//0", "sr?"] {
            assert_eq!(grouped(&dirs(40, 100), &[follow]), none, "{follow}");
        }
    }

    #[test]
    fn a_path_that_is_a_pattern_is_not_named() {
        for name in ["a*", "[a]", "a?", "!a", " a", "a\\", "a\n", "^"] {
            assert!(!is_plain(name), "{name:?}");
            let odd = (0..4000).map(|n| format!("{name}/{}/{n}", n % 40));
            assert_eq!(grouped(&tree(odd), &[]).len(), 0, "{name:?}");
        }
        assert!(is_plain("a b/é-_.#"));
        assert!(!is_plain(&"x".repeat(PATH + 1)));
    }

    proptest! {
        #[test]
        fn directories_are_named_once_and_none_in_another(
            files in prop::collection::vec("[a-d](/[a-d]{1,2}){0,4}", 0..300),
        ) {
            let paths = tree(files);
            let groups = grouped(&paths, &[]);
            prop_assert!(groups.iter().all(|group| !group.is_empty()));
            let mut named: Vec<String> = groups.into_iter().flatten().collect();
            named.sort_by(|one, other| in_transfer_order(one, other));
            for pair in named.windows(2) {
                prop_assert!(pair[0] != pair[1]);
                let inside = pair[1].strip_prefix(&pair[0]);
                prop_assert!(inside.is_none_or(|inside| !inside.starts_with('/')));
            }
            for path in named {
                prop_assert!(paths.contains(&path));
            }
        }
    }
}
