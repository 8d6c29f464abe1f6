//! Compiles the seccomp section of a specification, once per distinct section. It never installs a filter. libseccomp
//! knows the calls' numbers; its own compiler takes 20 ms for the default section, as long as three steps, and its
//! programs are three times as long, which the kernel pays for with every step.

mod assemble;

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};

use self::assemble::{Architecture, Comparison, Condition, Rules, Verdict, assemble};
use super::error::StartError;
use crate::sys::BpfProgram;

const EPERM: u32 = libc::EPERM.unsigned_abs();
/// Calls of x32 are told from those of x86-64 by this bit.
const X32: u32 = 0x4000_0000;

/// The number of a call, and the names of it and of those that follow.
type Numbered = (u32, &'static [&'static str]);

/// What is special to 32-bit x86.
const DIRECT_ON_X86: [Numbered; 2] = [(337, &["recvmmsg"]), (345, &["sendmmsg"])];

/// What is special to s390.
const DIRECT_ON_S390: [Numbered; 1] = [(357, &["recvmmsg", "sendmmsg"])];

/// Calls that 32-bit x86 and s390 once had through `socketcall` and `ipc` only.
const DIRECT: [Numbered; 3] = [
    (
        359,
        &[
            "socket",
            "socketpair",
            "bind",
            "connect",
            "listen",
            "accept4",
            "getsockopt",
            "setsockopt",
            "getsockname",
            "getpeername",
            "sendto",
            "sendmsg",
            "recvfrom",
            "recvmsg",
            "shutdown",
        ],
    ),
    (393, &["semget", "semctl"]),
    (
        395,
        &[
            "shmget", "shmctl", "shmat", "shmdt", "msgget", "msgsnd", "msgrcv", "msgctl",
        ],
    ),
];

/// A filter ready to be installed.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) program: BpfProgram,
    /// Flags of `seccomp(2)`.
    pub(crate) flags: u64,
}

/// The filters compiled so far, by the JSON of their section.
#[derive(Debug, Default)]
pub(crate) struct Filters(HashMap<String, Rc<Filter>>);

impl Filters {
    /// The filter of a section.
    pub(crate) fn get(&mut self, section: &LinuxSeccomp) -> Result<Rc<Filter>, StartError> {
        let key = serde_json::to_string(section)?;
        if let Some(filter) = self.0.get(&key) {
            return Ok(Rc::clone(filter));
        }
        let filter = Rc::new(compile(section)?);
        self.0.insert(key, Rc::clone(&filter));
        Ok(filter)
    }
}

fn compile(section: &LinuxSeccomp) -> Result<Filter, StartError> {
    let default = verdict(section.default_action(), section.default_errno_ret())?;
    let mut architectures: BTreeMap<u32, Architecture> = BTreeMap::new();
    let filtered = filtered(section);
    for &arch in &filtered {
        let Some(token) = audit_token(arch) else {
            continue;
        };
        let architecture = architectures.entry(token).or_default();
        if arch == ScmpArch::X8664 && !filtered.contains(&ScmpArch::X32) {
            architecture.foreign_from = Some(X32);
        }
        for rule in section.syscalls().iter().flatten() {
            add_rule(architecture, arch, rule, default)?;
        }
    }
    let program = assemble(&architectures, default, libc::SECCOMP_RET_KILL_THREAD);
    let mut flags = 0;
    for flag in section.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => {
                libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
            }
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(StartError::Seccomp(
                    "WAIT_KILLABLE_RECV needs a listener".to_owned(),
                ));
            }
        };
    }
    Ok(Filter {
        program: BpfProgram::new(program),
        flags,
    })
}

/// The architectures that calls are looked at of; this machine's own comes first, named or not.
fn filtered(section: &LinuxSeccomp) -> Vec<ScmpArch> {
    let mut all = vec![ScmpArch::native()];
    let named = section.architectures().iter().flatten();
    for arch in named.filter_map(|arch| architecture(*arch)) {
        if arch != ScmpArch::Native && !all.contains(&arch) {
            all.push(arch);
        }
    }
    all
}

fn add_rule(
    to: &mut Architecture,
    arch: ScmpArch,
    rule: &LinuxSyscall,
    default: Verdict,
) -> Result<(), StartError> {
    let wanted = verdict(rule.action(), rule.errno_ret())?;
    // A rule that says what the default says is none; a later one may say something else.
    if wanted == default {
        return Ok(());
    }
    let arguments = rule.args().as_deref().unwrap_or_default();
    let conditions = arguments.iter().map(condition);
    let conditions: Vec<Condition> = conditions.collect::<Result<_, _>>()?;
    let repeated = conditions.iter().enumerate().any(|(at, one)| {
        let before = &conditions[..at];
        before.iter().any(|other| other.argument == one.argument)
    });
    for name in rule.names() {
        // A profile names calls of many architectures and kernels; those unknown here can't be made either.
        let Some(number) = number(name, arch) else {
            continue;
        };
        let Rules(rules) = to.calls.entry(number).or_default();
        if repeated {
            // Conditions on one argument are alternatives, those on different ones must all hold.
            rules.extend(conditions.iter().map(|one| (vec![*one], wanted)));
        } else {
            rules.push((conditions.clone(), wanted));
        }
    }
    Ok(())
}

/// A call's number, if the architecture has it.
fn number(name: &str, arch: ScmpArch) -> Option<u32> {
    let known = ScmpSyscall::from_name_by_arch(name, arch).ok()?;
    if let Ok(number) = u32::try_from(i32::from(known)) {
        return Some(number);
    }
    // libseccomp means both the old way, through one call for all of a family, and the direct one.
    let special = match arch {
        ScmpArch::X86 => &DIRECT_ON_X86[..],
        ScmpArch::S390 | ScmpArch::S390X => &DIRECT_ON_S390[..],
        _ => return None,
    };
    special.iter().chain(&DIRECT).find_map(|(first, names)| {
        let at = names.iter().position(|one| *one == name)?;
        first.checked_add(u32::try_from(at).ok()?)
    })
}

fn condition(argument: &LinuxSeccompArg) -> Result<Condition, StartError> {
    let index = argument.index();
    let number = u32::try_from(index).ok().filter(|index| *index < 6);
    let number = number
        .ok_or_else(|| StartError::Seccomp(format!("system calls have no argument {index}")))?;
    let (comparison, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (Comparison::NotEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpLt => (Comparison::Less, argument.value()),
        LinuxSeccompOperator::ScmpCmpLe => (Comparison::AtMost, argument.value()),
        LinuxSeccompOperator::ScmpCmpEq => (Comparison::Equal, argument.value()),
        LinuxSeccompOperator::ScmpCmpGe => (Comparison::AtLeast, argument.value()),
        LinuxSeccompOperator::ScmpCmpGt => (Comparison::Greater, argument.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            let value = argument.value_two().unwrap_or(0);
            (Comparison::Masked(argument.value()), value)
        }
    };
    Ok(Condition {
        argument: number,
        comparison,
        value,
    })
}

fn verdict(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Verdict, StartError> {
    let data = errno.unwrap_or(EPERM) & libc::SECCOMP_RET_DATA;
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            libc::SECCOMP_RET_KILL_THREAD
        }
        LinuxSeccompAction::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        LinuxSeccompAction::ScmpActErrno => libc::SECCOMP_RET_ERRNO | data,
        LinuxSeccompAction::ScmpActTrace => libc::SECCOMP_RET_TRACE | data,
        LinuxSeccompAction::ScmpActLog => libc::SECCOMP_RET_LOG,
        LinuxSeccompAction::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(StartError::Seccomp(
                "SCMP_ACT_NOTIFY is not supported in build steps".to_owned(),
            ));
        }
    })
}

/// What the kernel calls an architecture in a call's data: its ELF machine, with bits for 64 bits and little-endian.
fn audit_token(arch: ScmpArch) -> Option<u32> {
    const WIDE: u32 = 0x8000_0000;
    const LITTLE: u32 = 0x4000_0000;
    const N32: u32 = 0x2000_0000;
    Some(match arch {
        ScmpArch::X86 => 0x3 | LITTLE,
        ScmpArch::X8664 | ScmpArch::X32 => 0x3e | WIDE | LITTLE,
        ScmpArch::Arm => 0x28 | LITTLE,
        ScmpArch::Aarch64 => 0xb7 | WIDE | LITTLE,
        ScmpArch::Mips => 0x8,
        ScmpArch::Mips64 => 0x8 | WIDE,
        ScmpArch::Mips64N32 => 0x8 | WIDE | N32,
        ScmpArch::Mipsel => 0x8 | LITTLE,
        ScmpArch::Mipsel64 => 0x8 | WIDE | LITTLE,
        ScmpArch::Mipsel64N32 => 0x8 | WIDE | LITTLE | N32,
        ScmpArch::Ppc => 0x14,
        ScmpArch::Ppc64 => 0x15 | WIDE,
        ScmpArch::Ppc64Le => 0x15 | WIDE | LITTLE,
        ScmpArch::S390 => 0x16,
        ScmpArch::S390X => 0x16 | WIDE,
        ScmpArch::Parisc => 0xf,
        ScmpArch::Parisc64 => 0xf | WIDE,
        ScmpArch::Riscv64 => 0xf3 | WIDE | LITTLE,
        _ => return None,
    })
}

/// Architectures that this libseccomp lacks can't be filtered, nor run.
fn architecture(arch: Arch) -> Option<ScmpArch> {
    Some(match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchLoongarch64 | Arch::ScmpArchM68k | Arch::ScmpArchSh | Arch::ScmpArchSheb => {
            return None;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTION: &str = r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],
        "syscalls":[{"names":["read","write","no_such_call"],"action":"SCMP_ACT_ALLOW"},
        {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]},
        {"names":["clone"],"action":"SCMP_ACT_ALLOW",
         "args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;

    #[test]
    fn a_section_is_compiled_once() {
        let section: LinuxSeccomp = serde_json::from_str(SECTION).unwrap();
        let mut filters = Filters::default();
        let first = filters.get(&section).unwrap();
        assert!(first.program.instructions().len() > 5);
        assert!(Rc::ptr_eq(&first, &filters.get(&section).unwrap()));
    }

    /// What libseccomp's own compiler makes of a section.
    fn by_libseccomp(section: &LinuxSeccomp) -> Vec<libc::sock_filter> {
        use std::io::{Read as _, Seek as _};

        let action = |action, errno: Option<u32>| match action {
            LinuxSeccompAction::ScmpActAllow => libseccomp::ScmpAction::Allow,
            _ => libseccomp::ScmpAction::Errno(errno.unwrap().cast_signed()),
        };
        let default = action(section.default_action(), section.default_errno_ret());
        let mut context = libseccomp::ScmpFilterContext::new(default).unwrap();
        for arch in section.architectures().iter().flatten() {
            context.add_arch(architecture(*arch).unwrap()).unwrap();
        }
        for rule in section.syscalls().iter().flatten() {
            for name in rule.names() {
                let Ok(call) = ScmpSyscall::from_name(name) else {
                    continue;
                };
                let conditions = rule.args().iter().flatten().map(|argument| {
                    let (op, value) = match argument.op() {
                        LinuxSeccompOperator::ScmpCmpEq => {
                            (libseccomp::ScmpCompareOp::Equal, argument.value())
                        }
                        LinuxSeccompOperator::ScmpCmpLt => {
                            (libseccomp::ScmpCompareOp::Less, argument.value())
                        }
                        LinuxSeccompOperator::ScmpCmpGt => {
                            (libseccomp::ScmpCompareOp::Greater, argument.value())
                        }
                        LinuxSeccompOperator::ScmpCmpMaskedEq => (
                            libseccomp::ScmpCompareOp::MaskedEqual(argument.value()),
                            argument.value_two().unwrap(),
                        ),
                        other => panic!("not in the profile: {other:?}"),
                    };
                    libseccomp::ScmpArgCompare::new(
                        u32::try_from(argument.index()).unwrap(),
                        op,
                        value,
                    )
                });
                let conditions: Vec<_> = conditions.collect();
                let action = action(rule.action(), rule.errno_ret());
                context
                    .add_rule_conditional(action, call, &conditions)
                    .unwrap();
            }
        }
        let mut file = std::fs::File::from(
            rustix::fs::memfd_create("seccomp", rustix::fs::MemfdFlags::CLOEXEC).unwrap(),
        );
        context.export_bpf(&file).unwrap();
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        let words = bytes.chunks_exact(8).map(|raw| libc::sock_filter {
            code: u16::from_ne_bytes([raw[0], raw[1]]),
            jt: raw[2],
            jf: raw[3],
            k: u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]),
        });
        words.collect()
    }

    /// A section with Docker's own kinds of rules.
    #[cfg(target_arch = "x86_64")]
    fn docker_like() -> LinuxSeccomp {
        let allowed = include_str!("../../../../solver/ops/src/exec/syscalls.txt");
        let allowed: Vec<&str> = allowed.lines().collect();
        let argument = |name: &str, value: u64, two: u64, op: &str| {
            let argument =
                serde_json::json!({"index": 0, "value": value, "valueTwo": two, "op": op});
            serde_json::json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument]})
        };
        let section = serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                {"names": allowed, "action": "SCMP_ACT_ALLOW"},
                {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
                argument("clone", 0x7e02_0000, 0, "SCMP_CMP_MASKED_EQ"),
                argument("socket", 38, 0, "SCMP_CMP_LT"),
                argument("socket", 39, 0, "SCMP_CMP_EQ"),
                argument("socket", 40, 0, "SCMP_CMP_GT"),
                argument("personality", 8, 0, "SCMP_CMP_EQ"),
                argument("personality", 0xffff_ffff, 0, "SCMP_CMP_EQ"),
            ],
        });
        serde_json::from_value(section).unwrap()
    }

    /// On each of x86's three architectures.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_program_decides_as_that_of_libseccomp_and_is_shorter() {
        let section = docker_like();
        let ours = compile(&section).unwrap().program;
        let theirs = by_libseccomp(&section);
        assert!(
            ours.instructions().len() * 2 < theirs.len(),
            "{} of {}",
            ours.instructions().len(),
            theirs.len()
        );
        let tokens =
            [ScmpArch::X8664, ScmpArch::X86, ScmpArch::Arm].map(|arch| audit_token(arch).unwrap());
        let families = [
            0,
            37,
            38,
            39,
            40,
            41,
            0x7e02_0000,
            0x0002_0000,
            0x1_0000_0027,
            0xffff_ffff,
            u64::MAX,
        ];
        for token in tokens {
            for number in (0..600).chain(X32..X32 + 600).chain([u32::MAX]) {
                // Calls of 32 bits have arguments of 32 bits.
                let narrow = token == tokens[1] || number & X32 != 0;
                for first in families {
                    if narrow && first > u64::from(u32::MAX) {
                        continue;
                    }
                    let arguments = [first, 1, 2, 3, 4, 5];
                    let decide =
                        |program| assemble::tests::verdict_of(program, token, number, arguments);
                    let (one, other) = (decide(ours.instructions()), decide(&theirs));
                    assert_eq!(one, other, "{token:#x} {number:#x} {first:#x}");
                }
            }
        }
    }

    #[test]
    fn a_notifying_filter_is_refused() {
        let section = serde_json::from_str(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#).unwrap();
        assert!(Filters::default().get(&section).is_err());
    }
}
