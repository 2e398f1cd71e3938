//! The one way to spawn a thread: named, with a small stack, and joined in the end.

use crate::content::limits::STACK;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// The threads of a daemon.
#[derive(Clone, Default)]
pub struct Threads(Arc<Mutex<Vec<JoinHandle<()>>>>);

impl Threads {
    /// No thread yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn handles(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Spawns a thread.
    ///
    /// # Errors
    /// When the system has no room for another one.
    pub fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let handle = Builder::new().name(name.to_owned()).stack_size(STACK).spawn(run)?;
        let mut handles = self.handles();
        // Those that have ended need no joining later.
        if handles.len() >= 64 && handles.len().is_power_of_two() {
            handles.retain(|handle| !handle.is_finished());
        }
        handles.push(handle);
        Ok(())
    }

    /// Waits until every thread has ended, also those that others spawn meanwhile. Must not be called
    /// from one of them.
    pub fn join(&self) {
        loop {
            let handle = self.handles().pop();
            match handle {
                Some(handle) => {
                    let name = handle.thread().name().unwrap_or("?").to_owned();
                    if handle.join().is_err() {
                        log::error!("the thread {name} panicked; this is a fault in shoal");
                    }
                }
                None => return,
            }
        }
    }
}

/// Runs `work` in `count` threads at once and returns when all have ended, so that it may borrow. When the system has
/// no room for all of them, with those that it has; when for none, here.
pub fn side_by_side(name: &str, count: usize, work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        let spawn =
            || Builder::new().name(name.to_owned()).stack_size(STACK).spawn_scoped(scope, &work).map(drop);
        let spawned = (0..count).filter(|_| match spawn() {
            Ok(()) => true,
            Err(error) => {
                log::warn!("no thread for {name}: {error}");
                false
            }
        });
        if spawned.count() == 0 && count > 0 {
            work();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn threads_side_by_side_may_borrow() {
        let ran = AtomicUsize::new(0);
        side_by_side("test", 3, || {
            ran.fetch_add(1, Ordering::SeqCst);
        });
        side_by_side("test", 0, || panic!("nothing to do"));
        assert_eq!(ran.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn joining_waits_for_threads_spawned_by_threads() {
        let threads = Threads::new();
        let ended = Arc::new(AtomicUsize::new(0));
        let (inner, count) = (threads.clone(), ended.clone());
        threads
            .spawn("outer", move || {
                for _ in 0..200 {
                    let count = count.clone();
                    let add = move || {
                        count.fetch_add(1, Ordering::SeqCst);
                    };
                    inner.spawn("inner", add).unwrap();
                }
            })
            .unwrap();
        threads.join();
        assert_eq!(ended.load(Ordering::SeqCst), 200);
    }
}
