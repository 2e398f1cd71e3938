//! Threads under a limit on the address space of this process (`ulimit -v`).
//!
//! A failed allocation ends the process, a refused thread only a connection. Invariant: after a thread has started, enough
//! address space is free for the allocations of all threads, so that the limit is reached at a start. The system keeps the
//! stacks of threads that have ended for the next ones: up to the largest number of threads so far, a thread needs nothing.

use core::sync::atomic::{AtomicU64, Ordering};
use rustix::process::{Resource, getrlimit};
use std::io::{self, ErrorKind};
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

/// Address space that the allocator of the system (glibc) reserves for the allocations of a thread, if as much is free, bytes.
const ARENA_BYTES: u64 = 64 << 20;
/// Free address space that is kept for allocations at any limit, bytes. At a low limit it is an eighth of the limit.
const RESERVE_BYTES: u64 = 16 << 20;
/// The largest number of threads so far.
static MOST_THREADS: AtomicU64 = AtomicU64::new(0);

/// What this process uses.
struct Usage {
    threads: u64,
    /// Address space, bytes.
    bytes: u64,
}

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
    let usage = Usage::now().unwrap_or(Usage { threads: u64::MAX, bytes: 0 });
    let free = limit.saturating_sub(usage.bytes);
    if usage.threads >= MOST_THREADS.load(Ordering::Relaxed) && !has_room(limit, free) {
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
    if let Some(usage) = Usage::now() {
        MOST_THREADS.fetch_max(usage.threads, Ordering::Relaxed);
    }
    Ok(handle)
}

/// Whether a thread may start: enough is free before and after the allocator has reserved address space for it.
fn has_room(limit: u64, free: u64) -> bool {
    let reserve = RESERVE_BYTES.min(limit / 8);
    free >= reserve && !(ARENA_BYTES..ARENA_BYTES + reserve).contains(&free)
}

impl Usage {
    /// The usage at present; `None` if the system does not tell.
    fn now() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/stat").ok()?)
    }

    /// The usage in the text of `/proc/PID/stat`, see `proc_pid_stat(5)`.
    fn parse(text: &str) -> Option<Self> {
        // The name of the program may contain spaces and parentheses.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self { threads: field(20)?, bytes: field(23)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_remains_also_after_the_allocator_has_taken_its_part() {
        let mebibytes = |limit: u64, free: u64| has_room(limit << 20, free << 20);
        assert!(mebibytes(400, 100) && mebibytes(400, 80) && mebibytes(400, 63) && mebibytes(400, 16));
        assert!(!mebibytes(400, 79) && !mebibytes(400, 64) && !mebibytes(400, 15));
        assert!(mebibytes(32, 4) && !mebibytes(32, 3), "an eighth of a low limit");
    }

    #[test]
    fn usage_is_read_from_the_text_of_the_system() {
        let text = "7 (a) b) S 1 7 7 0 -1 4194560 90 0 0 0 1 2 3 4 20 0 5 0 900 104857600 210 18446744073709551615 1";
        let usage = Usage::parse(text).unwrap();
        assert_eq!((usage.threads, usage.bytes), (5, 104_857_600));
        assert!(Usage::parse("7 (a").is_none() && Usage::parse("7 (a) S 1").is_none());
    }

    #[test]
    fn a_thread_starts_only_within_the_limit_or_in_place_of_one_that_has_ended() {
        let spawn = |limit| spawn(Builder::new(), limit, || {});
        spawn(u64::MAX).unwrap().join().unwrap();
        MOST_THREADS.store(0, Ordering::Relaxed);
        let error = spawn(1).unwrap_err();
        assert_eq!(error.to_string(), "0 MiB of address space are free (`ulimit -v`)");
        MOST_THREADS.store(u64::MAX, Ordering::Relaxed);
        spawn(1).unwrap().join().unwrap();
    }
}
