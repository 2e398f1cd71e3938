//! Replication planner: which chunks need copies, from where to where they are copied, which copies are
//! dropped, and which holders prove their copies.
//!
//! A [`ReplicationPlanner`] is notified of events and returns orders. It keeps `replicas` copies of each chunk
//! at volunteers: it distributes published files, repairs under-replicated chunks (fewest copies first), drops
//! surplus copies, and offloads the tracker's own copy of a file once the volunteers have it.
//!
//! It uses no socket, file, thread or clock: time and randomness are arguments, so the same code runs in the
//! tracker, in a simulation and under random events. Invariants: no volunteer has two copies of a chunk; a
//! claim may be a source for copies, but only proofs justify a deletion: `replicas` copies that were proven in
//! this session, at approved volunteers that are connected, at different addresses; a surplus copy is dropped
//! only if these proofs are recent; the tracker's own copy is deleted only after a record of all copies that
//! replace it is durable, and while all of these copies remain; an absent volunteer is not a lost one. Copies
//! change only in the module `ledger`, which updates all counters.
//!
//! | subject | module |
//! |---|---|
//! | inputs: files, volunteers, outcomes of orders | `files`, `liveness`, `absence`, `drain`, `outcomes` |
//! | outputs: orders, status, queries | `order`, `status`, `queries` |
//! | tables | `file_table`, `file`, `chunk`, `replicas`; `volunteer_table`, `volunteer`, `target_index` |
//! | state of copies and all counters | `ledger` |
//! | copies that are needed | `waiting`, `queue`, `priority`, `retries` |
//! | copies that are ordered | `plan`, `selection`, `space`, `copy_back`, `transfers`, `traffic`, `repair` |
//! | copies that are proven | `proofs`, `verdicts`, `trust`, `verifications` |
//! | copies that are dropped or lost | `surplus`, `drops`, `lost` |
//! | records of volunteers | `registrations` |
//! | commands of the owner | `owner` |
//! | changes for the catalogue; deletion of the tracker's own copies | `records`, `offload` |

mod absence;
mod chunk;
mod copy_back;
mod drain;
mod drops;
mod file;
mod file_table;
mod files;
mod ledger;
mod liveness;
mod lost;
mod offload;
mod order;
mod outcomes;
mod owner;
mod plan;
mod priority;
mod proofs;
mod queries;
mod queue;
mod records;
mod registrations;
mod repair;
mod replicas;
mod retries;
mod schedule;
mod selection;
mod settings;
mod space;
mod status;
mod surplus;
mod target_index;
mod traffic;
mod transfers;
mod trust;
mod verdicts;
mod verifications;
mod volunteer;
mod volunteer_table;
mod waiting;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod simulation_hostile;
#[cfg(test)]
mod simulation_week;
#[cfg(test)]
mod tests;

pub use liveness::StorageOffer;
pub use order::{DropReason, Order, VerifySummary};
pub use owner::OwnCopyState;
pub use repair::CopyProgress;
pub use settings::Settings;

use super::Moment;
use crate::content::{FileId, limits};
use drops::Drops;
use file_table::FileTable;
use lost::LostChunks;
use proofs::Proofs;
use records::Records;
use repair::Repair;
use schedule::{Schedule, Timer};
use space::Space;
use traffic::Window;
use transfers::Transfers;
use verifications::Verifications;
use volunteer_table::VolunteerTable;
use waiting::WaitingChunks;

/// Plans the copies of all files at all volunteers: notified of events, returns orders.
#[derive(Debug)]
pub struct ReplicationPlanner {
    settings: Settings,
    random: fastrand::Rng,
    files: FileTable,
    volunteers: VolunteerTable,
    waiting: WaitingChunks,
    transfers: Transfers,
    repair: Repair,
    drops: Drops,
    lost: LostChunks,
    proofs: Proofs,
    verifications: Verifications,
    records: Records,
    schedule: Schedule,
    space: Space,
    /// Wanted copies of each chunk at approved volunteers, before the tracker's own copy can be deleted.
    approved_wanted: usize,
    /// Number of the last permit for a deletion.
    last_permit: u64,
    /// Unix time in seconds at [`Moment`] zero.
    unix_at_start_s: u64,
    /// Orders that the tracker has not taken yet.
    orders: Vec<Order>,
}

impl ReplicationPlanner {
    /// Starts without files and volunteers.
    pub fn new(settings: Settings, random: fastrand::Rng) -> Self {
        let window = Window { copies: limits::COPY_WINDOW_MAX, bytes: limits::COPY_WINDOW_BYTES };
        let replicas = settings.replicas.clamp(1, 100);
        let replicas_max = settings.replicas_max.max(replicas);
        Self {
            settings: Settings { replicas, replicas_max, ..settings },
            random,
            files: FileTable::default(),
            volunteers: VolunteerTable::default(),
            waiting: WaitingChunks::default(),
            transfers: Transfers::new(window),
            repair: Repair::default(),
            drops: Drops::default(),
            lost: LostChunks::default(),
            proofs: Proofs::default(),
            verifications: Verifications::default(),
            records: Records::default(),
            schedule: Schedule::default(),
            space: Space::default(),
            approved_wanted: 0,
            last_permit: 0,
            unix_at_start_s: 0,
            orders: Vec::new(),
        }
    }

    /// Sets the limits of copies and bytes in flight into and out of each location. One copy is always
    /// permitted.
    pub fn set_window(&mut self, copies: u32, bytes: u64) {
        self.transfers.window = Window { copies, bytes };
        self.volunteers.mark_all_targets_outdated();
    }

    /// The orders issued since the last call, in order.
    pub fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// Pauses new copies, or (`on` is false) resumes them.
    pub fn pause(&mut self, now: Moment, on: bool) {
        self.repair.paused = on;
        self.settle(now);
    }

    /// Starts no copy before `until`, so that all volunteers can report their chunks first.
    pub fn delay_copies(&mut self, until: Moment) {
        self.repair.no_copy_before = until;
        self.schedule.add(until, Timer::Plan);
    }

    /// Does everything that is due at `now`.
    pub fn tick(&mut self, now: Moment) {
        self.note_start(now);
        while let Some(timer) = self.schedule.pop_due(now) {
            match timer {
                Timer::Silence(volunteer) => self.end_lease(now, volunteer),
                Timer::Loss(volunteer) => self.end_absence(now, volunteer),
                Timer::DiskRetry(volunteer) => {
                    self.volunteers.mark_target_outdated(volunteer);
                    self.unpark_all();
                }
                Timer::DrainCheck(volunteer) => self.report_drain_progress(now, volunteer),
                Timer::BackoffEnd(key) => self.end_backoff(now, key),
                Timer::CopyTimeout(key, to) => self.time_out(now, key, to),
                Timer::Suspicion(volunteer) => self.end_suspicion(now, volunteer),
                Timer::Challenge => self.challenge(now),
                Timer::Proofs => self.begin_proof_run(),
                Timer::ProofTimeout(number) => self.time_out_proof(now, number),
                Timer::Surplus => self.retry_surplus(),
                Timer::ExpireRecords => self.expire_records(now),
                // Copies are planned after every event.
                Timer::Plan => {}
                Timer::ScanForLost => self.scan_for_lost(now),
                Timer::Unpark => self.unpark_all(),
            }
        }
        self.settle(now);
    }

    /// Time at which [`tick`](Self::tick), followed by [`take_record`](Self::take_record), is due next.
    pub fn next_tick(&self) -> Option<Moment> {
        self.schedule.next_due().into_iter().chain(self.records.due()).min()
    }

    /// Notes the time of the first event, and schedules the first challenge.
    fn note_start(&mut self, now: Moment) {
        if self.schedule.start.is_none() {
            self.schedule.start = Some(now);
            self.schedule.add(now + registrations::EXPIRY_INTERVAL, Timer::ExpireRecords);
            if let Some(every) = self.settings.challenge_every {
                self.schedule.add(now + every, Timer::Challenge);
            }
        }
    }

    /// Orders a log line.
    fn note(&mut self, file: Option<FileId>, text: String) {
        self.orders.push(Order::Note(file, text));
    }

    /// Computes the consequences of an event. Called at the end of every input.
    fn settle(&mut self, now: Moment) {
        self.note_start(now);
        self.update_targets(now);
        self.update_approved_wanted();
        self.report_lost();
        self.drop_surplus(now);
        self.plan(now);
        self.plan_proofs(now);
        self.note_repair_progress(now);
        self.note_no_lack_of_space();
        self.update_records(now);
        self.send_drops(now);
    }

    /// Updates the index of the volunteers that may take copies.
    fn update_targets(&mut self, now: Moment) {
        self.volunteers.update_targets(now, self.transfers.window);
    }
}
