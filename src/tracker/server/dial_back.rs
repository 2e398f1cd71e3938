//! Dials the addresses of peers for a machine, and lets the peers prove their registrations there.

use crate::content::limits::{DIAL_BACK_TIMEOUT, DIALS_OUTSTANDING_MAX};
use crate::download::source::PeerConnection;
use crate::net::{Shutdown, Threads, Timeouts, with_own_scope};
use crate::swarm::reach::{DialBack, DialResult};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Number of addresses that are dialled at the same time.
const DIALS_MAX: usize = 64;
/// Time without an order after which a thread ends; one remains.
const THREAD_IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Queue of the addresses to dial. Its threads are started when they are needed: peers that do not answer occupy a thread for
/// seconds, and must not delay the others for long.
pub(super) struct DialQueue {
    orders: Sender<DialBack>,
    threads: Threads,
    worker: Worker,
}

/// A thread that dials.
#[derive(Clone)]
struct Worker {
    orders: Receiver<DialBack>,
    results: Sender<DialResult>,
    /// Number of threads, and of orders that have no result.
    running: Arc<AtomicUsize>,
    outstanding: Arc<AtomicUsize>,
    shutdown: Shutdown,
}

impl DialQueue {
    /// Starts the first thread. Results come through the returned channel.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(super) fn start(threads: &Threads, shutdown: &Shutdown) -> io::Result<(Self, Receiver<DialResult>)> {
        let (orders, received) = bounded::<DialBack>(DIALS_OUTSTANDING_MAX);
        let (results, done) = bounded(DIALS_OUTSTANDING_MAX);
        let (running, outstanding, shutdown) = (Arc::default(), Arc::default(), shutdown.clone());
        let worker = Worker { orders: received, results, running, outstanding, shutdown };
        let queue = Self { orders, threads: threads.clone(), worker };
        queue.spawn()?;
        Ok((queue, done))
    }

    fn spawn(&self) -> io::Result<()> {
        let worker = self.worker.clone();
        worker.running.fetch_add(1, Ordering::SeqCst);
        let spawned = self.threads.spawn("dial-back", move || worker.run());
        if spawned.is_err() {
            self.worker.running.fetch_sub(1, Ordering::SeqCst);
        }
        spawned
    }

    /// Queues an address. The machine limits the outstanding orders, so the queue has space.
    pub(super) fn push(&self, order: DialBack) {
        let Worker { running, outstanding, .. } = &self.worker;
        let orders = outstanding.fetch_add(1, Ordering::SeqCst) + 1;
        let _ = self.orders.try_send(order);
        let threads = running.load(Ordering::SeqCst);
        if orders > threads && threads < DIALS_MAX {
            // Without another thread, the others dial it later.
            let _ = self.spawn();
        }
    }
}

impl Worker {
    fn run(&self) {
        loop {
            let order = crossbeam_channel::select! {
                recv(self.shutdown.signal()) -> _ => return,
                recv(self.orders) -> order => match order {
                    Ok(order) => Some(order),
                    Err(_) => return,
                },
                default(THREAD_IDLE_TIMEOUT) => None,
            };
            match order {
                Some(order) => {
                    let result = dial_back(order, &self.shutdown);
                    self.outstanding.fetch_sub(1, Ordering::SeqCst);
                    // The machine limits the outstanding orders, so the channel has space.
                    if self.results.try_send(result).is_err() {
                        return;
                    }
                }
                None if self.running.fetch_sub(1, Ordering::SeqCst) > 1 => return,
                None => _ = self.running.fetch_add(1, Ordering::SeqCst),
            }
        }
    }
}

fn dial_back(dialled: DialBack, shutdown: &Shutdown) -> DialResult {
    let timeouts = Timeouts { hello: DIAL_BACK_TIMEOUT, idle: DIAL_BACK_TIMEOUT, stall: DIAL_BACK_TIMEOUT };
    let address = with_own_scope(dialled.address).into();
    let proofs = PeerConnection::open_within(DIAL_BACK_TIMEOUT, &address, (None, None), timeouts, shutdown)
        .and_then(|mut connection| connection.identify(dialled.nonce, shutdown));
    match proofs {
        Ok(proofs) => DialResult { dialled, proofs: Some(proofs) },
        Err(error) => {
            log::debug!("cannot identify the peer at {}: {error}", dialled.address);
            DialResult { dialled, proofs: None }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tokens::Nonce;
    use crate::swarm::registry::PeerId;
    use std::net::TcpListener;

    #[test]
    fn peers_that_do_not_answer_do_not_delay_a_result_until_their_timeouts() {
        let (threads, shutdown) = (Threads::new(), Shutdown::new());
        let (queue, results) = DialQueue::start(&threads, &shutdown).unwrap();
        // The system accepts the connections; each occupies a thread until the timeout.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let order = |number, address| DialBack { peer: PeerId(number), address, nonce: Nonce(7) };
        (0..DIALS_MAX as u64 - 1).for_each(|number| queue.push(order(number, silent.local_addr().unwrap())));
        queue.push(order(99, closed));
        let first = results.recv().unwrap();
        assert_eq!((first.dialled.peer, first.proofs), (PeerId(99), None));
        shutdown.trigger();
        threads.join();
    }
}
