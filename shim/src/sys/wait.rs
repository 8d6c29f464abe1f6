//! Reaps children together with what they used. It never blocks.
#![expect(unsafe_code, reason = "wait4 fills a structure")]

use std::io;

/// A child that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) pid: i32,
    /// Its exit code, or 128 + the signal that ended it.
    pub(crate) code: u32,
    pub(crate) signal: Option<i32>,
    /// Largest resident set of itself or a child that it waited for, in bytes.
    pub(crate) peak_memory: u64,
    pub(crate) user_cpu_us: u64,
    pub(crate) system_cpu_us: u64,
    pub(crate) read_blocks: u64,
    pub(crate) written_blocks: u64,
}

/// Reaps `pid` (-1: any child) if it has ended; `None` when nothing has, or there is no such child.
pub(crate) fn wait_for(pid: i32) -> io::Result<Option<Ended>> {
    let mut status: libc::c_int = 0;
    // SAFETY: `rusage` is plain integers, for which zero is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for writes during the call. __WALL: children of clone without SIGCHLD too.
    let pid = unsafe {
        libc::wait4(
            pid,
            &raw mut status,
            libc::WNOHANG | libc::__WALL,
            &raw mut usage,
        )
    };
    if pid < 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ECHILD) {
            Ok(None)
        } else {
            Err(error)
        };
    }
    if pid == 0 {
        return Ok(None);
    }
    let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
    let code = signal.map_or_else(|| libc::WEXITSTATUS(status), |signal| 128 + signal);
    Ok(Some(Ended {
        pid,
        code: code.unsigned_abs(),
        signal,
        peak_memory: count(usage.ru_maxrss) * 1024,
        user_cpu_us: micros(usage.ru_utime),
        system_cpu_us: micros(usage.ru_stime),
        read_blocks: count(usage.ru_inblock),
        written_blocks: count(usage.ru_oublock),
    }))
}

fn micros(time: libc::timeval) -> u64 {
    count(time.tv_sec) * 1_000_000 + count(time.tv_usec)
}

fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
