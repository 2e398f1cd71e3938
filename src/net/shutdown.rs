//! How everything ends: a flag, a channel that closes, and sockets that are shut under their readers.
//!
//! Invariant: once triggered, every thread that waits on the signal, on a guarded stream or through a hook is
//! woken, whichever came first, the wait or the trigger.

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    stopped: bool,
    alive: Option<Sender<Infallible>>,
    next: u64,
    streams: HashMap<u64, Weak<TcpStream>>,
    hooks: Vec<Hook>,
    children: Vec<Weak<Inner>>,
}

struct Inner {
    signal: Receiver<Infallible>,
    state: Mutex<State>,
    /// Nobody else may keep it, and a grandparent's trigger gets here through it.
    _parent: Option<Shutdown>,
}

/// Ends what it was given to. Clones are the same shutdown; a [`child`](Self::child) ends with its parent
/// or before it.
#[derive(Clone)]
pub struct Shutdown(Arc<Inner>);

/// Keeps a stream under the eyes of a shutdown.
pub struct Guard {
    number: u64,
    inner: Weak<Inner>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A shutdown that has not been triggered.
    pub fn new() -> Self {
        Self::under(None)
    }

    fn under(parent: Option<Self>) -> Self {
        let (alive, signal) = bounded(0);
        let state = State { alive: Some(alive), ..State::default() };
        Self(Arc::new(Inner { signal, state: Mutex::new(state), _parent: parent }))
    }

    /// A shutdown that is triggered along with this one, and can be triggered alone.
    pub fn child(&self) -> Self {
        let child = Self::under(Some(self.clone()));
        let mut state = self.state();
        if state.stopped {
            drop(state);
            child.trigger();
        } else {
            state.children.retain(|child| child.strong_count() > 0);
            state.children.push(Arc::downgrade(&child.0));
        }
        child
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends everything. Again is fine.
    pub fn trigger(&self) {
        let mut state = self.state();
        state.stopped = true;
        let State { alive, streams, hooks, children, .. } = &mut *state;
        drop(alive.take());
        let (streams, hooks, children) =
            (std::mem::take(streams), std::mem::take(hooks), std::mem::take(children));
        drop(state);
        for stream in streams.values().filter_map(Weak::upgrade) {
            // Fails when the other side was faster; then there is nothing to wake.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        hooks.into_iter().for_each(|hook| hook());
        children.iter().filter_map(Weak::upgrade).for_each(|child| Shutdown(child).trigger());
    }

    /// Whether it was triggered.
    pub fn is_stopped(&self) -> bool {
        self.state().stopped
    }

    /// A channel that nothing is ever sent on and that closes at the trigger: for `select!`.
    pub fn signal(&self) -> &Receiver<Infallible> {
        &self.0.signal
    }

    /// Waits until the trigger, at most `time`. Returns whether it was triggered.
    pub fn wait(&self, time: Duration) -> bool {
        !matches!(self.0.signal.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }

    /// Waits until the trigger.
    pub fn wait_forever(&self) {
        let _ = self.0.signal.recv();
    }

    /// Has the trigger shut a stream, so that whoever reads or writes it is woken.
    #[must_use = "the stream is forgotten when the guard is dropped"]
    pub fn guard(&self, stream: &Arc<TcpStream>) -> Guard {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        if state.stopped {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        } else {
            state.streams.insert(number, Arc::downgrade(stream));
        }
        Guard { number, inner: Arc::downgrade(&self.0) }
    }

    /// Has the trigger call `hook`; at once if it was triggered already.
    pub fn on_trigger(&self, hook: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        match state.stopped {
            false => state.hooks.push(Box::new(hook)),
            true => {
                drop(state);
                hook();
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            Shutdown(inner).state().streams.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn pair() -> (Arc<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Arc::new(one), listener.accept().unwrap().0)
    }

    #[test]
    fn a_reader_is_woken_whether_it_came_before_or_after() {
        let shutdown = Shutdown::new();
        let (before, _other) = pair();
        let _guard = shutdown.guard(&before);
        let reader = before.clone();
        let thread = std::thread::spawn(move || (&*reader).read(&mut [0]).unwrap());
        shutdown.trigger();
        assert_eq!(thread.join().unwrap(), 0);
        let (after, _other) = pair();
        let _guard = shutdown.guard(&after);
        assert_eq!((&*after).read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn children_and_hooks_are_told_once_and_a_child_ends_alone() {
        let shutdown = Shutdown::new();
        let (child, alone) = (shutdown.child(), shutdown.child());
        alone.trigger();
        assert!(alone.is_stopped() && !shutdown.is_stopped() && !shutdown.wait(Duration::ZERO));
        let calls = Arc::new(AtomicU32::new(0));
        let count = || {
            let calls = calls.clone();
            move || {
                calls.fetch_add(1, Ordering::SeqCst);
            }
        };
        shutdown.on_trigger(count());
        shutdown.trigger();
        shutdown.trigger();
        shutdown.on_trigger(count());
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        assert!(child.is_stopped() && shutdown.child().is_stopped());
        assert!(child.wait(Duration::from_secs(60)));
    }

    #[test]
    fn a_grandchild_ends_also_when_nobody_keeps_what_is_between() {
        let shutdown = Shutdown::new();
        let grandchild = shutdown.child().child();
        shutdown.trigger();
        assert!(grandchild.is_stopped() && grandchild.wait(Duration::ZERO));
    }

    #[test]
    fn a_guard_that_is_dropped_leaves_nothing_behind() {
        let shutdown = Shutdown::new();
        let (stream, _other) = pair();
        drop(shutdown.guard(&stream));
        assert!(shutdown.state().streams.is_empty());
    }
}
