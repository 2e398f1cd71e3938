//! Finder for the file of a ticket: names the peers of the ticket, and the holders that its trackers know.
//!
//! The addresses of peers in a ticket belong to one seeder, which may answer requests to a tracker there, too. They are
//! all asked until one answers; then only this one is asked, until it no longer answers. A search never fails: the peers
//! of the ticket are always in the result. Invariant: name and size come from the ticket, not from a tracker.

use crate::content::limits::UDP_BLOCKED_TIMEOUT;
use crate::download::finder::{FindError, Finder, TrackerFinder, merge_holders};
use crate::net::{Endpoint, Shutdown, Timeouts, UdpClient, run_parallel};
use crate::protocol::PeerAddress;
use crate::protocol::tracker::{FileSummary, FoundFile, Token};
use crate::sync::lock;
use crate::tracker_client::lookup::Query;
use crate::tracker_client::ticket::Ticket;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Time for the answers of the first search, so that a tracker that does not answer delays no download.
const FIRST_SEARCH_TIMEOUT: Duration = Duration::from_millis(500);
/// Time for the answers of each later search: UDP, and TCP after it.
const SEARCH_TIMEOUT: Duration = UDP_BLOCKED_TIMEOUT.saturating_add(Duration::from_secs(2));

/// Registrations of this peer at the trackers of a ticket.
pub trait TicketTrackers: Send + Sync {
    /// The token of this peer at a tracker, if it has registered there.
    fn token(&self, tracker: &Endpoint) -> Option<Token>;
    /// A tracker has answered. `addresses` are all addresses of the same tracker.
    fn answered(&self, tracker: &Endpoint, addresses: &[Endpoint]);
}

/// The trackers that have answered searches for a file, each at the address that answered last.
#[derive(Default)]
pub struct AnsweredTrackers(Mutex<Vec<Endpoint>>);

impl AnsweredTrackers {
    /// The trackers that have answered.
    pub fn list(&self) -> Vec<Endpoint> {
        lock(&self.0).clone()
    }
}

impl TicketTrackers for AnsweredTrackers {
    fn token(&self, _: &Endpoint) -> Option<Token> {
        None
    }

    fn answered(&self, tracker: &Endpoint, addresses: &[Endpoint]) {
        let mut answered = lock(&self.0);
        if !answered.contains(tracker) {
            answered.retain(|other| !addresses.contains(other));
            answered.push(tracker.clone());
        }
    }
}

/// A tracker of the ticket, or another finder.
struct Asked {
    finder: Box<dyn Finder>,
    tracker: Option<Endpoint>,
    /// Whether it is an address of the seeder of the ticket.
    is_seeder: bool,
}

/// Finder for the file of a ticket.
pub struct TicketFinder {
    ticket: Arc<Ticket>,
    asked: Vec<Asked>,
    /// Index of the address at which the seeder answers.
    current: Option<usize>,
    seeder: Vec<Endpoint>,
    trackers: Arc<dyn TicketTrackers>,
    searched: bool,
}

impl TicketFinder {
    /// Creates a finder that also asks `others`.
    pub fn new(
        ticket: Arc<Ticket>,
        others: Vec<Box<dyn Finder>>,
        trackers: Arc<dyn TicketTrackers>,
        timeouts: Timeouts,
        shutdown: &Shutdown,
    ) -> Self {
        let seeder: Vec<Endpoint> = ticket.peers.iter().map(|peer| Endpoint::from(*peer)).collect();
        let asked = |tracker: &Endpoint, is_seeder| {
            let (registered, at) = (trackers.clone(), tracker.clone());
            let client = UdpClient::new(tracker.clone(), shutdown);
            let finder = TrackerFinder::new(client, timeouts, move || registered.token(&at));
            Asked { finder: Box::new(finder), tracker: Some(tracker.clone()), is_seeder }
        };
        let others = others.into_iter().map(|finder| Asked { finder, tracker: None, is_seeder: false });
        let named = ticket.trackers.iter().map(|tracker| asked(tracker, false));
        let own = seeder.iter().map(|tracker| asked(tracker, true));
        let asked = others.chain(named).chain(own).collect();
        Self { ticket, asked, current: None, seeder, trackers, searched: false }
    }

    /// Asks all trackers at the same time. Of the addresses of the seeder, the first answer ends the others.
    fn ask(&mut self, query: &Query, limit: Duration, stop: &Shutdown) -> Vec<(usize, Vec<FoundFile>)> {
        let current = self.current;
        let is_asked = |number: usize, asked: &Asked| {
            !asked.is_seeder || current.is_none_or(|current| current == number)
        };
        let asked = self.asked.iter_mut().enumerate().filter(|(number, asked)| is_asked(*number, asked));
        let waiting: Vec<(usize, &mut Asked)> = asked.collect();
        let (count, stop) = (waiting.len(), stop.child());
        if count == 0 {
            return Vec::new();
        }
        let seeder_stop = stop.child();
        let (waiting, answers) = (Mutex::new(waiting), Mutex::new(Vec::new()));
        let (workers, running) = (AtomicUsize::new(0), AtomicUsize::new(count));
        run_parallel("ask-tracker", count + 1, || {
            if workers.fetch_add(1, Ordering::Relaxed) == 0 {
                stop.wait(limit);
                return stop.trigger();
            }
            loop {
                let Some((number, asked)) = lock(&waiting).pop() else { return };
                let stop_this = if asked.is_seeder { &seeder_stop } else { &stop };
                match asked.finder.find(query, stop_this) {
                    Ok(files) => {
                        lock(&answers).push((number, files));
                        if asked.is_seeder {
                            seeder_stop.trigger();
                        }
                    }
                    Err(error) => log::debug!("no holders from a tracker of the ticket: {error}"),
                }
                if running.fetch_sub(1, Ordering::Relaxed) == 1 {
                    stop.trigger();
                }
            }
        });
        answers.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the trackers that have answered, and the address of the seeder to ask from now on.
    fn note_answers(&mut self, answers: &[(usize, Vec<FoundFile>)]) {
        let mut seeder = None;
        for (number, _) in answers {
            let Asked { tracker: Some(tracker), is_seeder, .. } = &self.asked[*number] else { continue };
            match is_seeder {
                true if seeder.is_none() => {
                    seeder = Some(*number);
                    self.trackers.answered(tracker, &self.seeder);
                }
                true => {}
                false => self.trackers.answered(tracker, std::slice::from_ref(tracker)),
            }
        }
        self.current = seeder;
    }
}

impl Finder for TicketFinder {
    fn find(&mut self, query: &Query, stop: &Shutdown) -> Result<Vec<FoundFile>, FindError> {
        let Ticket { id, name, size, peers, .. } = &*self.ticket;
        if query.id != Some(*id) {
            return Ok(Vec::new());
        }
        let file = FileSummary { id: *id, name: name.clone(), size: *size, chunks: 0 };
        let whole: Vec<PeerAddress> = PeerAddress::new(peers.iter().copied()).into_iter().collect();
        let mut found =
            FoundFile { holders: 0, complete: 0, file, whole: vec![], partial: vec![], md5: None };
        merge_holders(&mut found, whole, vec![]);
        let is_first = !std::mem::replace(&mut self.searched, true);
        let limit = if is_first { FIRST_SEARCH_TIMEOUT } else { SEARCH_TIMEOUT };
        let query = Query { id: query.id, ..Query::default() };
        let answers = self.ask(&query, limit, stop);
        self.note_answers(&answers);
        for file in answers.into_iter().flat_map(|(_, files)| files) {
            if file.file.id == found.file.id {
                merge_holders(&mut found, file.whole, file.partial);
            }
        }
        Ok(vec![found])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{FileId, FileName, Md5};
    use std::net::SocketAddr;

    /// Finder with fixed answers; `None` is a tracker that does not answer.
    struct Fixed(Vec<Option<FoundFile>>, Arc<AtomicUsize>);

    impl Finder for Fixed {
        fn find(&mut self, _: &Query, stop: &Shutdown) -> Result<Vec<FoundFile>, FindError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            match self.0.pop().flatten() {
                Some(found) => Ok(vec![found]),
                None => {
                    stop.wait_forever();
                    Err(crate::net::UdpClientError::Stopped.into())
                }
            }
        }
    }

    #[derive(Default)]
    struct Answered(Mutex<Vec<(Endpoint, usize)>>);

    impl TicketTrackers for Answered {
        fn token(&self, _: &Endpoint) -> Option<Token> {
            None
        }
        fn answered(&self, tracker: &Endpoint, addresses: &[Endpoint]) {
            lock(&self.0).push((tracker.clone(), addresses.len()));
        }
    }

    fn address(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    fn found(name: &str, holder: u16) -> FoundFile {
        let file =
            FileSummary { id: FileId([7; 32]), name: FileName::new(name).unwrap(), size: 99, chunks: 1 };
        let md5 = Some(Md5([1; 16]));
        FoundFile { file, holders: 1, complete: 1, whole: vec![address(holder).into()], partial: vec![], md5 }
    }

    fn finder(
        peers: &[u16],
        answers: Vec<Vec<Option<FoundFile>>>,
    ) -> (TicketFinder, Vec<Arc<AtomicUsize>>, Arc<Answered>) {
        let ticket = Ticket {
            id: FileId([7; 32]),
            name: FileName::new("a.bin").unwrap(),
            size: 9,
            trackers: vec![],
            peers: peers.iter().map(|port| address(*port)).collect(),
        };
        let trackers = Arc::new(Answered::default());
        let (timeouts, shutdown) = (Timeouts::default(), Shutdown::new());
        let mut finder = TicketFinder::new(Arc::new(ticket), vec![], trackers.clone(), timeouts, &shutdown);
        let mut counts = vec![];
        for (asked, answers) in finder.asked.iter_mut().zip(answers) {
            let count = Arc::new(AtomicUsize::new(0));
            asked.finder = Box::new(Fixed(answers, count.clone()));
            counts.push(count);
        }
        (finder, counts, trackers)
    }

    fn query() -> Query {
        Query { id: Some(FileId([7; 32])), ..Query::default() }
    }

    #[test]
    fn name_and_size_are_those_of_the_ticket_and_holders_are_merged() {
        let (mut finder, ..) = finder(&[1, 2], vec![vec![Some(found("other", 2))], vec![]]);
        // One address does not answer, and the search ends.
        let files = finder.find(&query(), &Shutdown::new()).unwrap();
        let [found] = &files[..] else { panic!("{files:?}") };
        assert_eq!((found.file.name.as_str(), found.file.size, found.md5), ("a.bin", 9, None));
        // The two addresses are one peer, which the tracker names, too.
        assert_eq!((found.holders, found.whole.len()), (1, 1));
        assert_eq!(finder.find(&Query::default(), &Shutdown::new()).unwrap().len(), 0);
    }

    #[test]
    fn the_address_that_answers_is_kept_until_it_is_silent() {
        let answer = || Some(found("a.bin", 5));
        // Answers are taken from the end: the first address is silent at first and last, the second answers twice.
        let (mut finder, counts, trackers) =
            finder(&[1, 2], vec![vec![answer(), None], vec![None, answer(), answer()]]);
        let mut find = || {
            let stop = Shutdown::new();
            finder.searched = false;
            let files = finder.find(&query(), &stop).unwrap();
            files[0].whole.len()
        };
        let asked = || [0, 1].map(|number: usize| counts[number].load(Ordering::Relaxed));
        assert_eq!((find(), asked()), (2, [1, 1]));
        assert_eq!((find(), asked()), (2, [1, 2]));
        // Silent: only the peers of the ticket are found.
        assert_eq!((find(), asked()), (1, [1, 3]));
        assert_eq!(find(), 2);
        let list = AnsweredTrackers::default();
        for (tracker, _) in &*lock(&trackers.0) {
            list.answered(tracker, &finder.seeder);
        }
        assert_eq!(list.list(), [Endpoint::from(address(1))]);
        let answered: Vec<u16> = lock(&trackers.0).iter().map(|(tracker, _)| tracker.port()).collect();
        assert_eq!(answered, [2, 2, 1]);
        assert!(lock(&trackers.0).iter().all(|(_, addresses)| *addresses == 2));
    }
}
