//! Search for the manifest of a file: asks its holders, and takes the first manifest that matches the id.
//!
//! Most of the named holders may be dead. While none answers, more and more are asked at the same time, up to
//! [`REQUESTS_MAX`], and further holders are looked up. Invariants: a holder is asked once; no request starts while a holder
//! has been sending its manifest for less than [`SENDING_TIMEOUT`].

use crate::content::limits::{CANDIDATES_MAX, URGENT_LOOKUP_INTERVAL};
use crate::content::{FileId, Manifest};
use crate::download::driver::KnownHolders;
use crate::download::events::SourceError;
use crate::download::finder::Finder;
use crate::download::source::PeerConnection;
use crate::net::threads::{spawn_scoped, with_scope};
use crate::net::{Shutdown, Timeouts, running_time};
use crate::protocol::PeerAddress;
use crate::sync::lock;
use crate::tracker_client::lookup::Query;
use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::thread::Scope;
use std::time::Duration;

/// Number of holders that are asked at first.
const REQUESTS_MIN: usize = 4;
/// Largest number of requests at the same time.
const REQUESTS_MAX: usize = 64;
/// Interval after which the number of requests doubles while no holder answers.
const GROWTH_INTERVAL: Duration = Duration::from_millis(500);
/// Time for which a holder that sends its manifest keeps others from being asked; after it, one more is asked in each
/// [`GROWTH_INTERVAL`].
const SENDING_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without an answer after which a holder is not used as a source until it is found again.
const SILENT_SOURCE_TIMEOUT: Duration = Duration::from_secs(1);
/// Time without a manifest after which the addresses of a ticket are named in a warning.
pub(super) const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);

/// A manifest, and the permission bits that its holder states.
pub(super) type FoundManifest = (Manifest, Option<u32>);

/// The reason that no holder sent the manifest.
#[derive(Default)]
pub(super) struct NoManifest {
    /// The failure of one holder, as a part of a message.
    pub(super) cause: String,
    /// Text of the seeder of the ticket, if it has replaced the file.
    pub(super) replaced: Option<String>,
    /// Number of holders that were asked.
    pub(super) asked: usize,
}

/// Parameters of a search.
pub(super) struct ManifestSearch<'a> {
    /// Id of the file.
    pub(super) id: FileId,
    /// Whether a holder is the seeder of the ticket: only it can replace the file.
    pub(super) is_seeder: &'a (dyn Fn(&PeerAddress) -> bool + Sync),
    /// Called if no holder has answered within [`SILENCE_TIMEOUT`].
    pub(super) warn: &'a (dyn Fn() + Sync),
    /// Time for which further holders are looked up.
    pub(super) lookup_time: Duration,
    /// Timeouts of the connections.
    pub(super) timeouts: Timeouts,
}

/// A holder that is being asked.
struct InFlight {
    holder: PeerAddress,
    is_complete: bool,
    since: Duration,
}

/// State of a search.
#[derive(Default)]
struct State {
    /// Holders to ask, each with whether it is complete.
    waiting: VecDeque<(PeerAddress, bool)>,
    known: HashSet<SocketAddr>,
    asked: usize,
    /// Running workers, and the start times of the manifests that are arriving.
    workers: usize,
    sending: Vec<Duration>,
    in_flight: Vec<InFlight>,
    found: Option<(FoundManifest, PeerAddress)>,
    failure: NoManifest,
}

impl State {
    /// Adds holders that are not known yet.
    fn add(&mut self, KnownHolders { whole, partial }: KnownHolders) {
        let holders = whole.into_iter().map(|holder| (holder, true));
        for (holder, is_complete) in holders.chain(partial.into_iter().map(|holder| (holder, false))) {
            let is_known = holder.all().any(|address| self.known.contains(&address));
            if !is_known && self.known.len() < CANDIDATES_MAX {
                self.known.extend(holder.all());
                self.waiting.push_back((holder, is_complete));
            }
        }
    }

    /// Whether holders have been sending their manifests for less than [`SENDING_TIMEOUT`], or for longer.
    fn sending(&self, now: Duration) -> (bool, bool) {
        let is_new = |since: &Duration| now.saturating_sub(*since) < SENDING_TIMEOUT;
        (self.sending.iter().any(is_new), !self.sending.is_empty())
    }

    /// Takes the next holder to ask. Without one, the worker ends.
    fn next(&mut self, now: Duration) -> Option<PeerAddress> {
        let next = match self.sending(now) {
            (true, _) => None,
            _ => self.waiting.pop_front(),
        };
        let Some((holder, is_complete)) = next else {
            self.workers -= 1;
            return None;
        };
        self.asked += 1;
        self.in_flight.push(InFlight { holder: holder.clone(), is_complete, since: now });
        Some(holder)
    }

    /// The number of requests that may run at the same time after another [`GROWTH_INTERVAL`].
    fn grow(&self, requests: usize, now: Duration) -> usize {
        let grown = match self.sending(now) {
            (true, _) => requests,
            (false, true) => requests + 1,
            (false, false) => requests * 2,
        };
        grown.min(REQUESTS_MAX)
    }

    /// The holders that may be sources, the one that sent the manifest first. Those that failed or are silent are left out.
    fn remaining(&mut self, first: &PeerAddress, now: Duration) -> KnownHolders {
        let is_open =
            |one: &InFlight| one.holder == *first || now.saturating_sub(one.since) < SILENT_SOURCE_TIMEOUT;
        let asked = std::mem::take(&mut self.in_flight).into_iter().filter(is_open);
        let asked = asked.map(|one| (one.holder, one.is_complete));
        let mut all: Vec<(PeerAddress, bool)> = asked.chain(self.waiting.drain(..)).collect();
        all.sort_by_key(|(holder, _)| holder != first);
        let (whole, partial): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, is_complete)| *is_complete);
        let addresses = |list: Vec<_>| list.into_iter().map(|(holder, _)| holder).collect();
        KnownHolders { whole: addresses(whole), partial: addresses(partial) }
    }
}

impl ManifestSearch<'_> {
    /// Asks the holders. Returns the first manifest, and the holders that have not failed.
    ///
    /// # Errors
    /// No holder sent a valid manifest.
    pub(super) fn run(
        &self,
        holders: KnownHolders,
        finder: &mut dyn Finder,
        shutdown: &Shutdown,
    ) -> Result<(FoundManifest, KnownHolders), NoManifest> {
        let race = shutdown.child();
        let mut state = State::default();
        state.add(holders);
        let is_empty = state.waiting.is_empty();
        let state = Mutex::new(state);
        if !is_empty {
            with_scope(|scope| {
                let look_up = || self.look_up(finder, &state, &race);
                if let Err(error) = spawn_scoped(scope, "find", look_up) {
                    log::warn!("cannot start a thread for lookups: {error}");
                }
                self.control(scope, &state, &race);
            });
        }
        let mut state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.found.take() {
            Some((manifest, first)) => Ok((manifest, state.remaining(&first, running_time()))),
            None => Err(NoManifest { asked: state.asked, ..state.failure }),
        }
    }

    /// Starts workers, more and more of them, until the search ends.
    fn control<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        state: &'scope Mutex<State>,
        race: &'scope Shutdown,
    ) {
        let (started, mut requests, mut is_warned) = (running_time(), REQUESTS_MIN, false);
        loop {
            let to_start = {
                let mut state = lock(state);
                let free = requests.saturating_sub(state.workers).min(state.waiting.len());
                state.workers += free;
                free
            };
            for number in 0..to_start {
                if let Err(error) = spawn_scoped(scope, "manifest", move || self.work(state, race)) {
                    log::warn!("cannot start a thread to ask a holder: {error}");
                    lock(state).workers -= to_start - number;
                    if self.is_alone(state) {
                        self.work(state, race);
                    }
                    break;
                }
            }
            if race.wait(GROWTH_INTERVAL) {
                return;
            }
            let now = running_time();
            requests = lock(state).grow(requests, now);
            if now.saturating_sub(started) >= SILENCE_TIMEOUT && !std::mem::replace(&mut is_warned, true) {
                (self.warn)();
            }
        }
    }

    /// Whether no worker runs; then the calling thread becomes one.
    fn is_alone(&self, state: &Mutex<State>) -> bool {
        let mut state = lock(state);
        let is_alone = state.workers == 0;
        state.workers += usize::from(is_alone);
        is_alone
    }

    /// Asks one holder after the other. The last worker ends the search.
    fn work(&self, state: &Mutex<State>, race: &Shutdown) {
        while !race.is_stopped() {
            let next = lock(state).next(running_time());
            let Some(holder) = next else { return };
            self.ask(&holder, state, race);
            let mut state = lock(state);
            if state.found.is_none() {
                state.in_flight.retain(|one| one.holder != holder);
                if state.waiting.is_empty() && state.in_flight.is_empty() {
                    race.trigger();
                }
            }
        }
    }

    fn ask(&self, holder: &PeerAddress, state: &Mutex<State>, race: &Shutdown) {
        let mut since = None;
        let answer = PeerConnection::open(holder, None, self.timeouts, race).and_then(|mut connection| {
            let begins = || {
                let now = running_time();
                lock(state).sending.push(now);
                since = Some(now);
            };
            connection.manifest_and_mode(self.id, begins, race)
        });
        let mut state = lock(state);
        if let Some(at) = state.sending.iter().position(|one| Some(*one) == since) {
            state.sending.swap_remove(at);
        }
        match answer {
            Ok(manifest) => {
                state.found.get_or_insert((manifest, holder.clone()));
                race.trigger();
            }
            Err(_) if race.is_stopped() => {}
            Err(error) => {
                log::debug!("no manifest from {holder}: {error}");
                state.failure.cause = format!(": {holder}: {error}");
                match error {
                    SourceError::Replaced(text) if (self.is_seeder)(holder) => {
                        state.failure.replaced = Some(text);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Looks up further holders until the search ends.
    fn look_up(&self, finder: &mut dyn Finder, state: &Mutex<State>, race: &Shutdown) {
        let started = running_time();
        let query = Query { id: Some(self.id), ..Query::default() };
        while !race.wait(URGENT_LOOKUP_INTERVAL) && running_time().saturating_sub(started) < self.lookup_time
        {
            for found in finder.find(&query, race).unwrap_or_default() {
                if found.file.id == self.id {
                    lock(state).add(KnownHolders { whole: found.whole, partial: found.partial });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::FileName;
    use crate::download::finder::FindError;
    use crate::net::{Listener, Threads};
    use crate::protocol::tracker::{FileSummary, FoundFile};
    use crate::storage::CompleteFile;
    use crate::upload::offers::Offers;
    use crate::upload::server::{ServeOptions, serve};
    use std::net::TcpListener;
    use std::sync::Arc;

    /// Finder whose answer names these complete holders.
    struct Named(Vec<PeerAddress>);

    impl Finder for Named {
        fn find(&mut self, query: &Query, _: &Shutdown) -> Result<Vec<FoundFile>, FindError> {
            let (id, name) = (query.id.unwrap(), FileName::new("f").unwrap());
            let file = FileSummary { id, name, size: 1, chunks: 1 };
            let (whole, partial) = (self.0.clone(), Vec::new());
            Ok(vec![FoundFile { file, holders: 1, complete: 1, whole, partial, md5: None }])
        }
    }

    fn address(number: u16) -> PeerAddress {
        SocketAddr::from(([10, 0, 0, 1], number)).into()
    }

    fn whole(holders: Vec<PeerAddress>) -> KnownHolders {
        KnownHolders { whole: holders, partial: Vec::new() }
    }

    /// Searches for the manifest of a file that one peer serves. Other holders accept connections and never answer, and each
    /// of them would occupy a request for longer than a test may take. Returns the remaining holders and the serving one.
    fn search(
        named: impl Fn(PeerAddress, PeerAddress) -> (Vec<PeerAddress>, Vec<PeerAddress>),
    ) -> (KnownHolders, PeerAddress) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 50_000]).unwrap();
        let file = Arc::new(CompleteFile::publish(&path, Some(16 * 1024), &|_| (), &|| false).unwrap());
        let (threads, shutdown, offers) = (Threads::new(), Shutdown::new(), Offers::new());
        offers.put(file.id(), file.clone());
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let serving: PeerAddress = listener.address().into();
        serve(listener, offers, &ServeOptions::default(), None, &threads, &shutdown).unwrap();
        let silent = TcpListener::bind("0.0.0.0:0").unwrap();
        let at = SocketAddr::from(([127, 0, 0, 1], silent.local_addr().unwrap().port()));
        let (known, found) = named(at.into(), serving.clone());
        let day = Duration::from_secs(86_400);
        let search = ManifestSearch {
            id: file.id(),
            is_seeder: &|_| false,
            warn: &|| (),
            lookup_time: day,
            timeouts: Timeouts { hello: day, idle: day, stall: day },
        };
        let result = search.run(whole(known), &mut Named(found), &shutdown);
        shutdown.trigger();
        threads.join();
        let Ok(((manifest, _), remaining)) = result else { panic!("no manifest") };
        assert_eq!(manifest.id(), file.id());
        (remaining, serving)
    }

    #[test]
    fn silent_holders_do_not_hide_the_one_that_answers() {
        let (remaining, serving) = search(|silent, serving| {
            let port = silent.first().port();
            let hosts = (1..=40).map(|last| PeerAddress::from(SocketAddr::from(([127, 0, 0, last], port))));
            (hosts.chain([serving]).collect(), Vec::new())
        });
        assert_eq!(remaining.whole.first(), Some(&serving));
    }

    #[test]
    fn holders_that_are_found_later_are_asked_while_the_first_ones_are_silent() {
        let (remaining, serving) = search(|silent, serving| (vec![silent], vec![serving]));
        assert_eq!(remaining.whole.first(), Some(&serving));
    }

    #[test]
    fn requests_grow_while_no_holder_sends_its_manifest() {
        let at = Duration::from_secs;
        let mut state = State::default();
        state.add(whole(vec![address(1), address(2), address(1)]));
        assert_eq!(
            (state.waiting.len(), state.grow(4, at(0)), state.grow(REQUESTS_MAX, at(0))),
            (2, 8, REQUESTS_MAX)
        );
        state.workers = 2;
        assert_eq!(state.next(at(0)), Some(address(1)));
        state.sending.push(at(0));
        assert_eq!((state.grow(4, at(1)), state.next(at(1)), state.workers), (4, None, 1));
        assert_eq!(state.grow(4, SENDING_TIMEOUT), 5);
        assert_eq!((state.next(SENDING_TIMEOUT), state.asked), (Some(address(2)), 2));
    }

    #[test]
    fn the_first_source_is_the_holder_that_sent_the_manifest_and_silent_ones_are_left_out() {
        let at = Duration::from_secs;
        let mut state = State::default();
        state.add(KnownHolders { whole: (1..=4).map(address).collect(), partial: vec![address(5)] });
        state.next(at(0));
        state.next(at(8));
        state.next(at(9));
        let KnownHolders { whole, partial } = state.remaining(&address(3), at(9));
        assert_eq!((whole, partial), (vec![address(3), address(4)], vec![address(5)]));
    }
}
