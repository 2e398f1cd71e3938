//! Memory budget: limits the bytes of chunks that several threads hold at the same time.

use super::shutdown::{POLL_INTERVAL, Shutdown};
use crate::sync::{lock, wait_timeout_while};
use std::sync::{Condvar, Mutex};

/// A number of bytes that threads reserve and return.
pub struct MemoryBudget {
    total: u64,
    available: Mutex<u64>,
    freed: Condvar,
}

/// A reserved part of a budget, returned when dropped.
pub struct Reservation<'a> {
    budget: &'a MemoryBudget,
    bytes: u64,
}

impl MemoryBudget {
    /// A budget of `bytes`.
    pub fn new(bytes: u64) -> Self {
        Self { total: bytes, available: Mutex::new(bytes), freed: Condvar::new() }
    }

    /// Reserves `bytes`, at most the whole budget, so that no wait is endless. Waits until they are available;
    /// `None` at the shutdown.
    pub fn reserve(&self, bytes: u64, shutdown: &Shutdown) -> Option<Reservation<'_>> {
        let bytes = bytes.min(self.total);
        let mut available = lock(&self.available);
        while *available < bytes {
            if shutdown.is_stopped() {
                return None;
            }
            available = wait_timeout_while(&self.freed, available, POLL_INTERVAL, |free| *free < bytes);
        }
        *available -= bytes;
        Some(Reservation { budget: self, bytes })
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        *lock(&self.budget.available) += self.bytes;
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_is_shared_and_shutdown_ends_the_wait() {
        let (budget, shutdown) = (MemoryBudget::new(10), Shutdown::new());
        let (most, rest) = (budget.reserve(7, &shutdown).unwrap(), budget.reserve(3, &shutdown).unwrap());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| budget.reserve(u64::MAX, &shutdown).map(|all| all.bytes));
            drop((most, rest));
            assert_eq!(waits.join().unwrap(), Some(10), "at most the whole budget");
        });
        let all = budget.reserve(10, &shutdown).unwrap();
        shutdown.trigger();
        assert!(budget.reserve(1, &shutdown).is_none());
        drop(all);
        assert!(budget.reserve(1, &shutdown).is_some());
    }
}
