//! Limit on the address space of this process (`ulimit -v`).
//!
//! A failed allocation ends the process. So a new connection is refused while too little address space is free for its
//! thread, or for the allocations of all others. Space that the allocator of the system has reserved is free for allocations,
//! but not for threads.

use crate::content::limits::{FRAME_MAX, STACK_BYTES};
use rustix::process::{Resource, getrlimit};
use std::io::{self, ErrorKind};
use std::sync::OnceLock;

/// Address space that is kept for threads, bytes.
const THREADS_RESERVE_BYTES: u64 = 4 << 20;
/// Address space of the threads of a connection, bytes: two stacks, and what the system allocates for each.
const CONNECTION_THREADS_BYTES: u64 = 2 * (STACK_BYTES as u64 + (32 << 10));
/// Memory that a connection may allocate, bytes: four lines of the largest length.
const CONNECTION_BYTES: u64 = 4 * FRAME_MAX as u64;
/// Part of the limit that is kept for other allocations.
const RESERVE_DIVISOR: u64 = 4;

/// Address space that is neither stack nor heap, bytes: read while no thread has been started.
static FIXED_BYTES: OnceLock<u64> = OnceLock::new();
/// Address space that this process used at the first connection, bytes.
static IDLE_BYTES: OnceLock<u64> = OnceLock::new();

/// The use of address space, bytes.
#[derive(Clone, Copy)]
struct Usage {
    all: u64,
    /// Stacks and heap; not what is only reserved.
    data: u64,
}

impl Usage {
    /// The usage at present; `None` if the system does not tell.
    fn now() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/status").ok()?)
    }

    /// The usage in the text of `/proc/PID/status`, see `proc_pid_status(5)`.
    fn parse(text: &str) -> Option<Self> {
        let bytes = |key| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
        };
        Some(Self { all: bytes("VmSize:")?, data: bytes("VmData:")?.saturating_add(bytes("VmStk:")?) })
    }
}

/// Memory for allocations that is free, bytes; `None` without a limit. The first call must come before the start of threads.
pub fn free_bytes() -> Option<u64> {
    let limit = getrlimit(Resource::As).current?;
    let usage = Usage::now()?;
    let fixed = *FIXED_BYTES.get_or_init(|| usage.all.saturating_sub(usage.data));
    Some(limit.saturating_sub(fixed + usage.data))
}

/// Checks that another connection beside `connections` others can be served.
///
/// # Errors
/// Too little address space is free.
pub fn check(connections: usize) -> io::Result<()> {
    let Some(limit) = getrlimit(Resource::As).current else { return Ok(()) };
    let Some(free) = free_bytes() else { return Ok(()) };
    let used = Usage::now().map_or(0, |usage| usage.all);
    let idle = *IDLE_BYTES.get_or_init(|| used);
    // Threads that have been admitted may not have started yet.
    let threads = (connections as u64).saturating_mul(CONNECTION_THREADS_BYTES);
    let unreserved = limit.saturating_sub(used.max(idle.saturating_add(threads)));
    let reserved = free.saturating_sub(limit.saturating_sub(used));
    let free = unreserved.saturating_add(reserved);
    match has_room(limit, free, unreserved, connections as u64) {
        true => Ok(()),
        false => {
            let text =
                format!("{} of {} MiB of address space are free (`ulimit -v`)", free >> 20, limit >> 20);
            Err(io::Error::new(ErrorKind::OutOfMemory, text))
        }
    }
}

/// Whether a connection can be served beside others: `free` bytes are left for allocations, `unreserved` ones for threads.
fn has_room(limit: u64, free: u64, unreserved: u64, connections: u64) -> bool {
    let reserve = (limit / RESERVE_DIVISOR).saturating_add(connections.saturating_mul(CONNECTION_BYTES));
    unreserved >= THREADS_RESERVE_BYTES && free >= reserve
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_needs_room_for_its_thread_and_for_the_allocations_of_all_others() {
        let mebibytes = |limit: u64, free: u64, unreserved: u64, connections| {
            has_room(limit << 20, free << 20, unreserved << 20, connections)
        };
        assert!(mebibytes(64, 16, 4, 0) && mebibytes(64, 24, 4, 32));
        assert!(!mebibytes(64, 15, 4, 0) && !mebibytes(64, 16, 3, 0) && !mebibytes(64, 24, 4, 33));
        assert!(!has_room(64 << 20, 64 << 20, 64 << 20, u64::MAX));
    }

    #[test]
    fn usage_is_read_from_the_text_of_the_system() {
        let usage =
            Usage::parse("Name:\tx\nVmSize:\t   24000 kB\nVmData:\t 7000 kB\nVmStk:\t 132 kB\n").unwrap();
        assert_eq!((usage.all, usage.data), (24_000 << 10, 7_132 << 10));
        assert!(
            Usage::parse("VmSize: 1 kB\n").is_none()
                && Usage::parse("VmSize: x kB\nVmData: 1 kB\n").is_none()
        );
        assert!(Usage::now().is_none_or(|usage| usage.all > usage.data));
        assert!(check(0).is_ok(), "the tests run without a limit");
    }
}
