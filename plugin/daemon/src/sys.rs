//! The system's allocator, which no safe crate has settings for. It decides nothing else.
#![expect(unsafe_code, reason = "mallopt and malloc_trim have no safe wrapper")]

/// Lets the allocator use again what a build has freed, rather than ask the kernel for every large block: no mapping of its
/// own for a message or a block of a layer. One arena, since the end of any other is never given back, however much of it
/// is free. To be called before there are threads.
pub(crate) fn keep_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, 8 << 20),
        (libc::M_TRIM_THRESHOLD, 64 << 20),
    ] {
        // SAFETY: takes two numbers, and no other thread allocates yet.
        let taken = unsafe { libc::mallopt(parameter, value) };
        debug_assert_eq!(taken, 1, "glibc knows parameter {parameter}");
    }
}

/// Gives the kernel back what is free.
pub(crate) fn return_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and may be called by any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
