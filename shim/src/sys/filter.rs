//! Installs a compiled seccomp filter. It never compiles one.
#![expect(unsafe_code, reason = "seccomp takes a pointer to the program")]

use std::io;

/// A compiled seccomp program.
#[derive(Debug, Clone)]
pub(crate) struct BpfProgram(Vec<libc::sock_filter>);

impl BpfProgram {
    /// A program of these instructions.
    pub(crate) fn new(instructions: Vec<libc::sock_filter>) -> Self {
        Self(instructions)
    }

    #[cfg(test)]
    pub(crate) fn instructions(&self) -> &[libc::sock_filter] {
        &self.0
    }
}

/// Puts the calling thread under a filter; `flags` are those of `seccomp(2)`.
pub(crate) fn install_seccomp(program: &BpfProgram, flags: u64) -> io::Result<()> {
    let len =
        u16::try_from(program.0.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let filter = libc::sock_fprog {
        len,
        filter: program.0.as_ptr().cast_mut(),
    };
    // SAFETY: `filter` points to `len` instructions that outlive the call; the kernel copies and never writes them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const filter,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
