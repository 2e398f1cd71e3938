//! Report of a completed download to the seeders and trackers that named or sent the file.
//!
//! Best effort: each failure is a debug line, and all reports of a file together take 2 s at most.

use crate::content::{FileId, PeerName};
use crate::download::source::PeerConnection;
use crate::net::{Endpoint, Shutdown, Timeouts, UdpClient, run_parallel};
use crate::protocol::PeerAddress;
use crate::protocol::tokens::ReportId;
use crate::protocol::tracker::{TrackerRequest, TrackerResponse};
use crate::sync::lock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Time for all reports of a file.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest number of seeders that receive a report.
const SEEDERS_MAX: usize = 16;

/// The peer that reports, once for each run of the program.
#[derive(Debug, Clone)]
pub struct Reporter {
    report: ReportId,
    name: PeerName,
}

/// Receiver of a report.
enum Receiver<'a> {
    Seeder(&'a PeerAddress),
    Tracker(&'a Endpoint),
}

impl Reporter {
    /// A reporter with a random number for this run.
    pub fn new(name: PeerName) -> Self {
        let mut bytes = [0; 16];
        // Without random numbers of the system, two reporters of one number are still unlikely.
        if getrandom::fill(&mut bytes).is_err() {
            fastrand::fill(&mut bytes);
        }
        Self { report: ReportId(u128::from_be_bytes(bytes)), name }
    }

    /// Reports the completion of a file to at most 16 seeders and to the trackers, all at the same time.
    pub fn report(
        &self,
        file: FileId,
        seeders: &[PeerAddress],
        trackers: &[Endpoint],
        timeouts: Timeouts,
        shutdown: &Shutdown,
    ) {
        let seeders = seeders.iter().take(SEEDERS_MAX).map(Receiver::Seeder);
        let receivers: Vec<Receiver<'_>> = seeders.chain(trackers.iter().map(Receiver::Tracker)).collect();
        let (count, stop) = (receivers.len(), shutdown.child());
        let (workers, running) = (AtomicUsize::new(0), AtomicUsize::new(count));
        let receivers = Mutex::new(receivers);
        if count == 0 {
            return;
        }
        run_parallel("report", count + 1, || {
            if workers.fetch_add(1, Ordering::Relaxed) == 0 {
                stop.wait(REPORT_TIMEOUT);
                return stop.trigger();
            }
            loop {
                let Some(receiver) = lock(&receivers).pop() else { return };
                match receiver {
                    Receiver::Seeder(seeder) => self.report_to_seeder(file, seeder, timeouts, &stop),
                    Receiver::Tracker(tracker) => self.report_to_tracker(file, tracker, &stop),
                }
                if running.fetch_sub(1, Ordering::Relaxed) == 1 {
                    stop.trigger();
                }
            }
        });
    }

    fn report_to_seeder(&self, file: FileId, seeder: &PeerAddress, timeouts: Timeouts, stop: &Shutdown) {
        let reported = PeerConnection::open(seeder, None, timeouts, stop)
            .and_then(|mut connection| connection.completed(file, (self.report, &self.name), stop));
        if let Err(error) = reported {
            log::debug!("completion of {} not reported to {seeder}: {error}", file.short());
        }
    }

    fn report_to_tracker(&self, file: FileId, tracker: &Endpoint, stop: &Shutdown) {
        let request = TrackerRequest::Completed { file, report: self.report, name: self.name.clone() };
        let mut client = UdpClient::new(tracker.clone(), stop).with_tcp_fallback();
        match client.request(&request) {
            Ok(TrackerResponse::Noted) => {}
            Ok(other) => log::debug!("the tracker on {tracker} answers a completion with {other:?}"),
            Err(error) => log::debug!("completion of {} not reported: {error}", file.short()),
        }
    }
}
