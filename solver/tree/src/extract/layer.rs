//! Which names a layer's archive may have and what those that start with `.wh.` mean. A name that leads out of the
//! tree is an error that names the entry: no honest builder writes one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::member::Member;
use crate::error::Result;

const MARK: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a marker entry says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Marker<'a> {
    /// Lower layers' contents of its directory are hidden.
    Opaque,
    /// Nothing has this name any more.
    Removed(&'a OsStr),
}

impl<'a> Marker<'a> {
    pub(super) fn of(member: &Member, name: &'a OsStr) -> Result<Option<Self>> {
        let Some(rest) = name.as_bytes().strip_prefix(MARK) else {
            return Ok(None);
        };
        match rest {
            _ if name.as_bytes() == OPAQUE => Ok(Some(Self::Opaque)),
            b"" | b"." | b".." => Err(member.error("whiteout of nothing")),
            // aufs's own bookkeeping, which old builders left in layers.
            _ if rest.starts_with(MARK) => Err(member.error("whiteout of a whiteout")),
            _ => Ok(Some(Self::Removed(OsStr::from_bytes(rest)))),
        }
    }
}

/// A name without `.` components; one that is absolute or has `..` is refused.
pub(super) fn checked(member: &Member, name: &[u8]) -> Result<PathBuf> {
    if name.contains(&0) {
        return Err(member.error("name with a NUL"));
    }
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(name)).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err(member.error("path leads out of the tree (..)")),
            Component::RootDir | Component::Prefix(_) => {
                return Err(member.error("path leads out of the tree (absolute)"));
            }
        }
    }
    Ok(path)
}
