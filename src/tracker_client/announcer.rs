//! Announcer: registers a peer and its files with a tracker over UDP, and keeps them registered.
//!
//! A tracker that no longer knows the token, for example after a restart, receives the registration and all
//! files again; in this way it recovers its swarm. Invariant: while the tracker answers, a peer is registered
//! once, and each of its files is announced with its present state.

use crate::content::fmt::counted;
use crate::content::limits::{FRAME_MAX, RETRY_MAX, RETRY_MIN};
use crate::content::{FileId, FileName};
use crate::net::{Endpoint, Shutdown, Threads, UdpClient, UdpClientError, running_time};
use crate::protocol::ErrorCode;
use crate::protocol::tracker::{HubRole, OfferedFile, Token, TrackerRequest, TrackerResponse};
use crate::report::error::{Fault, RoleError};
use crate::report::next_step::{self, FailedRequest};
use crate::swarm::backoff::Backoff;
use crate::sync::lock;
use crate::tracker_client::presence::{OWN_TRACKER, Presence, Purpose, SHARED_FILES};
use crate::upload::offers::{Offer, Offers};
use crossbeam_channel::{Receiver, Sender, bounded, never};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Range of heartbeat intervals that a tracker may request.
const HEARTBEAT_RANGE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));

/// Interval at which the results of dialling this peer are requested, until all are known.
const REACH_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which a peer that was not reached lets the tracker dial it again.
const REACH_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Number of files up to which each is announced with a request of its own.
const SINGLE_ANNOUNCEMENTS_MAX: usize = 16;

/// Size of the files in one request: the rest of the frame is for its other fields.
const BATCH_BYTES: usize = FRAME_MAX - 1_024;

/// Limits a requested heartbeat interval to [`HEARTBEAT_RANGE`].
pub(super) fn clamp_heartbeat(heartbeat: Duration) -> Duration {
    let (least, most) = HEARTBEAT_RANGE;
    heartbeat.clamp(least, most)
}

/// Handle of a running announcer.
#[derive(Clone)]
pub struct Announcer {
    nudge: Sender<()>,
    token: Arc<Mutex<Option<Token>>>,
}

/// A tracker at which files are announced.
#[derive(Clone, Debug)]
pub struct AnnounceTarget {
    /// Its address.
    pub tracker: Endpoint,
    /// Purpose of the registration. Each tracker of a program has another one, so that no tracker learns the key by which
    /// this peer proves its registration at another.
    pub purpose: Purpose,
    /// Time without an answer after which the outage is an error.
    pub timeout: Option<Duration>,
    /// A ticket names the tracker: it may end with its seeder, and the user cannot start another one.
    pub is_of_ticket: bool,
}

impl AnnounceTarget {
    /// A tracker that the user has chosen or that runs on this host.
    pub fn new(tracker: Endpoint, purpose: Purpose, timeout: Option<Duration>) -> Self {
        Self { tracker, purpose, timeout, is_of_ticket: false }
    }

    /// Whether the tracker runs in this program: its answers are no news for the user.
    fn is_own(&self) -> bool {
        self.purpose == OWN_TRACKER
    }
}

impl Announcer {
    /// Starts the announcer thread; it sends a goodbye at the shutdown. If the tracker does not answer for
    /// `timeout`, the error is sent to `failures`.
    ///
    /// # Errors
    /// The thread cannot be created.
    pub fn start(
        tracker: Endpoint,
        presence: Presence,
        offers: Offers,
        timeout: Option<Duration>,
        failures: Sender<RoleError>,
        threads: &Threads,
        shutdown: &Shutdown,
    ) -> io::Result<Self> {
        let target = AnnounceTarget::new(tracker, SHARED_FILES, timeout);
        Self::start_at(target, presence, offers, failures, threads, shutdown)
    }

    /// As [`start`](Self::start), for a purpose.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_at(
        target: AnnounceTarget,
        presence: Presence,
        offers: Offers,
        failures: Sender<RoleError>,
        threads: &Threads,
        shutdown: &Shutdown,
    ) -> io::Result<Self> {
        let outage = Outage::new("tracker", target.tracker.clone(), target.timeout);
        let outage = Outage { is_of_ticket: target.is_of_ticket, ..outage };
        let (tracker, timeout) = (target.tracker.clone(), target.timeout);
        let client = UdpClient::new(tracker, shutdown).with_timeout(timeout).with_tcp_fallback();
        let (nudge, nudged) = bounded(1);
        let token = Arc::new(Mutex::new(None));
        let mut worker = Worker {
            target,
            client,
            presence,
            registered: Vec::new(),
            reach_check: None,
            offers,
            announced: HashMap::new(),
            full: false,
            token: token.clone(),
            registered_ip: None,
            heartbeat: RETRY_MAX,
            outage,
            shutdown: shutdown.clone(),
        };
        threads.spawn("announce", move || worker.run(nudged, &failures))?;
        Ok(Self { nudge, token })
    }

    /// Announces changed offers now.
    pub fn nudge(&self) {
        let _ = self.nudge.try_send(());
    }

    /// The token; `None` while not registered.
    pub fn token(&self) -> Option<Token> {
        *lock(&self.token)
    }
}

/// Outage of a tracker or manager: its start, its retries, and its single warning.
#[derive(Clone)]
pub struct Outage {
    role: &'static str,
    tracker: Endpoint,
    timeout: Option<Duration>,
    /// Text about the retries in the warning.
    retries: String,
    /// A ticket names the tracker: no advice to start another one.
    is_of_ticket: bool,
    /// Start of the outage in [`running_time`], so that a pause of this process does not count.
    since: Option<Duration>,
    backoff: Backoff,
    random: fastrand::Rng,
}

impl Outage {
    /// Creates the record of an available tracker. An outage that lasts `timeout` is an error.
    pub fn new(role: &'static str, tracker: Endpoint, timeout: Option<Duration>) -> Self {
        let backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let retries = "retrying until it answers".to_owned();
        let random = fastrand::Rng::new();
        Self { role, tracker, timeout, retries, is_of_ticket: false, since: None, backoff, random }
    }

    /// Replaces the timeout, and the text about the retries in the warning.
    pub fn with_wait(self, timeout: Duration, retries: &str) -> Self {
        Self { timeout: Some(timeout), retries: retries.to_owned(), ..self }
    }

    /// Records that the request sent at `sent`, in [`running_time`], failed. Returns the pause before the next attempt.
    ///
    /// # Errors
    /// The outage has lasted for the timeout, or the program there has the other role.
    pub fn failed(&mut self, sent: Duration, error: impl FailedRequest) -> Result<Duration, RoleError> {
        let advice = match self.is_of_ticket {
            true => "; the peers that are known are still used".to_owned(),
            false => next_step::after_failure(self.role, &self.tracker, &error),
        };
        if error.is_wrong_role() && !self.is_of_ticket {
            return Err(RoleError::new(Fault::Usage, error.to_string()));
        }
        let since = *self.since.get_or_insert_with(|| {
            if self.timeout != Some(Duration::ZERO) {
                log::warn!("{error}; {}{advice}", self.retries);
            }
            sent
        });
        let lasted = running_time().saturating_sub(since);
        if self.timeout.is_some_and(|timeout| lasted >= timeout) {
            let (role, tracker, seconds) = (self.role, &self.tracker, lasted.as_secs_f64());
            let text =
                format!("the {role} on {tracker} has not answered for {seconds:.1} s: {error}{advice}");
            return Err(RoleError::new(Fault::Unreachable, text).with_source(error));
        }
        let pause = self.backoff.pause(&mut self.random);
        Ok(self.timeout.map_or(pause, |timeout| pause.min(timeout.saturating_sub(lasted))))
    }

    /// Time until the outage has lasted for the timeout; unlimited without a timeout.
    pub fn remaining(&self) -> Duration {
        let lasted = self.since.map_or(Duration::ZERO, |since| running_time().saturating_sub(since));
        self.timeout.map_or(Duration::MAX, |timeout| timeout.saturating_sub(lasted))
    }

    /// Records an answer.
    pub fn ended(&mut self) {
        if self.since.take().is_some() {
            log::info!("reconnected to the {} on {}", self.role, self.tracker);
        }
    }

    /// Resets the backoff; to be called when the tracker has been available for a while.
    pub fn reset_backoff(&mut self) {
        self.backoff.reset();
    }
}

struct Worker {
    target: AnnounceTarget,
    client: UdpClient,
    presence: Presence,
    /// The addresses that the tracker knows.
    registered: Vec<IpAddr>,
    /// Time at which the tracker is asked for the addresses at which it has reached this peer; `None` when one works.
    reach_check: Option<Instant>,
    offers: Offers,
    /// Announced files, and the numbers of chunks and of sent bytes last announced for each.
    announced: HashMap<(FileId, FileName), (u32, Option<u64>)>,
    /// Whether the tracker has refused further files.
    full: bool,
    token: Arc<Mutex<Option<Token>>>,
    /// IP address of this host from which it registered.
    registered_ip: Option<IpAddr>,
    heartbeat: Duration,
    outage: Outage,
    shutdown: Shutdown,
}

impl Worker {
    fn run(&mut self, mut nudged: Receiver<()>, failures: &Sender<RoleError>) {
        loop {
            let sent = running_time();
            let pause = match self.refresh() {
                Ok(()) => {
                    self.outage.ended();
                    self.outage.reset_backoff();
                    let check = self.reach_check.map(|at| at.saturating_duration_since(Instant::now()));
                    check.map_or(self.heartbeat, |check| check.min(self.heartbeat))
                }
                Err(UdpClientError::Stopped) => break,
                Err(error) => match self.outage.failed(sent, error) {
                    Ok(pause) => pause,
                    Err(error) => {
                        let _ = failures.try_send(error);
                        break;
                    }
                },
            };
            crossbeam_channel::select! {
                recv(self.shutdown.signal()) -> _ => break,
                // The handle was dropped: a closed channel would always be ready.
                recv(nudged) -> nudge => if nudge.is_err() {
                    nudged = never();
                },
                default(pause) => {}
            }
        }
        if let Some(token) = self.token() {
            self.client.send_without_reply(&TrackerRequest::Goodbye { token });
        }
    }

    fn token(&self) -> Option<Token> {
        *lock(&self.token)
    }

    fn set_token(&self, token: Option<Token>) {
        *lock(&self.token) = token;
    }

    /// One round: registers if necessary, then announces changes or sends a heartbeat.
    fn refresh(&mut self) -> Result<(), UdpClientError> {
        // The registered address is the source of the registration, and a registration over TCP ends with its connection.
        let has_moved = self.client.local_ip().is_some_and(|ip| self.registered_ip != Some(ip));
        let known = self.token().filter(|_| !has_moved && !self.client.has_returned_to_udp());
        let former = self.token().filter(|_| known.is_none());
        let token = known.map_or_else(|| self.register(), Ok)?;
        if let Some(token) = former {
            self.client.send_without_reply(&TrackerRequest::Goodbye { token });
        }
        if !self.announce_all(token)? && known.is_some() {
            // The token is unknown to the tracker: repeat with a new one.
            let token = self.register()?;
            self.announce_all(token)?;
        }
        self.update_addresses()
    }

    /// Sends the addresses of this host if they have changed, and asks for those at which the tracker has reached this peer.
    fn update_addresses(&mut self) -> Result<(), UdpClientError> {
        let Some(token) = self.token() else { return Ok(()) };
        let addresses = self.presence.addresses();
        if addresses != self.registered {
            self.send_addresses(token, addresses)?;
        }
        if self.reach_check.is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        let now = Instant::now();
        self.reach_check = match self.client.request(&TrackerRequest::Reachability { token })? {
            TrackerResponse::Reachability(reach) if reach.pending > 0 => Some(now + REACH_CHECK_INTERVAL),
            TrackerResponse::Reachability(reach) if self.presence.judge(self.client.tracker(), &reach) => {
                None
            }
            TrackerResponse::Reachability(_) => {
                // The cause may be removed meanwhile: the tracker dials again.
                let addresses = self.presence.addresses();
                self.send_addresses(token, addresses)?;
                Some(now + REACH_RETRY_INTERVAL)
            }
            _ => None,
        };
        Ok(())
    }

    /// Sends the addresses of this host; the tracker then dials those that it has not reached.
    fn send_addresses(&mut self, token: Token, addresses: Vec<IpAddr>) -> Result<(), UdpClientError> {
        let request = TrackerRequest::Addresses { token, addresses: addresses.clone() };
        if let TrackerResponse::Alive = self.client.request(&request)? {
            self.registered = addresses;
            if !self.target.is_own() {
                self.reach_check.get_or_insert_with(|| Instant::now() + REACH_CHECK_INTERVAL);
            }
        }
        Ok(())
    }

    /// Announces changes, or sends a heartbeat if there are none. Returns `false` if the token is unknown.
    fn announce_all(&mut self, token: Token) -> Result<bool, UdpClientError> {
        let mut sent = false;
        // A file changed on disk differs from its announcement and is not served.
        let (offers, changed): (Vec<Offer>, Vec<Offer>) =
            self.offers.list().into_iter().partition(|offer| offer.source.is_intact());
        for Offer { file, .. } in changed {
            if self.announced.contains_key(&(file.id, file.name.clone())) {
                log::warn!("stopped offering {}: it has changed since it was hashed", file.name);
            }
        }
        let offered: HashSet<(FileId, &FileName)> =
            offers.iter().map(|offer| (offer.file.id, &offer.file.name)).collect();
        let withdrawn = self.announced.keys().filter(|(id, name)| !offered.contains(&(*id, name)));
        let withdrawn: Vec<(FileId, FileName)> = withdrawn.cloned().collect();
        for (file, name) in withdrawn {
            let request = TrackerRequest::Withdraw { token, file, name: Some(name.clone()) };
            if self.request_ack(&request)? == Ack::Unknown {
                return Ok(false);
            }
            self.announced.remove(&(file, name));
            self.full = false;
            sent = true;
        }
        let mut pending: Vec<Pending> = Vec::new();
        for Offer { file, source } in &offers {
            let (held, key) = (source.progress().held(), (file.id, file.name.clone()));
            let state = (held, self.outage.is_of_ticket.then(|| self.offers.receivers().sent_bytes()));
            // Only the seeder of a ticket shows the progress of its peers.
            let is_minor = held < file.chunks && !self.outage.is_of_ticket;
            let known = self.announced.get(&key).is_some_and(|known| *known == state || is_minor);
            if !known && (!self.full || self.announced.contains_key(&key)) {
                pending.push((key, OfferedFile { file: file.clone(), held }, state));
            }
        }
        let was_full = self.full;
        let in_batches = pending.len() > SINGLE_ANNOUNCEMENTS_MAX && !self.outage.is_of_ticket;
        let is_known = match in_batches {
            true => self.announce_in_batches(token, &pending)?,
            false => self.announce_each(token, &pending)?,
        };
        if !is_known {
            return Ok(false);
        }
        sent |= !pending.is_empty();
        if self.full && !was_full {
            let left_out = offers.len() - self.announced.len();
            let (files, tracker) = (counted(offers.len() as u64, "file"), self.client.tracker());
            log::warn!(
                "{left_out} of {files} are not listed: the tracker on {tracker} accepts no more files of this peer; \
                 its limits are tracker --files-per-peer and --files-max"
            );
        }
        if sent {
            Ok(true)
        } else {
            Ok(self.request_ack(&TrackerRequest::Heartbeat { token })? != Ack::Unknown)
        }
    }

    /// Announces files with a request for each. Returns `false` if the token is unknown.
    fn announce_each(&mut self, token: Token, pending: &[Pending]) -> Result<bool, UdpClientError> {
        for (key, OfferedFile { file, held }, state) in pending {
            let request = TrackerRequest::Announce { token, file: file.clone(), held: *held, sent: state.1 };
            match self.request_ack(&request)? {
                Ack::Unknown => return Ok(false),
                Ack::Full => {
                    self.full = true;
                    break;
                }
                Ack::Known => _ = self.announced.insert(key.clone(), *state),
            }
        }
        Ok(true)
    }

    /// Announces many files, as many with each request as fit in a frame. Returns `false` if the token is unknown.
    fn announce_in_batches(&mut self, token: Token, pending: &[Pending]) -> Result<bool, UdpClientError> {
        let mut rest = pending;
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(batch_length(rest));
            let files = batch.iter().map(|(_, file, _)| file.clone()).collect();
            let request = TrackerRequest::AnnounceFiles { token, files, more: !later.is_empty() };
            let response = match self.client.request_in_batch(&request) {
                Ok(response) => response,
                Err(error) => {
                    log::debug!("announcing each file by itself: {error}");
                    return self.announce_each(token, rest);
                }
            };
            let accepted = match self.ack(response)? {
                Acknowledged::Files(accepted) => batch.len().min(accepted as usize),
                Acknowledged::One(Ack::Unknown) => return Ok(false),
                Acknowledged::One(Ack::Full) => 0,
                Acknowledged::One(Ack::Known) => batch.len(),
            };
            let known = batch[..accepted].iter().map(|(key, _, state)| (key.clone(), *state));
            self.announced.extend(known);
            self.full = accepted < batch.len();
            rest = if self.full { &[] } else { later };
        }
        self.client.close_batches();
        Ok(true)
    }

    fn register(&mut self) -> Result<Token, UdpClientError> {
        self.client.prepare();
        self.presence.connected_from(self.client.local_address());
        let registration = self.presence.registration(self.target.purpose);
        self.registered.clone_from(&registration.addresses);
        match self.client.request(&TrackerRequest::Register(registration))? {
            // Over TCP, a manager accepts registrations, too.
            TrackerResponse::Registered { role: Some(HubRole::Manager), .. } => {
                Err(UdpClientError::NotATracker(next_step::not_a_tracker(self.client.tracker())))
            }
            TrackerResponse::Registered { token, address, heartbeat_ms, public, .. } => {
                let is_own = self.target.is_own();
                if !is_own {
                    self.presence.registered(self.client.local_address(), public);
                    self.reach_check = Some(Instant::now() + REACH_CHECK_INTERVAL);
                }
                self.heartbeat = clamp_heartbeat(Duration::from_millis(heartbeat_ms));
                self.announced.clear();
                self.full = false;
                self.set_token(Some(token));
                self.registered_ip = self.client.local_ip();
                self.client.close_retired();
                let level = if is_own { log::Level::Debug } else { log::Level::Info };
                log::log!(level, "registered with the tracker on {} as {address}", self.client.tracker());
                Ok(token)
            }
            other => Err(unexpected(other, self.client.tracker())),
        }
    }

    /// Sends a request that has no result. Clears the token if the tracker does not know it.
    fn request_ack(&mut self, request: &TrackerRequest) -> Result<Ack, UdpClientError> {
        let response = self.client.request(request)?;
        match self.ack(response)? {
            Acknowledged::One(ack) => Ok(ack),
            Acknowledged::Files(accepted) => {
                Err(unexpected(TrackerResponse::AnnouncedFiles { accepted }, self.client.tracker()))
            }
        }
    }

    /// Evaluates the response to a request that has no result.
    fn ack(&mut self, response: TrackerResponse) -> Result<Acknowledged, UdpClientError> {
        Ok(match response {
            TrackerResponse::Alive
            | TrackerResponse::Announced { .. }
            | TrackerResponse::Withdrawn { .. } => Acknowledged::One(Ack::Known),
            TrackerResponse::AnnouncedFiles { accepted } => Acknowledged::Files(accepted),
            TrackerResponse::Error { code: ErrorCode::UnknownToken, .. } => {
                log::info!(
                    "the tracker on {} has no registration of this peer; registering again",
                    self.client.tracker()
                );
                self.set_token(None);
                Acknowledged::One(Ack::Unknown)
            }
            TrackerResponse::Error { code: ErrorCode::Busy, text } => {
                log::debug!("the tracker on {} accepts no more files: {text}", self.client.tracker());
                Acknowledged::One(Ack::Full)
            }
            other => return Err(unexpected(other, self.client.tracker())),
        })
    }
}

/// Key, description and state of a file to announce.
type Pending = ((FileId, FileName), OfferedFile, (u32, Option<u64>));

/// Number of files, from the first on, whose descriptions fit in one request.
fn batch_length(pending: &[Pending]) -> usize {
    let mut bytes = 0;
    let fitting = pending.iter().take_while(|(_, file, _)| {
        // Names always serialise. The comma counts, too.
        bytes += serde_json::to_vec(file).map_or(0, |json| json.len() + 1);
        bytes <= BATCH_BYTES
    });
    fitting.count().max(1)
}

/// Result of a request to announce or withdraw files.
enum Acknowledged {
    One(Ack),
    /// Number of accepted files of a batch.
    Files(u32),
}

/// Acknowledgement of a tracker.
#[derive(PartialEq, Eq)]
enum Ack {
    /// Accepted.
    Known,
    /// Unknown token: register again.
    Unknown,
    /// Refused: too many files.
    Full,
}

fn unexpected(response: TrackerResponse, tracker: &Endpoint) -> UdpClientError {
    match response {
        TrackerResponse::Error { code: ErrorCode::NotATracker, .. } => {
            UdpClientError::NotATracker(next_step::not_a_tracker(tracker))
        }
        TrackerResponse::Error { text, .. } => {
            UdpClientError::Rejected(format!("the program on that address refuses: {text}"))
        }
        other => UdpClientError::Io(io::Error::other(format!("unexpected response {other:?}"))),
    }
}
