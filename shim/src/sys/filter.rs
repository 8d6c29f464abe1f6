//! Installs a compiled seccomp filter. It never compiles one.
#![expect(unsafe_code, reason = "seccomp takes a pointer to the program")]

use std::io;

/// A compiled seccomp program, in the kernel's own encoding.
#[derive(Debug, Clone)]
pub(crate) struct BpfProgram(Vec<libc::sock_filter>);

impl BpfProgram {
    /// Decodes what libseccomp exports: instructions of 8 bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let instructions = bytes.chunks_exact(8).map(|raw| libc::sock_filter {
            code: u16::from_ne_bytes([raw[0], raw[1]]),
            jt: raw[2],
            jf: raw[3],
            k: u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]),
        });
        Self(instructions.collect())
    }

    /// How many instructions it has.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Puts the calling thread under a filter; `flags` are those of `seccomp(2)`.
pub(crate) fn install_seccomp(program: &BpfProgram, flags: u64) -> io::Result<()> {
    let len =
        u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
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
