//! Looks users and groups up in the `/etc/passwd` and `/etc/group` of a stack. A name or a file that is missing is
//! user or group 0, as BuildKit has it. It never looks at the host's files.

use std::io::Read;
use std::path::Path;

use rustix::io::Errno;
use shipway_model::op::{ChownOpt, UserOpt};

use crate::error::{Context, Error, Result};
use crate::stack::{Last, Stack};
use crate::stat::{Kind, Owner};

const LARGEST_FILE: u64 = 10 << 20;

/// The numbers of an owner. `tree_of` gives the stack of an input that a name is looked up in.
pub fn owner(
    wanted: &ChownOpt,
    mut tree_of: impl FnMut(Option<usize>) -> Result<Stack>,
) -> Result<Owner> {
    let mut owner = Owner::default();
    match &wanted.user {
        Some(UserOpt::ById(id)) => owner = Owner { uid: *id, gid: *id },
        Some(UserOpt::ByName { name, input }) => {
            let line = find(&tree_of(*input)?, "/etc/passwd", name)?;
            let mut numbers = line.iter().flatten().skip(2).map(|field| number(field));
            if let (Some(uid), Some(gid)) = (numbers.next(), numbers.next()) {
                owner = Owner { uid, gid };
            }
        }
        None => {}
    }
    match &wanted.group {
        Some(UserOpt::ById(id)) => owner.gid = *id,
        Some(UserOpt::ByName { name, input }) => {
            let line = find(&tree_of(*input)?, "/etc/group", name)?;
            if let Some(gid) = line.iter().flatten().nth(2) {
                owner.gid = number(gid);
            }
        }
        None => {}
    }
    Ok(owner)
}

fn number(field: &str) -> u32 {
    field.trim().parse().unwrap_or(0)
}

/// The fields of the first line of a colon-separated file that starts with `name`.
fn find(tree: &Stack, path: &str, name: &str) -> Result<Option<Vec<String>>> {
    let Some(text) = read(tree, Path::new(path))? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&text);
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines
        .map(fields)
        .find(|fields| fields.first().is_some_and(|first| first == name)))
}

/// Contents of a regular file; `None` where it is missing.
fn read(tree: &Stack, path: &Path) -> Result<Option<Vec<u8>>> {
    let (rel, entry) = match tree.find(path, Last::Follow) {
        Ok(found) => found,
        Err(Error::Io { cause, .. }) if is_missing(&cause) => return Ok(None),
        Err(other) => return Err(other),
    };
    if entry.stat.kind != Kind::File {
        let why = "not a regular file";
        return Err(Error::Refused {
            op: "open",
            path: path.to_path_buf(),
            why,
        });
    }
    if entry.stat.size > LARGEST_FILE {
        return Err(Error::TooLarge {
            what: "bytes of user file",
            limit: LARGEST_FILE,
        });
    }
    let mut text = Vec::new();
    let mut file = tree.layers()[entry.layer].open_file(&rel)?;
    file.read_to_end(&mut text).on("read", path)?;
    Ok(Some(text))
}

fn is_missing(cause: &std::io::Error) -> bool {
    let code = cause.raw_os_error();
    code == Some(Errno::NOENT.raw_os_error()) || code == Some(Errno::NOTDIR.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Stack) {
        let dir = tempfile::tempdir_in(".").unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533::/:\n";
        std::fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(dir.path().join("etc/group"), "users:x:100:\n").unwrap();
        let tree = Stack::open([dir.path()]).unwrap();
        (dir, tree)
    }

    fn named(name: &str) -> UserOpt {
        UserOpt::ByName {
            name: name.into(),
            input: Some(0),
        }
    }

    #[test]
    fn names_become_numbers_and_unknown_ones_zero() {
        let (_dir, tree) = tree();
        let cases = [
            (Some(UserOpt::ById(1234)), None, (1234, 1234)),
            (Some(UserOpt::ById(1234)), Some(named("users")), (1234, 100)),
            (Some(named("nobody")), None, (65534, 65533)),
            (None, Some(named("users")), (0, 100)),
            (Some(named("nosuch")), Some(named("nosuch")), (0, 0)),
        ];
        for (user, group, expected) in cases {
            let wanted = ChownOpt { user, group };
            let got = owner(&wanted, |_| Ok(tree.clone())).unwrap();
            assert_eq!((got.uid, got.gid), expected, "{wanted:?}");
        }
        let empty = ChownOpt {
            user: Some(named("nobody")),
            group: None,
        };
        assert_eq!(
            owner(&empty, |_| Ok(Stack::default())).unwrap(),
            Owner::default()
        );
    }
}
