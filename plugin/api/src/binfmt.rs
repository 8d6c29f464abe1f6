//! Which foreign platforms the kernel runs through emulators that are registered with `binfmt_misc`. Decides from the
//! registrations' text; registers nothing.

use std::path::Path;

use shipway_model::Platform;

/// Where the kernel shows registrations.
const REGISTRATIONS: &str = "/proc/sys/fs/binfmt_misc";

/// A machine architecture as an ELF header names it: width in bits, byte order, number, and what images call it.
#[expect(
    clippy::struct_excessive_bools,
    reason = "two independent facts of an ELF header"
)]
struct Machine {
    wide: bool,
    big_endian: bool,
    number: u16,
    architecture: &'static str,
    variants: &'static [&'static str],
}

const fn machine(number: u16, architecture: &'static str) -> Machine {
    Machine {
        wide: true,
        big_endian: false,
        number,
        architecture,
        variants: &[""],
    }
}

/// In the order in which BuildKit lists them.
const MACHINES: [Machine; 10] = [
    machine(62, "amd64"),
    machine(183, "arm64"),
    machine(243, "riscv64"),
    machine(21, "ppc64le"),
    Machine {
        big_endian: true,
        ..machine(22, "s390x")
    },
    Machine {
        wide: false,
        ..machine(3, "386")
    },
    machine(8, "mips64le"),
    Machine {
        big_endian: true,
        ..machine(8, "mips64")
    },
    machine(258, "loong64"),
    Machine {
        wide: false,
        variants: &["v7", "v6"],
        ..machine(40, "arm")
    },
];

impl Machine {
    /// The first bytes of its programs, as far as registrations look.
    fn header(&self) -> [u8; 20] {
        let mut header = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\0\0\0\0";
        if !self.wide {
            header[4] = 1;
        }
        let bytes = |value: u16| {
            if self.big_endian {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
        };
        if self.big_endian {
            header[5] = 2;
        }
        // An executable.
        header[16..18].copy_from_slice(&bytes(2));
        header[18..20].copy_from_slice(&bytes(self.number));
        header
    }
}

/// The platforms that emulators run for steps now. A machine without `binfmt_misc` has none.
pub(crate) fn emulated() -> Vec<Platform> {
    let Ok(entries) = Path::new(REGISTRATIONS).read_dir() else {
        return Vec::new();
    };
    let texts = entries
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    platforms(&texts.collect::<Vec<_>>())
}

/// The platforms that these registrations serve.
fn platforms(registrations: &[String]) -> Vec<Platform> {
    let served = MACHINES.iter().filter(|machine| {
        let header = machine.header();
        registrations
            .iter()
            .any(|registration| serves(registration, &header))
    });
    served
        .flat_map(|machine| {
            let platform = |variant| Platform::new("linux", machine.architecture, variant);
            machine.variants.iter().copied().map(platform)
        })
        .collect()
}

/// True where the kernel gives a program with this header to the registered emulator, in any root file system: only with
/// flag `F` it needs no file of the step's.
fn serves(registration: &str, header: &[u8]) -> bool {
    let value = |key: &str| {
        let mut lines = registration.lines();
        lines.find_map(|line| line.strip_prefix(key)).map(str::trim)
    };
    let enabled = registration.lines().next() == Some("enabled");
    let fixed = value("flags:").is_some_and(|flags| flags.contains('F'));
    let magic = value("magic ").and_then(hex);
    let (true, true, Some("0"), Some(magic)) = (enabled, fixed, value("offset "), magic) else {
        return false;
    };
    let mask = value("mask ").and_then(hex).unwrap_or_default();
    let bits = |at: usize| mask.get(at).copied().unwrap_or(0xff);
    magic.len() <= header.len()
        && magic
            .iter()
            .enumerate()
            .all(|(at, byte)| (header[at] ^ byte) & bits(at) == 0)
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM64: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: POCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";
    const ARM: &str = "enabled\ninterpreter /usr/bin/qemu-arm-static\nflags: F\noffset 0\n\
        magic 7f454c4601010100000000000000000002002800\nmask ffffffffffffff00fffffffffffffffffeffffff\n";
    const S390X: &str = "enabled\ninterpreter /usr/bin/qemu-s390x-static\nflags: F\noffset 0\n\
        magic 7f454c4602020100000000000000000000020016\nmask ffffffffffffff00fffffffffffffffffffeffff\n";

    fn named(registrations: &[&str]) -> Vec<String> {
        let texts: Vec<String> = registrations
            .iter()
            .map(|text| (*text).to_owned())
            .collect();
        platforms(&texts).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn registrations_name_what_they_serve() {
        assert_eq!(named(&[]), [""; 0]);
        assert_eq!(
            named(&[S390X, ARM, ARM64]),
            ["linux/arm64", "linux/s390x", "linux/arm/v7", "linux/arm/v6"]
        );
    }

    #[test]
    fn what_a_step_cannot_use_does_not_count() {
        let other = "enabled\ninterpreter /usr/bin/python3\nflags: F\nextension .py\n";
        for text in [
            &ARM64.replace("POCF", "POC"),
            &ARM64.replace("enabled", "disabled"),
            &ARM64.replace("offset 0", "offset 4"),
            other,
            "enabled\n",
        ] {
            assert_eq!(named(&[text]), [""; 0], "{text}");
        }
    }
}
