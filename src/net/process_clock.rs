//! Time for which this process has been running: a timeout must not end because the process was stopped.

use super::threads::spawn_detached;
use crate::sync::{RunningClock, lock};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

/// Interval between two readings: a [`RunningClock`] detects a pause by a longer one.
const READ_INTERVAL: Duration = Duration::from_millis(500);

static CLOCK: LazyLock<Mutex<RunningClock>> = LazyLock::new(Mutex::default);
static STARTED: AtomicBool = AtomicBool::new(false);

/// Starts the thread `clock`, which detects pauses of this process. It ends with the process.
///
/// # Errors
/// The system refuses another thread.
pub fn start_process_clock() -> io::Result<()> {
    if STARTED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    lock(&CLOCK).now();
    spawn_detached("clock", || {
        loop {
            std::thread::sleep(READ_INTERVAL);
            lock(&CLOCK).now();
        }
    })
}

/// Time since the first call, without the pauses of this process. Pauses count before [`start_process_clock`].
pub fn running_time() -> Duration {
    let mut clock = lock(&CLOCK);
    let before = clock.now();
    match STARTED.load(Ordering::SeqCst) {
        true => before,
        // Without regular readings a long interval is no pause.
        false => {
            let skipped = clock.take_paused();
            clock.add(skipped);
            before + skipped
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_time_advances() {
        let before = running_time();
        std::thread::sleep(Duration::from_millis(2));
        assert!(running_time() > before);
    }
}
