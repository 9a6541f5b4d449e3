//! The C library's allocator, told what this process is.
#![allow(unsafe_code)]

use nix::libc;

/// Lets the threads of this process share as many heaps as there are processors. Unless told otherwise the C library makes
/// eight for each, and what is freed in one is of no use to the threads of another: a fifth of the memory of many objects.
///
/// To be called before threads are started.
pub fn share_heaps() {
    let heaps = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    // SAFETY: mallopt changes a setting of the allocator, under its own lock; 1 or 0 comes back, and either will do.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, i32::try_from(heaps).unwrap_or(8)) };
}

/// Gives memory that was freed back to the kernel. The C library does so by itself only at the end of each heap.
pub fn trim_heaps() {
    // SAFETY: malloc_trim works on free memory alone, under the allocator's locks.
    unsafe { libc::malloc_trim(0) };
}
