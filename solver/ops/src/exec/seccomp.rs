//! The default system call filter of a step: what Docker's default profile allows with the default capability set.
//! It decides the filter only; the launcher compiles and loads it.

use std::sync::LazyLock;

use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

/// System calls that are allowed with any arguments, one a line; those that an architecture lacks are skipped there.
const ALLOWED: &str = include_str!("syscalls.txt");

/// Personalities that are allowed: Linux, BSD-like inode reading, 32-bit, both, and the query.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Flags that make namespaces with `clone`: all `CLONE_NEW*` that need privileges.
const NEW_NAMESPACES: u64 = 0x7E02_0000;

/// Address family of `AF_VSOCK` and its neighbours: sockets of family 39 (NFC) are fine, 38 (ALG) and 40 (VSOCK) are not.
const NFC: u64 = 39;

/// Errno of `clone3`, whose arguments cannot be inspected: callers fall back to `clone`.
const ENOSYS: u32 = 38;

/// The default filter.
pub(super) fn default_profile() -> LinuxSeccomp {
    static PROFILE: LazyLock<LinuxSeccomp> = LazyLock::new(|| {
        serde_json::from_value(profile()).expect("the profile below is a valid seccomp section")
    });
    PROFILE.clone()
}

fn profile() -> Value {
    let allowed: Vec<&str> = ALLOWED.lines().collect();
    let mut rules = vec![
        json!({"names": allowed, "action": "SCMP_ACT_ALLOW"}),
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}),
        with_argument("clone", 0, NEW_NAMESPACES, Some(0), "SCMP_CMP_MASKED_EQ"),
        with_argument("socket", 0, NFC - 1, None, "SCMP_CMP_LT"),
        with_argument("socket", 0, NFC, None, "SCMP_CMP_EQ"),
        with_argument("socket", 0, NFC + 1, None, "SCMP_CMP_GT"),
    ];
    rules.extend(PERSONALITIES.map(|p| with_argument("personality", 0, p, None, "SCMP_CMP_EQ")));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": architectures(),
        "syscalls": rules,
    })
}

fn with_argument(name: &str, index: usize, value: u64, two: Option<u64>, op: &str) -> Value {
    let mut argument = json!({"index": index, "value": value, "op": op});
    if let Some(two) = two {
        argument["valueTwo"] = two.into();
    }
    json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument]})
}

fn architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "riscv64" => &["SCMP_ARCH_RISCV64"],
        "s390x" => &["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
        "powerpc64" => &["SCMP_ARCH_PPC64LE"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_allows_files_and_refuses_mounts() {
        let profile = default_profile();
        let rules = profile.syscalls().as_ref().unwrap();
        let named = |name: &str| {
            rules
                .iter()
                .any(|rule| rule.names().iter().any(|n| n == name))
        };
        assert!(named("openat") && named("chroot") && named("clone"));
        assert!(!named("mount") && !named("bpf") && !named("keyctl"));
    }
}
