//! Named threads with small stacks, spawned in groups that are joined at shutdown.

use crate::content::limits::STACK_BYTES;
use crate::sync::lock;
// Of `core`: the replacement that model checks interleavings in `std` needs no counter.
use core::sync::atomic::{AtomicUsize, Ordering};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle};

/// Threads of this process that have been spawned and not been joined.
static UNJOINED: AtomicUsize = AtomicUsize::new(0);

/// Number of threads of this process that were spawned and have not been joined. It is 0 after a complete shutdown.
pub fn unjoined_count() -> usize {
    UNJOINED.load(Ordering::SeqCst)
}

/// A group of threads. Its owner joins them, or [detaches](Self::detach_all) them. Clones are the same group.
#[derive(Clone, Default)]
pub struct Threads(Arc<Group>);

#[derive(Default)]
struct Group(Mutex<Vec<JoinHandle<()>>>);

impl Threads {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    fn handles(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        lock(&self.0.0)
    }

    /// Spawns a thread in this group.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let handle = Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(run)?;
        UNJOINED.fetch_add(1, Ordering::SeqCst);
        let mut handles = self.handles();
        // Threads that have ended are joined now and then, so that the list does not grow without limit.
        let mut ended = Vec::new();
        if handles.len() >= 64 && handles.len().is_power_of_two() {
            let all = std::mem::take(&mut *handles);
            (ended, *handles) = all.into_iter().partition(JoinHandle::is_finished);
        }
        handles.push(handle);
        drop(handles);
        ended.into_iter().for_each(join_handle);
        Ok(())
    }

    /// Waits until every thread of the group has ended, including threads that are spawned meanwhile. It must not be
    /// called from a thread of the group.
    pub fn join(&self) {
        loop {
            let handle = self.handles().pop();
            match handle {
                Some(handle) => join_handle(handle),
                None => return,
            }
        }
    }

    /// Detaches threads that cannot be woken: they end with the process.
    pub fn detach_all(&self) {
        let handles = std::mem::take(&mut *self.handles());
        UNJOINED.fetch_sub(handles.len(), Ordering::SeqCst);
    }
}

fn join_handle(handle: JoinHandle<()>) {
    let name = handle.thread().name().unwrap_or("?").to_owned();
    if handle.join().is_err() {
        log::error!("thread {name} panicked; this is a bug in shoal: please report it");
    }
    UNJOINED.fetch_sub(1, Ordering::SeqCst);
}

/// Spawns a thread for a library call that cannot be interrupted. It has the system's default stack, is not joined, and
/// ends with the process at the latest.
///
/// # Errors
/// The system refuses another thread.
pub fn spawn_detached(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

/// Runs `work` in `count` threads and returns when all have ended; `work` may borrow. If the system refuses threads,
/// fewer are used; if it refuses all of them, `work` runs once in the calling thread.
pub fn run_parallel(name: &str, count: usize, work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        let spawned = (0..count).filter(|_| match spawn_scoped(scope, name, &work) {
            Ok(()) => true,
            Err(error) => {
                log::warn!("cannot start a thread for {name}: {error}");
                false
            }
        });
        if spawned.count() == 0 && count > 0 {
            work();
        }
    });
}

/// Runs `work`, which may [spawn](spawn_scoped) threads that borrow; returns when all of them have ended.
pub fn with_scope<'env, T>(
    work: impl for<'scope> FnOnce(&'scope std::thread::Scope<'scope, 'env>) -> T,
) -> T {
    std::thread::scope(work)
}

/// Spawns a thread of a scope; `work` may borrow.
///
/// # Errors
/// The system refuses another thread.
pub fn spawn_scoped<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() + Send + 'scope,
) -> io::Result<()> {
    Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn_scoped(scope, work).map(drop)
}

impl Threads {
    /// Passes on the result of a start. If it is an error, first triggers `shutdown` and joins the threads that were
    /// spawned before the error.
    ///
    /// # Errors
    /// The error of `started`.
    pub fn join_on_error<T, E>(&self, started: Result<T, E>, shutdown: &super::Shutdown) -> Result<T, E> {
        if started.is_err() {
            shutdown.trigger();
            self.join();
        }
        started
    }
}

/// In tests of this crate, dropping a group with threads that were not joined panics.
#[cfg(test)]
impl Drop for Group {
    fn drop(&mut self) {
        use io::Write as _;
        let unjoined = self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        if unjoined.is_empty() || std::thread::panicking() {
            return;
        }
        let names: Vec<_> = unjoined.iter().map(|handle| handle.thread().name().map(str::to_owned)).collect();
        let own = std::thread::current().id();
        if unjoined.iter().any(|handle| handle.thread().id() == own) {
            // A panic in this thread would not fail the test.
            let _ = writeln!(io::stderr(), "{names:?} were never joined");
            std::process::abort();
        }
        panic!("{names:?} were never joined");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parallel_work_may_borrow() {
        let ran = AtomicUsize::new(0);
        run_parallel("test", 3, || {
            ran.fetch_add(1, Ordering::SeqCst);
        });
        run_parallel("test", 0, || panic!("nothing to do"));
        assert_eq!(ran.load(Ordering::SeqCst), 3);
    }

    // The panic in `drop` fails a test that does not join its threads.
    #[test]
    #[should_panic(expected = "forgotten")]
    fn dropping_unjoined_threads_panics() {
        let threads = Threads::new();
        threads.spawn("forgotten", || ()).unwrap();
        drop(threads);
    }

    #[test]
    fn failed_start_joins_the_threads_spawned_before() {
        let (threads, shutdown) = (Threads::new(), crate::net::Shutdown::new());
        let end = shutdown.clone();
        threads.spawn("begun", move || end.wait_forever()).unwrap();
        assert_eq!(threads.join_on_error(Ok::<_, ()>(7), &shutdown), Ok(7));
        assert!(!shutdown.is_stopped());
        assert_eq!(threads.join_on_error(Err::<(), _>("no"), &shutdown), Err("no"));
    }

    #[test]
    fn join_waits_for_threads_spawned_by_threads() {
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
