//! Memory of this process, which only unsafe calls reach.

/// Gives memory that was freed back to the system: the allocator keeps what a large compilation or a full look at the store
/// has needed for a moment. Takes some milliseconds.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes no pointer, may be called at any time from any thread, and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
