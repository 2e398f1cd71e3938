//! Shutdown and threads: every waiting thread is woken in each order of events, and a join waits for all threads.

use crate::instead::TcpStream;
use crate::shutdown::Shutdown;
use crate::threads::Threads;
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::{check_pct, check_random, thread};
use std::time::Duration;

const SCHEDULE_COUNT: usize = 1_000;

fn check_schedules(test: fn()) {
    check_random(test, SCHEDULE_COUNT);
    check_pct(test, SCHEDULE_COUNT, 3);
}

#[test]
fn a_reader_is_woken_if_its_stream_is_guarded_before_or_after_the_trigger() {
    check_schedules(|| {
        let shutdown = Shutdown::new();
        let reads = |shutdown: Shutdown| {
            thread::spawn(move || {
                let stream = Arc::new(TcpStream::default());
                let _guard = shutdown.guard(&stream);
                stream.read_to_end();
            })
        };
        let readers = [reads(shutdown.clone()), reads(shutdown.child()), reads(shutdown.child().child())];
        let trigger = shutdown.clone();
        let triggers = thread::spawn(move || trigger.trigger());
        shutdown.trigger();
        triggers.join().unwrap();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

#[test]
fn a_child_created_at_any_time_ends_with_its_parent() {
    check_schedules(|| {
        let shutdown = Shutdown::new();
        let parent = shutdown.clone();
        let waits = thread::spawn(move || {
            let child = parent.child();
            let grandchild = child.child();
            grandchild.wait_forever();
            assert!(grandchild.is_stopped() && grandchild.wait(Duration::from_secs(1)));
            assert!(grandchild.child().is_stopped());
        });
        let alone = shutdown.child();
        let ends_alone = thread::spawn(move || alone.trigger());
        shutdown.trigger();
        ends_alone.join().unwrap();
        waits.join().unwrap();
    });
}

#[test]
fn a_hook_is_called_once_and_may_use_the_shutdown_itself() {
    check_schedules(|| {
        let (shutdown, calls) = (Shutdown::new(), Arc::new(AtomicUsize::new(0)));
        let hooks = [shutdown.clone(), shutdown.child()].map(|end| {
            let calls = calls.clone();
            thread::spawn(move || {
                let own = end.clone();
                end.on_trigger(move || {
                    assert!(own.is_stopped());
                    own.trigger();
                    calls.fetch_add(1, Ordering::SeqCst);
                });
            })
        });
        let triggers = [0; 2].map(|_| {
            let shutdown = shutdown.clone();
            thread::spawn(move || shutdown.trigger())
        });
        triggers.into_iter().chain(hooks).for_each(|thread| thread.join().unwrap());
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn a_guard_may_be_dropped_during_the_trigger() {
    check_schedules(|| {
        let shutdown = Shutdown::new();
        let comes_and_goes = [0; 2].map(|_| {
            let shutdown = shutdown.clone();
            thread::spawn(move || {
                let stream = Arc::new(TcpStream::default());
                drop(shutdown.guard(&stream));
                let last = shutdown.guard(&stream);
                drop((shutdown, last));
            })
        });
        shutdown.trigger();
        drop(shutdown);
        comes_and_goes.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn joining_waits_for_threads_that_threads_spawn() {
    check_schedules(|| {
        let (threads, ended) = (Threads::new(), Arc::new(AtomicUsize::new(0)));
        for _ in 0..2 {
            let (inner, count) = (threads.clone(), ended.clone());
            let outer = move || {
                let counted = count.clone();
                inner.spawn("inner", move || _ = counted.fetch_add(1, Ordering::SeqCst)).unwrap();
                count.fetch_add(1, Ordering::SeqCst);
            };
            threads.spawn("outer", outer).unwrap();
        }
        threads.join();
        assert_eq!(ended.load(Ordering::SeqCst), 4);
    });
}

#[test]
fn two_threads_may_join() {
    check_schedules(|| {
        let (threads, shutdown) = (Threads::new(), Shutdown::new());
        for _ in 0..2 {
            let shutdown = shutdown.clone();
            threads.spawn("waits", move || shutdown.wait_forever()).unwrap();
        }
        let (other, ends) = (threads.clone(), shutdown.clone());
        let joins = thread::spawn(move || other.join());
        ends.trigger();
        threads.join();
        joins.join().unwrap();
    });
}
