//! The checksum of one entry, as BuildKit derives it: the fields of a tar header in a fixed order, name and time
//! left out, then the contents. Same attributes and contents give the same 32 bytes as BuildKit's.

use sha2::{Digest as _, Sha256};

use crate::layer::Xattr;
use crate::stat::{Kind, Stat};

/// Mode bits of a symbolic link, whatever the filesystem says.
const LINK_MODE: u32 = 0o777;

/// The state of an entry's hash before its contents. `target` is that of a symbolic link.
#[must_use]
pub fn start(stat: &Stat, target: &[u8], xattrs: &[Xattr]) -> Sha256 {
    let (flag, size) = match stat.kind {
        Kind::File | Kind::Socket => (b'0', stat.size),
        Kind::Symlink => (b'2', 0),
        Kind::CharDevice => (b'3', 0),
        Kind::BlockDevice => (b'4', 0),
        Kind::Dir => (b'5', 0),
        Kind::Fifo => (b'6', 0),
    };
    let mode = if stat.kind == Kind::Symlink {
        stat.mode | LINK_MODE
    } else {
        stat.mode
    };
    let is_device = matches!(stat.kind, Kind::CharDevice | Kind::BlockDevice);
    let device = if is_device { stat.rdev } else { (0, 0) };
    let mut text = Vec::with_capacity(160);
    let mut field = |name: &str, value: &[u8]| {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(value);
    };
    field("name", b"");
    field("mode", mode.to_string().as_bytes());
    field("uid", stat.uid.to_string().as_bytes());
    field("gid", stat.gid.to_string().as_bytes());
    field("size", size.to_string().as_bytes());
    field("typeflag", &[flag]);
    field("linkname", target);
    field("uname", b"");
    field("gname", b"");
    field("devmajor", device.0.to_string().as_bytes());
    field("devminor", device.1.to_string().as_bytes());
    let mut counted: Vec<_> = xattrs.iter().filter(|(name, _)| counts(name)).collect();
    counted.sort();
    for (name, value) in counted {
        text.extend_from_slice(name);
        text.extend_from_slice(value);
    }
    Sha256::new_with_prefix(text)
}

/// Whether an extended attribute is part of the checksum.
fn counts(name: &[u8]) -> bool {
    let security = name.starts_with(b"security.") && name != b"security.capability";
    !security && !name.starts_with(b"system.") && !name.starts_with(b"trusted.overlay.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stat::Time;

    fn stat(kind: Kind, mode: u32, uid: u32, gid: u32, size: u64) -> Stat {
        let mtime = Time { sec: 99, nsec: 9 };
        Stat {
            kind,
            mode,
            uid,
            gid,
            size,
            mtime,
            rdev: (7, 7),
            dev: 1,
            ino: 2,
            nlink: 3,
            blocks: 4,
        }
    }

    /// Digests computed with BuildKit's own package.
    #[test]
    fn entries_hash_as_in_buildkit() {
        let cases: [(Stat, &[u8], &[u8], &str); 4] = [
            (
                stat(Kind::File, 0o644, 0, 0, 2),
                b"",
                b"a\n",
                "90419ce2f049678816ec651294eafae1333065bf516a763506e0965a9979d469",
            ),
            (
                stat(Kind::Dir, 0o755, 0, 0, 4096),
                b"",
                b"",
                "1a2805521573cb10d73bcd51d16bfa84c8f461d68599740e35484b90b2ab1bab",
            ),
            (
                stat(Kind::Symlink, 0o777, 0, 0, 1),
                b"a",
                b"",
                "fc5fd0791f6eb02b0a3f1de7961ca737c9ab1fa18469d9ed6491b5649c06bae6",
            ),
            (
                stat(Kind::File, 0o4755, 1, 2, 2),
                b"",
                b"a\n",
                "d6166c6a540039a61cb2b5382deea015184c350d1dcddc2f42727cb53814a858",
            ),
        ];
        for (stat, target, data, digest) in cases {
            let mut hash = start(&stat, target, &[]);
            hash.update(data);
            assert_eq!(hex::encode(hash.finalize()), digest, "{stat:?}");
        }
    }

    #[test]
    fn only_user_visible_attributes_count() {
        let plain = stat(Kind::File, 0o644, 0, 0, 0);
        let hash = |name: &[u8]| start(&plain, b"", &[(name.to_vec(), b"v".to_vec())]).finalize();
        let without = start(&plain, b"", &[]).finalize();
        for (name, counts) in [
            (&b"user.a"[..], true),
            (b"security.capability", true),
            (b"security.selinux", false),
            (b"system.posix_acl_access", false),
            (b"trusted.overlay.origin", false),
        ] {
            assert_eq!(
                hash(name) != without,
                counts,
                "{}",
                String::from_utf8_lossy(name)
            );
        }
    }
}
