//! The one way to spawn a thread: named, with a small stack, and joined in the end.

use crate::content::limits::STACK;
// Of `core`, since nobody ever waits on a count.
use core::sync::atomic::{AtomicUsize, Ordering};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Threads of this process that have been spawned and not been joined.
static UNJOINED: AtomicUsize = AtomicUsize::new(0);

/// How many threads of this process were spawned and have not been joined: none, when all that it ran has ended.
pub fn unjoined_count() -> usize {
    UNJOINED.load(Ordering::SeqCst)
}

/// The threads of a daemon. Whoever makes them joins them, or [lets them go](Self::detach_all).
#[derive(Clone, Default)]
pub struct Threads(Arc<Group>);

#[derive(Default)]
struct Group(Mutex<Vec<JoinHandle<()>>>);

impl Threads {
    /// No thread yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn handles(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Spawns a thread.
    ///
    /// # Errors
    /// When the system has no room for another one.
    pub fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let handle = Builder::new().name(name.to_owned()).stack_size(STACK).spawn(run)?;
        UNJOINED.fetch_add(1, Ordering::SeqCst);
        let mut handles = self.handles();
        // Those that have ended need no joining later.
        let mut ended = Vec::new();
        if handles.len() >= 64 && handles.len().is_power_of_two() {
            let all = std::mem::take(&mut *handles);
            (ended, *handles) = all.into_iter().partition(JoinHandle::is_finished);
        }
        handles.push(handle);
        drop(handles);
        ended.into_iter().for_each(joined);
        Ok(())
    }

    /// Waits until every thread has ended, also those that others spawn meanwhile. Must not be called
    /// from one of them.
    pub fn join(&self) {
        loop {
            let handle = self.handles().pop();
            match handle {
                Some(handle) => joined(handle),
                None => return,
            }
        }
    }

    /// Lets go of threads that nothing can wake: they end with the process.
    pub fn detach_all(&self) {
        let handles = std::mem::take(&mut *self.handles());
        UNJOINED.fetch_sub(handles.len(), Ordering::SeqCst);
    }
}

fn joined(handle: JoinHandle<()>) {
    let name = handle.thread().name().unwrap_or("?").to_owned();
    if handle.join().is_err() {
        log::error!("the thread {name} panicked; this is a fault in shoal");
    }
    UNJOINED.fetch_sub(1, Ordering::SeqCst);
}

/// Runs `work` in `count` threads at once and returns when all have ended, so that it may borrow. When the system has
/// no room for all of them, with those that it has; when for none, here.
pub fn run_parallel(name: &str, count: usize, work: impl Fn() + Sync) {
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

impl Threads {
    /// What has come of starting something in these threads. When it could not be started, those that it has by then
    /// are ended.
    ///
    /// # Errors
    /// What it failed for.
    pub fn join_on_error<T, E>(&self, started: Result<T, E>, shutdown: &super::Shutdown) -> Result<T, E> {
        if started.is_err() {
            shutdown.trigger();
            self.join();
        }
        started
    }
}

/// In a test of this crate, threads that are let go of without having been joined are a failure.
#[cfg(test)]
impl Drop for Group {
    fn drop(&mut self) {
        let left = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if left.is_empty() || std::thread::panicking() {
            return;
        }
        let names: Vec<_> = left.iter().map(|handle| handle.thread().name().map(str::to_owned)).collect();
        let own = std::thread::current().id();
        if left.iter().any(|handle| handle.thread().id() == own) {
            // Nobody would hear of a panic here.
            eprintln!("{names:?} were never joined");
            std::process::abort();
        }
        panic!("{names:?} were never joined");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_side_by_side_may_borrow() {
        let ran = AtomicUsize::new(0);
        run_parallel("test", 3, || {
            ran.fetch_add(1, Ordering::SeqCst);
        });
        run_parallel("test", 0, || panic!("nothing to do"));
        assert_eq!(ran.load(Ordering::SeqCst), 3);
    }

    // The panic is what makes a test fail that leaves a thread behind: it must come.
    #[test]
    #[should_panic(expected = "forgotten")]
    fn a_test_that_leaves_a_thread_behind_fails() {
        let threads = Threads::new();
        threads.spawn("forgotten", || ()).unwrap();
        drop(threads);
    }

    #[test]
    fn what_cannot_be_started_leaves_no_thread_behind() {
        let (threads, shutdown) = (Threads::new(), crate::net::Shutdown::new());
        let end = shutdown.clone();
        threads.spawn("begun", move || end.wait_forever()).unwrap();
        assert_eq!(threads.join_on_error(Ok::<_, ()>(7), &shutdown), Ok(7));
        assert!(!shutdown.is_stopped());
        assert_eq!(threads.join_on_error(Err::<(), _>("no"), &shutdown), Err("no"));
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
