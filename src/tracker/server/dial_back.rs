//! Dials the addresses of peers for a machine, and lets the peers prove their registrations there.

use crate::content::limits::{DIAL_BACK_TIMEOUT, DIALS_OUTSTANDING_MAX};
use crate::download::source::PeerConnection;
use crate::net::{Shutdown, Threads, Timeouts, with_own_scope};
use crate::swarm::reach::{DialBack, DialResult};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io;

/// Number of addresses that are dialled at the same time.
const THREADS: usize = 8;

/// Queue of the addresses to dial.
pub(super) struct DialQueue(Sender<DialBack>);

impl DialQueue {
    /// Starts the threads. Results come through the returned channel.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(super) fn start(threads: &Threads, shutdown: &Shutdown) -> io::Result<(Self, Receiver<DialResult>)> {
        let (orders, received) = bounded::<DialBack>(DIALS_OUTSTANDING_MAX);
        let (results, done) = bounded(DIALS_OUTSTANDING_MAX);
        for _ in 0..THREADS {
            let (received, results, shutdown) = (received.clone(), results.clone(), shutdown.clone());
            threads.spawn("dial-back", move || {
                loop {
                    let dialled = crossbeam_channel::select! {
                        recv(shutdown.signal()) -> _ => return,
                        recv(received) -> order => match order {
                            Ok(order) => order,
                            Err(_) => return,
                        },
                    };
                    let result = dial_back(dialled, &shutdown);
                    // The machine limits the outstanding orders, so the channel has space.
                    if results.try_send(result).is_err() {
                        return;
                    }
                }
            })?;
        }
        Ok((Self(orders), done))
    }

    /// Queues an address. The machine limits the outstanding orders, so the queue has space.
    pub(super) fn push(&self, order: DialBack) {
        let _ = self.0.try_send(order);
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
