//! Substitutes for types of `std` and `crossbeam_channel`, under the same names, that shuttle's scheduler controls.

use shuttle::sync::{Arc, Condvar, Mutex};

/// Locks and reference counts.
pub mod sync {
    pub use shuttle::sync::{
        Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
    };
    pub use std::sync::PoisonError;
}

/// The same functions as in the module `sync` of the crate.
pub fn lock<T>(mutex: &Mutex<T>) -> sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(sync::PoisonError::into_inner)
}

pub fn read<T>(lock: &sync::RwLock<T>) -> sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(sync::PoisonError::into_inner)
}

pub fn write<T>(lock: &sync::RwLock<T>) -> sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(sync::PoisonError::into_inner)
}

pub fn wait<'a, T>(changed: &Condvar, guard: sync::MutexGuard<'a, T>) -> sync::MutexGuard<'a, T> {
    changed.wait(guard).unwrap_or_else(sync::PoisonError::into_inner)
}

/// A stream whose reader blocks until the stream is shut down.
#[derive(Default)]
pub struct TcpStream(Mutex<bool>, Condvar);

impl TcpStream {
    pub fn shutdown(&self, _: std::net::Shutdown) -> std::io::Result<()> {
        *lock(&self.0) = true;
        self.1.notify_all();
        Ok(())
    }

    /// Blocks until the stream is shut down.
    pub fn read_to_end(&self) {
        let mut shut = lock(&self.0);
        while !*shut {
            shut = self.1.wait(shut).expect("no thread panics");
        }
    }
}

/// Threads with a builder, and handles with `is_finished`.
pub mod thread {
    use shuttle::sync::Arc;
    use shuttle::sync::atomic::{AtomicBool, Ordering};

    pub struct Builder(shuttle::thread::Builder);

    pub struct JoinHandle<T> {
        inner: shuttle::thread::JoinHandle<T>,
        finished: Arc<AtomicBool>,
    }

    impl Builder {
        pub fn new() -> Self {
            Self(shuttle::thread::Builder::new())
        }

        pub fn name(self, name: String) -> Self {
            Self(self.0.name(name))
        }

        pub fn stack_size(self, _: usize) -> Self {
            self
        }

        pub fn spawn<T: Send + 'static>(
            self,
            run: impl FnOnce() -> T + Send + 'static,
        ) -> std::io::Result<JoinHandle<T>> {
            let finished = Arc::new(AtomicBool::new(false));
            let set_finished = finished.clone();
            let run = move || {
                let result = run();
                set_finished.store(true, Ordering::SeqCst);
                result
            };
            Ok(JoinHandle { inner: self.0.spawn(run)?, finished })
        }
    }

    impl<T> JoinHandle<T> {
        pub fn is_finished(&self) -> bool {
            self.finished.load(Ordering::SeqCst)
        }

        pub fn thread(&self) -> &shuttle::thread::Thread {
            self.inner.thread()
        }

        pub fn join(self) -> std::thread::Result<T> {
            self.inner.join()
        }
    }
}

/// A bounded channel with one receiver and the methods that the tested structures use. A timeout never expires: a
/// thread that needs one blocks forever, which the scheduler reports as a deadlock.
pub mod channel {
    use super::{Arc, Condvar, Mutex, lock};
    use std::collections::VecDeque;
    use std::time::Duration;

    struct State<T> {
        queue: VecDeque<T>,
        senders: usize,
        receiver: bool,
    }

    struct Shared<T>(Mutex<State<T>>, Condvar);

    pub struct Sender<T>(Arc<Shared<T>>, usize);
    pub struct Receiver<T>(Arc<Shared<T>>);

    #[derive(Debug, PartialEq)]
    pub struct RecvError;
    #[derive(Debug, PartialEq)]
    pub enum RecvTimeoutError {
        Timeout,
        Disconnected,
    }
    #[derive(Debug, PartialEq)]
    pub enum TrySendError<T> {
        Full(T),
        Disconnected(T),
    }

    pub fn bounded<T>(size: usize) -> (Sender<T>, Receiver<T>) {
        let state = State { queue: VecDeque::new(), senders: 1, receiver: true };
        let shared = Arc::new(Shared(Mutex::new(state), Condvar::new()));
        (Sender(shared.clone(), size), Receiver(shared))
    }

    impl<T> Sender<T> {
        pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
            let mut state = lock(&self.0.0);
            match state.receiver {
                false => Err(TrySendError::Disconnected(message)),
                true if state.queue.len() >= self.1 => Err(TrySendError::Full(message)),
                true => {
                    state.queue.push_back(message);
                    self.0.1.notify_all();
                    Ok(())
                }
            }
        }
    }

    impl<T> Receiver<T> {
        pub fn recv(&self) -> Result<T, RecvError> {
            let mut state = lock(&self.0.0);
            loop {
                if let Some(message) = state.queue.pop_front() {
                    return Ok(message);
                }
                if state.senders == 0 {
                    return Err(RecvError);
                }
                state = self.0.1.wait(state).expect("no thread panics");
            }
        }

        pub fn recv_timeout(&self, time: Duration) -> Result<T, RecvTimeoutError> {
            if time.is_zero() {
                let mut state = lock(&self.0.0);
                return match (state.queue.pop_front(), state.senders) {
                    (Some(message), _) => Ok(message),
                    (None, 0) => Err(RecvTimeoutError::Disconnected),
                    (None, _) => Err(RecvTimeoutError::Timeout),
                };
            }
            self.recv().map_err(|_| RecvTimeoutError::Disconnected)
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            lock(&self.0.0).senders -= 1;
            self.0.1.notify_all();
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            lock(&self.0.0).receiver = false;
        }
    }
}
