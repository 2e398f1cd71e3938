//! Keeps a peer and its files known to a tracker, by datagrams: register, announce, heartbeat, goodbye.
//!
//! A tracker that does not know the token any more, because it was restarted, gets everything again; that is how
//! it gets its swarm back. Invariant: as long as the tracker answers, a peer is registered once and each of its
//! files is announced as it is.

use super::error::{DaemonError, Fault};
use super::next_step;
use super::shelf::{Offer, Offers};
use crate::content::limits::{RETRY_MAX, RETRY_MIN};
use crate::content::{FileId, FileName};
use crate::net::{AskError, Asker, Shutdown, Threads};
use crate::protocol::ErrorCode;
use crate::protocol::tracker::{Registration, Token, TrackerRequest, TrackerResponse};
use crate::swarm::backoff::Backoff;
use crossbeam_channel::{Receiver, Sender, bounded, never};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The heartbeat that a tracker may ask for.
const HEARTBEAT_RANGE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));

/// A heartbeat as a tracker asks for it, within reason.
pub(super) fn clamp_heartbeat(heartbeat: Duration) -> Duration {
    let (least, most) = HEARTBEAT_RANGE;
    heartbeat.clamp(least, most)
}

/// A running announcer.
#[derive(Clone)]
pub struct Announcer {
    nudge: Sender<()>,
    token: Arc<Mutex<Option<Token>>>,
}

impl Announcer {
    /// Starts, in a thread of its own, and says goodbye at the shutdown. When the tracker has not answered for
    /// `timeout` the reason goes to `failures`.
    ///
    /// # Errors
    /// When there is no socket or thread to be had.
    pub fn start(
        tracker: SocketAddr,
        registration: Registration,
        offers: Offers,
        timeout: Option<Duration>,
        failures: Sender<DaemonError>,
        threads: &Threads,
        shutdown: &Shutdown,
    ) -> io::Result<Self> {
        let asker = Asker::new(tracker, shutdown)?.with_patience(timeout);
        let (nudge, nudged) = bounded(1);
        let token = Arc::new(Mutex::new(None));
        let mut worker = Worker {
            asker,
            registration,
            offers,
            announced: HashMap::new(),
            full: false,
            token: token.clone(),
            heartbeat: RETRY_MAX,
            outage: Outage::new("tracker", tracker, timeout),
            shutdown: shutdown.clone(),
        };
        threads.spawn("announce", move || worker.run(nudged, &failures))?;
        Ok(Self { nudge, token })
    }

    /// Something that is offered has changed: tell the tracker now.
    pub fn nudge(&self) {
        let _ = self.nudge.try_send(());
    }

    /// The token, while registered.
    pub fn token(&self) -> Option<Token> {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a tracker has been away, and what was said of it.
#[derive(Clone)]
pub struct Outage {
    role: &'static str,
    tracker: SocketAddr,
    timeout: Option<Duration>,
    since: Option<Instant>,
    backoff: Backoff,
    random: fastrand::Rng,
}

impl Outage {
    /// No outage yet. With `timeout` one that lasts that long is given up on.
    pub fn new(role: &'static str, tracker: SocketAddr, timeout: Option<Duration>) -> Self {
        let backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        Self { role, tracker, timeout, since: None, backoff, random: fastrand::Rng::new() }
    }

    /// What was `asked` then is not answered. Returns how long to wait before asking again.
    ///
    /// # Errors
    /// When it has not for as long as it was given.
    pub fn failed(&mut self, asked: Instant, why: &dyn std::fmt::Display) -> Result<Duration, DaemonError> {
        let advice = next_step::after_failure(self.role, self.tracker, &why.to_string());
        let since = *self.since.get_or_insert_with(|| {
            log::warn!("{why}; trying again until it answers{advice}");
            asked
        });
        if self.timeout.is_some_and(|timeout| since.elapsed() >= timeout) {
            let (role, tracker, seconds) = (self.role, self.tracker, since.elapsed().as_secs_f64());
            let text = format!("the {role} on {tracker} has not answered for {seconds:.1} s: {why}{advice}");
            return Err(DaemonError::new(Fault::Unreachable, text));
        }
        let pause = self.backoff.pause(&mut self.random);
        Ok(self.timeout.map_or(pause, |timeout| pause.min(timeout.saturating_sub(since.elapsed()))))
    }

    /// It answers.
    pub fn ended(&mut self) {
        if self.since.take().is_some() {
            log::info!("the {} on {} answers again", self.role, self.tracker);
        }
    }

    /// It has answered for a while: the next outage is a new one, with short pauses at first.
    pub fn settled(&mut self) {
        self.backoff.reset();
    }
}

struct Worker {
    asker: Asker,
    registration: Registration,
    offers: Offers,
    /// The files that the tracker knows of, and how much of each.
    announced: HashMap<(FileId, FileName), u32>,
    /// The tracker has said that it takes no more files.
    full: bool,
    token: Arc<Mutex<Option<Token>>>,
    heartbeat: Duration,
    outage: Outage,
    shutdown: Shutdown,
}

impl Worker {
    fn run(&mut self, mut nudged: Receiver<()>, failures: &Sender<DaemonError>) {
        loop {
            let asked = Instant::now();
            let pause = match self.keep_known() {
                Ok(()) => {
                    self.outage.ended();
                    self.outage.settled();
                    self.heartbeat
                }
                Err(AskError::Stopped) => break,
                Err(why) => match self.outage.failed(asked, &why) {
                    Ok(pause) => pause,
                    Err(error) => {
                        let _ = failures.try_send(error);
                        break;
                    }
                },
            };
            crossbeam_channel::select! {
                recv(self.shutdown.signal()) -> _ => break,
                // Whoever has dropped the handle will not nudge any more: without this the wait would end at once,
                // for ever.
                recv(nudged) -> nudge => if nudge.is_err() {
                    nudged = never();
                },
                default(pause) => {}
            }
        }
        if let Some(token) = self.token() {
            self.asker.tell(&TrackerRequest::Goodbye { token });
        }
    }

    fn token(&self) -> Option<Token> {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_token(&self, token: Option<Token>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// One round: register if need be, announce what is new, or else send a heartbeat.
    fn keep_known(&mut self) -> Result<(), AskError> {
        let known = self.token();
        let token = known.map_or_else(|| self.register(), Ok)?;
        if self.tell_all(token)? || known.is_none() {
            return Ok(());
        }
        // The token was not known any more: once more with a new one.
        let token = self.register()?;
        self.tell_all(token).map(drop)
    }

    /// Announces what is new, or else sends a heartbeat. Returns `false` when the token is not known.
    fn tell_all(&mut self, token: Token) -> Result<bool, AskError> {
        let mut told = false;
        // What has changed on the disk is not what was announced, and is not served.
        let (offers, changed): (Vec<Offer>, Vec<Offer>) =
            self.offers.list().into_iter().partition(|offer| offer.source.is_intact());
        for Offer { file, .. } in changed {
            if self.announced.contains_key(&(file.id, file.name.clone())) {
                log::warn!("{} has changed since it was hashed and is offered no more", file.name);
            }
        }
        let offered = |file: FileId| offers.iter().any(|offer| offer.file.id == file);
        let gone: Vec<FileId> = self.announced.keys().map(|(id, _)| *id).filter(|id| !offered(*id)).collect();
        for file in gone {
            if self.expect(&TrackerRequest::Withdraw { token, file })? == Told::Unknown {
                return Ok(false);
            }
            self.announced.retain(|(id, _), _| *id != file);
            self.full = false;
            told = true;
        }
        for Offer { file, source } in &offers {
            let (held, key) = (source.progress().held(), (file.id, file.name.clone()));
            // Between nothing and everything the tracker need not know how much.
            let known = self.announced.get(&key).is_some_and(|known| *known == held || held < file.chunks);
            if known || (self.full && !self.announced.contains_key(&key)) {
                continue;
            }
            match self.expect(&TrackerRequest::Announce { token, file: file.clone(), held })? {
                Told::Unknown => return Ok(false),
                Told::Full => self.full = true,
                Told::Known => {
                    self.announced.insert(key, held);
                    told = true;
                }
            }
        }
        if told { Ok(true) } else { Ok(self.expect(&TrackerRequest::Heartbeat { token })? != Told::Unknown) }
    }

    fn register(&mut self) -> Result<Token, AskError> {
        match self.asker.ask(&TrackerRequest::Register(self.registration.clone()))? {
            TrackerResponse::Registered { token, address, heartbeat_ms, .. } => {
                self.heartbeat = clamp_heartbeat(Duration::from_millis(heartbeat_ms));
                self.announced.clear();
                self.full = false;
                self.set_token(Some(token));
                log::info!("registered with the tracker on {} as {address}", self.asker.tracker());
                Ok(token)
            }
            other => Err(unexpected(other)),
        }
    }

    /// Asks what is acknowledged without more. Forgets the token when it is not known.
    fn expect(&mut self, request: &TrackerRequest) -> Result<Told, AskError> {
        match self.asker.ask(request)? {
            TrackerResponse::Alive
            | TrackerResponse::Announced { .. }
            | TrackerResponse::Withdrawn { .. } => Ok(Told::Known),
            TrackerResponse::Error { code: ErrorCode::UnknownToken, .. } => {
                log::info!("the tracker on {} does not know this peer any more", self.asker.tracker());
                self.set_token(None);
                Ok(Told::Unknown)
            }
            TrackerResponse::Error { code: ErrorCode::Busy, text } => {
                log::warn!("the tracker on {} is not told of all files: {text}", self.asker.tracker());
                Ok(Told::Full)
            }
            other => Err(unexpected(other)),
        }
    }
}

/// What a tracker makes of something that it is told.
#[derive(PartialEq, Eq)]
enum Told {
    /// It is noted.
    Known,
    /// The token is not known: register again.
    Unknown,
    /// There is no room for it.
    Full,
}

fn unexpected(response: TrackerResponse) -> AskError {
    AskError::Io(io::Error::other(match response {
        TrackerResponse::Error { text, .. } => format!("the program on that address refuses: {text}"),
        other => format!("it answers {other:?}"),
    }))
}
