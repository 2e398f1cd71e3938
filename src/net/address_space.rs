//! Threads under a limit on the address space of this process (`ulimit -v`).
//!
//! A failed allocation ends the process, a refused thread only a connection. Invariant: after a thread has started, enough
//! address space is free for the allocations of all threads, so that the limit is reached at a start.

use rustix::process::{Resource, getrlimit};
use std::io::{self, ErrorKind};
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

/// Address space that the allocator of the system (glibc) reserves for the allocations of a thread, if as much is free, bytes.
const ARENA_BYTES: u64 = 64 << 20;
/// Free address space that is kept for allocations at any limit, bytes. At a low limit it is a quarter of the limit.
const RESERVE_BYTES: u64 = 16 << 20;

/// The limit on the address space of this process, bytes; `None` without one.
pub(super) fn limit() -> Option<u64> {
    getrlimit(Resource::As).current
}

/// Spawns a thread and waits until the allocator has reserved its address space, so that the next check counts it.
///
/// # Errors
/// The system refuses another thread, or too little address space is free.
pub(super) fn spawn(
    builder: Builder,
    limit: u64,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let free = limit.saturating_sub(used().unwrap_or(0));
    if !has_room(limit, free) {
        let text = format!("{} MiB of address space are free (`ulimit -v`)", free >> 20);
        return Err(io::Error::new(ErrorKind::OutOfMemory, text));
    }
    let (started, has_started) = mpsc::sync_channel(1);
    let handle = builder.spawn(move || {
        // The first allocation of a thread.
        drop(std::hint::black_box(Box::new([0_u8; 64])));
        let _ = started.send(());
        run();
    })?;
    let _ = has_started.recv();
    Ok(handle)
}

/// Whether a thread may start: enough is free before and after the allocator has reserved address space for it.
fn has_room(limit: u64, free: u64) -> bool {
    let reserve = RESERVE_BYTES.min(limit / 4);
    free >= reserve && !(ARENA_BYTES..ARENA_BYTES + reserve).contains(&free)
}

/// The address space that this process uses, bytes; `None` if the system does not tell.
fn used() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').next()?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_remains_also_after_the_allocator_has_taken_its_part() {
        let mebibytes = |limit: u64, free: u64| has_room(limit << 20, free << 20);
        assert!(mebibytes(400, 100) && mebibytes(400, 80) && mebibytes(400, 63) && mebibytes(400, 16));
        assert!(!mebibytes(400, 79) && !mebibytes(400, 64) && !mebibytes(400, 15));
        assert!(mebibytes(32, 8) && !mebibytes(32, 7), "a quarter of a low limit");
        assert!(used().is_none_or(|bytes| bytes > 0));
    }

    #[test]
    fn a_thread_starts_only_within_the_limit() {
        let spawn = |limit| spawn(Builder::new(), limit, || {});
        spawn(u64::MAX).unwrap().join().unwrap();
        let error = spawn(used().unwrap_or(0) + 1).unwrap_err();
        assert_eq!(error.to_string(), "0 MiB of address space are free (`ulimit -v`)");
    }
}
