//! The checksum of a regular file that is being written, taken while its bytes pass, so that nobody has to read it again.

use sha2::{Digest as _, Sha256};

use super::header;
use super::index::Sum;
use crate::stat::{Kind, Owner, Stat, Time};

/// A file under way: the attributes that it will have, and the bytes so far.
#[derive(Debug, Clone)]
pub struct ArrivingSum {
    hash: Sha256,
    missing: Option<u64>,
}

impl ArrivingSum {
    /// Of a file that will have these permission bits, this owner, `size` bytes and no extended attributes.
    #[must_use]
    pub fn new(mode: u32, owner: Owner, size: u64) -> Self {
        let stat = Stat {
            kind: Kind::File,
            mode,
            uid: owner.uid,
            gid: owner.gid,
            size,
            mtime: Time::default(),
            rdev: (0, 0),
            dev: 0,
            ino: 0,
            nlink: 1,
            blocks: 0,
        };
        Self {
            hash: header::start(&stat, b"", &[]),
            missing: Some(size),
        }
    }

    /// More bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.hash.update(data);
        let count = data.len() as u64;
        self.missing = self.missing.and_then(|missing| missing.checked_sub(count));
    }

    /// The checksum; `None` where the bytes were fewer or more than announced.
    #[must_use]
    pub fn finish(self) -> Option<Sum> {
        (self.missing == Some(0)).then(|| self.hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_give_the_digest_of_the_whole() {
        let owner = Owner { uid: 1, gid: 2 };
        let mut sum = ArrivingSum::new(0o4755, owner, 2);
        sum.update(b"a");
        sum.update(b"\n");
        let digest = "d6166c6a540039a61cb2b5382deea015184c350d1dcddc2f42727cb53814a858";
        assert_eq!(hex::encode(sum.finish().unwrap()), digest);
    }

    #[test]
    fn a_file_of_another_size_has_none() {
        for data in [&b"a"[..], b"abc"] {
            let mut sum = ArrivingSum::new(0o644, Owner::default(), 2);
            sum.update(data);
            assert_eq!(sum.finish(), None);
        }
    }
}
