//! Gives a process its identity and takes from it what the specification does not grant. It never decides what that is.

use std::fs;
use std::io;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimit, PosixRlimitType};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities,
};

use super::error::{Attempt as _, StartError};
use super::identity::Identity;

/// Capability numbers are positions in this list.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The sets of a specification as bit masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Capable {
    pub(crate) bounding: u64,
    permitted: u64,
    effective: u64,
    inheritable: u64,
    ambient: u64,
}

impl Capable {
    /// A specification without capabilities grants none.
    pub(crate) fn new(granted: Option<&LinuxCapabilities>) -> Self {
        let Some(granted) = granted else {
            return Self::default();
        };
        Self {
            bounding: mask(granted.bounding().as_ref()),
            permitted: mask(granted.permitted().as_ref()),
            effective: mask(granted.effective().as_ref()),
            inheritable: mask(granted.inheritable().as_ref()),
            ambient: mask(granted.ambient().as_ref()),
        }
    }
}

/// Drops what the bounding set lacks, becomes the identity and sets the other capability sets.
pub(crate) fn assume(identity: &Identity, capable: &Capable) -> Result<(), StartError> {
    let mut known = 0;
    for number in 0..CAPABILITIES.len() {
        let bit = 1 << number;
        let Ok(present) = capability_is_in_bounding_set(one(bit)) else {
            break;
        };
        known |= bit;
        if present && capable.bounding & bit == 0 {
            remove_capability_from_bounding_set(one(bit))
                .attempt(|| format!("dropping capability {number}"))?;
        }
    }
    set_keep_capabilities(true).attempt(|| "keeping capabilities".to_owned())?;
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    setgroups(&groups).attempt(|| format!("setting groups {:?}", identity.groups))?;
    setresgid(gid, gid, gid).attempt(|| format!("becoming group {gid}"))?;
    setresuid(uid, uid, uid).attempt(|| format!("becoming user {uid}"))?;
    set_keep_capabilities(false).attempt(|| "no longer keeping capabilities".to_owned())?;
    let sets = CapabilitySets {
        effective: one(capable.effective & known),
        permitted: one(capable.permitted & known),
        inheritable: one(capable.inheritable & known),
    };
    clear_ambient_capability_set().attempt(|| "clearing ambient capabilities".to_owned())?;
    set_capabilities(None, sets).attempt(|| "setting capabilities".to_owned())?;
    for bit in (0..CAPABILITIES.len()).map(|number| 1 << number) {
        if capable.ambient & known & bit != 0 {
            configure_capability_in_ambient_set(one(bit), true)
                .attempt(|| "raising an ambient capability".to_owned())?;
        }
    }
    Ok(())
}

/// Sets resource limits.
pub(crate) fn limit(limits: &[PosixRlimit]) -> Result<(), StartError> {
    use nix::sys::resource::setrlimit;
    for limit in limits {
        setrlimit(resource(limit.typ()), limit.soft(), limit.hard())
            .attempt(|| format!("setting limit {}", limit.typ()))?;
    }
    Ok(())
}

/// Sets the score by which the kernel chooses whom to kill when memory is short.
pub(crate) fn score(oom_score: i32) -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", oom_score.to_string())
}

/// Tells the kernel's security module under which profile or label the next exec happens.
pub(crate) fn label(apparmor: Option<&str>, selinux: Option<&str>) -> Result<(), StartError> {
    if let Some(profile) = apparmor.filter(|profile| !profile.is_empty()) {
        fs::write("/proc/self/attr/apparmor/exec", format!("exec {profile}"))
            .or_else(|_| fs::write("/proc/self/attr/exec", format!("exec {profile}")))
            .attempt(|| format!("applying AppArmor profile {profile}"))?;
    }
    if let Some(label) = selinux.filter(|label| !label.is_empty()) {
        fs::write("/proc/self/attr/exec", label)
            .attempt(|| format!("applying SELinux label {label}"))?;
    }
    Ok(())
}

fn one(bits: u64) -> CapabilitySet {
    CapabilitySet::from_bits_retain(bits)
}

fn mask(set: Option<&Capabilities>) -> u64 {
    set.into_iter()
        .flatten()
        .map(|capability| bit_of(&capability.to_string()))
        .sum()
}

fn bit_of(name: &str) -> u64 {
    CAPABILITIES
        .iter()
        .position(|known| *known == name)
        .map_or(0, |number| 1 << number)
}

fn resource(kind: PosixRlimitType) -> nix::sys::resource::Resource {
    use nix::sys::resource::Resource;
    match kind {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use oci_spec::runtime::{Capability, LinuxCapabilitiesBuilder};

    use super::*;

    #[test]
    fn dockers_default_set_has_the_known_mask() {
        use Capability as C;
        let names: HashSet<C> = [
            C::Chown,
            C::DacOverride,
            C::Fowner,
            C::Fsetid,
            C::Kill,
            C::Setgid,
            C::Setuid,
            C::Setpcap,
            C::NetBindService,
            C::NetRaw,
            C::SysChroot,
            C::Mknod,
            C::AuditWrite,
            C::Setfcap,
        ]
        .into();
        let granted = LinuxCapabilitiesBuilder::default()
            .bounding(names)
            .build()
            .unwrap();
        assert_eq!(Capable::new(Some(&granted)).bounding, 0xa804_25fb);
    }

    #[test]
    fn no_capabilities_given_means_none() {
        assert_eq!(Capable::new(None), Capable::default());
    }
}
