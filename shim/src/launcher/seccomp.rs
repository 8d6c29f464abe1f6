//! Compiles the seccomp section of a specification, once per distinct section. It never installs a filter.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::rc::Rc;

use libseccomp::error::SeccompError;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};

use rustix::fs::{MemfdFlags, memfd_create};

use super::error::{Attempt as _, StartError};
use crate::sys::BpfProgram;

const EPERM: u32 = libc::EPERM.unsigned_abs();

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
    let refuse = |error: SeccompError| StartError::Seccomp(error.to_string());
    let default = action(section.default_action(), section.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default).map_err(refuse)?;
    // A binary tree: the kernel tries a new filter with every system call there is, for each step anew.
    context.set_ctl_optimize(2).map_err(refuse)?;
    for arch in section.architectures().iter().flatten() {
        if let Some(arch) = architecture(*arch) {
            context.add_arch(arch).map_err(refuse)?;
        }
    }
    for rule in section.syscalls().iter().flatten() {
        add_rule(&mut context, rule, default)?;
    }
    let program = BpfProgram::from_bytes(&exported(&context)?);
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
    Ok(Filter { program, flags })
}

/// What libseccomp writes into a file is the program.
fn exported(context: &ScmpFilterContext) -> Result<Vec<u8>, StartError> {
    let exporting = || "exporting the seccomp filter".to_owned();
    let memory = memfd_create("seccomp", MemfdFlags::CLOEXEC).attempt(exporting)?;
    context
        .export_bpf(&memory)
        .map_err(|error| StartError::Seccomp(error.to_string()))?;
    let (mut file, mut bytes) = (File::from(memory), Vec::new());
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .attempt(exporting)?;
    Ok(bytes)
}

fn add_rule(
    context: &mut ScmpFilterContext,
    rule: &LinuxSyscall,
    default: ScmpAction,
) -> Result<(), StartError> {
    let wanted = action(rule.action(), rule.errno_ret())?;
    // libseccomp refuses rules that say what the default says.
    if wanted == default {
        return Ok(());
    }
    for name in rule.names() {
        // A profile names calls of many architectures and kernels; those unknown here can't be made either.
        let Ok(syscall) = ScmpSyscall::from_name(name) else {
            continue;
        };
        let arguments = rule.args().as_deref().unwrap_or_default();
        add_conditions(context, wanted, syscall, arguments)
            .map_err(|error| StartError::Seccomp(format!("{name}: {error}")))?;
    }
    Ok(())
}

/// Conditions on different arguments must all hold; several on one argument are alternatives, each a rule of its own.
fn add_conditions(
    context: &mut ScmpFilterContext,
    wanted: ScmpAction,
    syscall: ScmpSyscall,
    arguments: &[LinuxSeccompArg],
) -> Result<(), SeccompError> {
    let conditions: Vec<ScmpArgCompare> = arguments.iter().map(condition).collect();
    let repeated = arguments.iter().enumerate().any(|(at, one)| {
        arguments[..at]
            .iter()
            .any(|other| other.index() == one.index())
    });
    if conditions.is_empty() {
        context.add_rule(wanted, syscall)?;
    } else if repeated {
        for condition in conditions {
            context.add_rule_conditional(wanted, syscall, &[condition])?;
        }
    } else {
        context.add_rule_conditional(wanted, syscall, &conditions)?;
    }
    Ok(())
}

fn condition(argument: &LinuxSeccompArg) -> ScmpArgCompare {
    let (mut value, second) = (argument.value(), argument.value_two().unwrap_or(0));
    let operator = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => ScmpCompareOp::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => ScmpCompareOp::Less,
        LinuxSeccompOperator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpEq => ScmpCompareOp::Equal,
        LinuxSeccompOperator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        LinuxSeccompOperator::ScmpCmpGt => ScmpCompareOp::Greater,
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            let mask = value;
            value = second;
            ScmpCompareOp::MaskedEqual(mask)
        }
    };
    ScmpArgCompare::new(
        u32::try_from(argument.index()).unwrap_or(u32::MAX),
        operator,
        value,
    )
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, StartError> {
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => {
            ScmpAction::Errno(i32::try_from(errno.unwrap_or(EPERM)).unwrap_or(libc::EPERM))
        }
        LinuxSeccompAction::ScmpActTrace => {
            ScmpAction::Trace(u16::try_from(errno.unwrap_or(EPERM)).unwrap_or(1))
        }
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(StartError::Seccomp(
                "SCMP_ACT_NOTIFY is not supported in build steps".to_owned(),
            ));
        }
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
        assert!(first.program.len() > 5);
        assert!(Rc::ptr_eq(&first, &filters.get(&section).unwrap()));
    }

    #[test]
    fn a_notifying_filter_is_refused() {
        let section = serde_json::from_str(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#).unwrap();
        assert!(Filters::default().get(&section).is_err());
    }
}
