//! Settings of the system's allocator, which no safe crate offers. It decides nothing else.
#![expect(unsafe_code, reason = "mallopt has no safe wrapper")]

/// Makes the allocator give memory back when a build has ended, rather than keep it for each thread: two arenas, and every
/// block from 128 KiB on a mapping of its own. To be called before there are threads.
pub(crate) fn return_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 2),
        (libc::M_MMAP_THRESHOLD, 128 << 10),
        (libc::M_TRIM_THRESHOLD, 128 << 10),
    ] {
        // SAFETY: takes two numbers, and no other thread allocates yet.
        let taken = unsafe { libc::mallopt(parameter, value) };
        debug_assert_eq!(taken, 1, "glibc knows parameter {parameter}");
    }
}
