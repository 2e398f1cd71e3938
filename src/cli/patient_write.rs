//! Writes to a pipe or terminal that do not wait for a reader that does not read.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::AsFd;
use std::time::Duration;

/// Bytes that a pipe takes without blocking if it is ready (`PIPE_BUF` of Linux).
pub(super) const PIPE_BYTES: usize = 4096;

/// Waits until a file can be written to without blocking. An error counts as ready: the write then returns it.
pub(super) fn takes(out: &impl AsFd, wait: Duration) -> bool {
    let tv_sec = wait.as_secs().try_into().unwrap_or(i64::MAX);
    let timeout = Timespec { tv_sec, tv_nsec: wait.subsec_nanos().into() };
    let mut polled = [PollFd::new(out, PollFlags::OUT)];
    !matches!(poll(&mut polled, Some(&timeout)), Ok(0))
}
