//! Shutdown signal: a flag, a channel that closes, hooks, and sockets that are shut down under their readers.
//!
//! Invariant: the trigger wakes every thread that waits for the signal or on a guarded stream, and runs every hook,
//! also those that are registered after the trigger.

use crate::sync::lock;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

/// Interval at which a wait that the shutdown cannot end checks for it.
pub const POLL_INTERVAL: Duration = Duration::from_millis(100);

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
    /// Keeps the parent alive: the trigger of a grandparent passes through it.
    _parent: Option<Shutdown>,
}

/// A shutdown signal for threads, streams and hooks. Clones share one signal; a [`child`](Self::child) is triggered
/// with its parent or alone before it.
#[derive(Clone)]
pub struct Shutdown(Arc<Inner>);

/// Registration of a stream at a shutdown; the stream is deregistered on drop.
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

    /// A shutdown that is triggered together with this one, and can be triggered alone.
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
        lock(&self.0.state)
    }

    /// Triggers the shutdown. A second call has no effect.
    pub fn trigger(&self) {
        let mut state = self.state();
        state.stopped = true;
        let State { alive, streams, hooks, children, .. } = &mut *state;
        drop(alive.take());
        let (streams, hooks, children) =
            (std::mem::take(streams), std::mem::take(hooks), std::mem::take(children));
        drop(state);
        for stream in streams.values().filter_map(Weak::upgrade) {
            // Fails if the other side has closed the connection: then no thread waits on it.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        hooks.into_iter().for_each(|hook| hook());
        children.iter().filter_map(Weak::upgrade).for_each(|child| Shutdown(child).trigger());
    }

    /// Whether the shutdown was triggered.
    pub fn is_stopped(&self) -> bool {
        self.state().stopped
    }

    /// A channel for `select!`: it never carries a message, and it closes at the trigger.
    pub fn signal(&self) -> &Receiver<Infallible> {
        &self.0.signal
    }

    /// Waits for the trigger, at most `time`. Returns whether the shutdown was triggered.
    pub fn wait(&self, time: Duration) -> bool {
        !matches!(self.0.signal.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }

    /// Waits for the trigger.
    pub fn wait_forever(&self) {
        let _ = self.0.signal.recv();
    }

    /// Registers a stream that the trigger shuts down, which wakes the threads that read or write it.
    #[must_use = "dropping the guard deregisters the stream"]
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

    /// Registers a hook that the trigger calls. It is called immediately if the shutdown was triggered before.
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
    fn trigger_wakes_readers_registered_before_and_after_it() {
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
    fn hooks_run_once_and_a_child_can_be_triggered_alone() {
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
    fn grandchild_is_triggered_when_its_parent_handle_was_dropped() {
        let shutdown = Shutdown::new();
        let grandchild = shutdown.child().child();
        shutdown.trigger();
        assert!(grandchild.is_stopped() && grandchild.wait(Duration::ZERO));
    }

    #[test]
    fn dropped_guard_deregisters_its_stream() {
        let shutdown = Shutdown::new();
        let (stream, _other) = pair();
        drop(shutdown.guard(&stream));
        assert!(shutdown.state().streams.is_empty());
    }
}
