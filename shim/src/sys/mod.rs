//! The only place with unsafe code: system calls that no safe crate offers. Each function checks what its call needs and
//! decides nothing else.

mod bpf;
mod clone;
mod filter;
mod mount;
mod process;
mod wait;
mod watch;

pub(crate) use bpf::{BpfInstruction, attach_device_program, load_device_program};
pub(crate) use clone::{Cloned, Namespaces, SingleThreaded, clone};
pub(crate) use filter::{BpfProgram, install_seccomp};
pub(crate) use mount::set_mount_attributes;
pub(crate) use process::{bring_loopback_up, join_new_session_keyring, reset_signals, send_signal};
pub(crate) use wait::{Ended, wait_for};
pub(crate) use watch::watch;
