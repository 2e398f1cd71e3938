//! Connections that workers pass on to each other: each is read by one worker at a time until it ends, and all workers end.

use crate::handover::HandOver;
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::{check_pct, check_random, thread};

const SCHEDULE_COUNT: usize = 1_000;
/// Batches received from each connection.
const BATCHES: usize = 3;

/// A connection that counts the batches still to come.
struct Connection {
    left: usize,
}

#[derive(Default)]
struct Counts {
    verified: AtomicUsize,
    workers: AtomicUsize,
    workers_max: AtomicUsize,
}

/// The loop of a worker of the program, with counters in place of sockets and chunks.
fn work(connections: &Arc<HandOver<Connection>>, counts: &Arc<Counts>, mut first: Option<Connection>) {
    let workers = counts.workers.fetch_add(1, Ordering::SeqCst) + 1;
    counts.workers_max.fetch_max(workers, Ordering::SeqCst);
    let mut spawned = Vec::new();
    while let Some(mut connection) = first.take().or_else(|| connections.next()) {
        if connection.left == 0 {
            connections.end();
            continue;
        }
        connection.left -= 1;
        // The last batch is short: its worker keeps the connection.
        match connection.left {
            0 => first = Some(connection),
            _ if connections.pass_on(connection) => {
                let (connections, counts) = (connections.clone(), counts.clone());
                spawned.push(thread::spawn(move || work(&connections, &counts, None)));
            }
            _ => {}
        }
        counts.verified.fetch_add(1, Ordering::SeqCst);
    }
    counts.workers.fetch_sub(1, Ordering::SeqCst);
    spawned.into_iter().for_each(|worker| worker.join().unwrap());
}

/// Runs this number of connections, each begun by a worker of its own.
fn run(workers_min: usize, connection_count: usize) {
    let (connections, counts) = (Arc::new(HandOver::new(workers_min)), Arc::new(Counts::default()));
    let begun = (0..connection_count).map(|_| {
        let (connections, counts) = (connections.clone(), counts.clone());
        thread::spawn(move || {
            connections.begin();
            work(&connections, &counts, Some(Connection { left: BATCHES }));
        })
    });
    // A worker that is never woken is reported as a deadlock.
    begun.collect::<Vec<_>>().into_iter().for_each(|worker| worker.join().unwrap());
    assert_eq!(counts.verified.load(Ordering::SeqCst), BATCHES * connection_count);
    assert_eq!(counts.workers.load(Ordering::SeqCst), 0);
    // A worker that has taken its last connection may still be counted while the next one begins.
    assert!(counts.workers_max.load(Ordering::SeqCst) <= workers_min + connection_count);
}

fn check_schedules(test: fn()) {
    check_random(test, SCHEDULE_COUNT);
    check_pct(test, SCHEDULE_COUNT, 3);
}

#[test]
fn each_batch_of_one_connection_is_received_once_and_all_workers_end() {
    check_schedules(|| run(3, 1));
}

#[test]
fn connections_that_begin_and_end_at_any_time_lose_no_batch() {
    check_schedules(|| run(2, 3));
}

#[test]
fn one_worker_for_each_connection_is_enough_on_one_core() {
    check_schedules(|| run(1, 2));
}
