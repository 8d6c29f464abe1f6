//! Go's `os.FileMode`, which travels in place of POSIX modes. Pure.

const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const FIFO: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SETUID: u32 = 1 << 23;
const SETGID: u32 = 1 << 22;
const CHAR_DEVICE: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;
const IRREGULAR: u32 = 1 << 19;

/// A directory.
pub(crate) const fn is_dir(mode: u32) -> bool {
    mode & DIR != 0
}

/// A socket.
pub(crate) const fn is_socket(mode: u32) -> bool {
    mode & SOCKET != 0
}

/// A regular file.
pub(crate) const fn is_regular(mode: u32) -> bool {
    mode & (DIR | SYMLINK | DEVICE | FIFO | SOCKET | CHAR_DEVICE | IRREGULAR) == 0
}

/// The Go mode of a POSIX `st_mode`.
pub(crate) const fn from_posix(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => DIR,
        0o120_000 => SYMLINK,
        0o060_000 => DEVICE,
        0o020_000 => DEVICE | CHAR_DEVICE,
        0o010_000 => FIFO,
        0o140_000 => SOCKET,
        _ => 0,
    };
    let mut bits = mode & 0o777;
    if mode & 0o4000 != 0 {
        bits |= SETUID;
    }
    if mode & 0o2000 != 0 {
        bits |= SETGID;
    }
    if mode & 0o1000 != 0 {
        bits |= STICKY;
    }
    kind | bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_posix_type_has_its_go_bits() {
        for (posix, go) in [
            (0o100_644, 0o644),
            (0o040_755, 0x8000_01ed),
            (0o120_777, 0x0800_01ff),
            (0o020_600, 0x0420_0180),
            (0o060_600, 0x0400_0180),
            (0o010_600, 0x0200_0180),
            (0o104_755, 0x0080_01ed),
            (0o041_777, 0x8010_01ff),
        ] {
            assert_eq!(from_posix(posix), go, "{posix:o}");
        }
    }
}
