//! Finders of holders: ask a tracker, all peers of a manager, or both.

use crate::content::limits::{ANSWER_GRACE_TIMEOUT, ANSWER_TIMEOUT, SOURCES_MAX};
use crate::content::{FileId, FileName, IdPrefix};
use crate::download::events::SourceError;
use crate::download::source::PeerConnection;
use crate::net::{Endpoint, Shutdown, Timeouts, UdpClient, UdpClientError, run_parallel};
use crate::protocol::PeerAddress;
use crate::protocol::tracker::{FileSummary, FoundFile, OfferedFile, PeerSummary, Token};
use crate::report::error::{Fault, RoleError};
use crate::report::next_step::FailedRequest;
use crate::sync::{lock, read};
use crate::tracker_client::lookup::{Query, RequestError, list, lookup};
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Number of peers queried at once. Silent peers must not hide the others: while none answers, another query starts at
/// each [`QUERY_INTERVAL`].
const PARALLEL_QUERY_COUNT: usize = 32;
/// Interval between the starts of further queries.
const QUERY_INTERVAL: Duration = Duration::from_millis(250);
/// Largest number of peers queried at the same time.
const QUERY_THREADS_MAX: usize = 256;

/// The reason that a finder has no answer.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The tracker did not send the list of all files.
    #[error("no list of files from the tracker on {tracker}: {source}")]
    List {
        /// Address of the tracker.
        tracker: Endpoint,
        /// The cause.
        source: RequestError,
    },
    /// The tracker did not answer a lookup.
    #[error(transparent)]
    Lookup(#[from] UdpClientError),
}

impl FailedRequest for FindError {
    fn is_refusal(&self) -> bool {
        match self {
            FindError::List { source, .. } => source.is_refusal(),
            FindError::Lookup(error) => error.is_refusal(),
        }
    }

    fn is_wrong_role(&self) -> bool {
        match self {
            FindError::List { source, .. } => source.is_wrong_role(),
            FindError::Lookup(error) => error.is_wrong_role(),
        }
    }
}

/// Finds files and their holders. An empty query matches all files; a tracker then includes this peer.
pub trait Finder: Send {
    /// Asks once; `stop` cancels the request.
    ///
    /// # Errors
    /// The cause of a missing answer.
    fn find(&mut self, query: &Query, stop: &Shutdown) -> Result<Vec<FoundFile>, FindError>;
}

/// A finder that is used by one download after another.
pub type SharedFinder = Arc<Mutex<Box<dyn Finder>>>;

/// Finder that asks a tracker.
pub struct TrackerFinder {
    client: UdpClient,
    timeouts: Timeouts,
    token: Box<dyn Fn() -> Option<Token> + Send>,
}

impl TrackerFinder {
    /// Creates a finder with its own UDP client; TCP connections use `timeouts`. The tracker excludes the
    /// peer with this `token` from its answers.
    pub fn new(
        client: UdpClient,
        timeouts: Timeouts,
        token: impl Fn() -> Option<Token> + Send + 'static,
    ) -> Self {
        Self { client: client.with_tcp_fallback(), timeouts, token: Box::new(token) }
    }
}

impl Finder for TrackerFinder {
    fn find(&mut self, query: &Query, stop: &Shutdown) -> Result<Vec<FoundFile>, FindError> {
        if *query == Query::default() {
            let tracker = self.client.tracker();
            let listed = list(tracker, self.timeouts, stop);
            return listed.map_err(|source| FindError::List { tracker: tracker.clone(), source });
        }
        if let Some(prefix) = &query.prefix {
            return self.find_by_prefix(prefix, stop);
        }
        let found = self.look_up(query, stop)?;
        match query.id_prefix() {
            Some(prefix) if found.is_empty() => self.find_by_prefix(&prefix, stop),
            _ => Ok(found),
        }
    }
}

impl TrackerFinder {
    fn look_up(&mut self, query: &Query, stop: &Shutdown) -> Result<Vec<FoundFile>, FindError> {
        let (token, timeouts) = ((self.token)(), self.timeouts);
        Ok(lookup(&mut self.client, query, SOURCES_MAX as u32, token, timeouts, stop)?)
    }

    /// Searches the list of all files. The holders of the only match are looked up by its id.
    fn find_by_prefix(&mut self, prefix: &IdPrefix, stop: &Shutdown) -> Result<Vec<FoundFile>, FindError> {
        if prefix.whole().is_some() {
            return self.look_up(&Query::of_id(prefix), stop);
        }
        let mut found = self.find(&Query::default(), stop)?;
        found.retain(|found| prefix.matches(found.file.id));
        // A file has an entry for each of its names.
        let mut ids = HashSet::new();
        found.retain(|found| ids.insert(found.file.id));
        match &found[..] {
            [one] => self.look_up(&Query { id: Some(one.file.id), ..Query::default() }, stop),
            _ => Ok(found),
        }
    }
}

/// Other active peers, as last listed by the manager.
pub type Peers = Arc<RwLock<Vec<PeerSummary>>>;

/// Finder that asks all listed peers, in random order. Once a peer has answered with a file, slow peers are not awaited.
pub struct PeersFinder {
    peers: Peers,
    timeouts: Timeouts,
}

impl PeersFinder {
    /// Creates a finder that asks the peers listed at the time of each query.
    pub fn new(peers: Peers, timeouts: Timeouts) -> Self {
        Self { peers, timeouts }
    }
}

impl Finder for PeersFinder {
    fn find(&mut self, query: &Query, stop: &Shutdown) -> Result<Vec<FoundFile>, FindError> {
        let mut peers = read(&self.peers).clone();
        fastrand::shuffle(&mut peers);
        let last_start = Mutex::new(Instant::now());
        let answers = Mutex::new(Vec::new());
        let (next, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (started, stop_all) = (Instant::now(), stop.child());
        let stop_if_answered = || {
            let late = started.elapsed() >= ANSWER_GRACE_TIMEOUT;
            if late && !lock(&answers).is_empty() {
                stop_all.trigger();
            }
        };
        let ask = || {
            while !stop_all.is_stopped()
                && let Some(peer) = peers.get(next.fetch_add(1, Ordering::Relaxed))
            {
                *lock(&last_start) = Instant::now();
                match files_of(&peer.address, query, self.timeouts, &stop_all) {
                    Ok(files) => lock(&answers).extend(
                        files
                            .into_iter()
                            .filter(|offered| query.is_answered_by(&offered.file))
                            .map(|file| (peer.address.clone(), file)),
                    ),
                    Err(error) => {
                        log::debug!("no list of files from {} at {}: {error}", peer.name, peer.address)
                    }
                }
                if finished.fetch_add(1, Ordering::Relaxed) + 1 == peers.len() {
                    stop_all.trigger();
                }
                stop_if_answered();
            }
        };
        // One thread watches the time, since all others may be blocked on slow peers. Peers that do not answer are given
        // up only after all have been asked.
        let keep_time = || {
            stop_all.wait(ANSWER_GRACE_TIMEOUT);
            while !stop_all.wait(QUERY_INTERVAL) {
                stop_if_answered();
                let all_asked = next.load(Ordering::Relaxed) >= peers.len();
                if all_asked && lock(&last_start).elapsed() >= ANSWER_TIMEOUT {
                    stop_all.trigger();
                }
            }
        };
        let workers = AtomicUsize::new(0);
        let work = || match workers.fetch_add(1, Ordering::Relaxed) {
            0 => keep_time(),
            number => {
                let later = number.saturating_sub(PARALLEL_QUERY_COUNT) as u32;
                if !stop_all.wait(QUERY_INTERVAL * later) {
                    ask();
                }
            }
        };
        let threads = if peers.is_empty() { 0 } else { peers.len().min(QUERY_THREADS_MAX) + 1 };
        run_parallel("ask-peer", threads, work);
        let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut found = group_by_file(query, answers);
        query.prefer_named(&mut found);
        Ok(found)
    }
}

fn files_of(
    address: &PeerAddress,
    query: &Query,
    timeouts: Timeouts,
    shutdown: &Shutdown,
) -> Result<Vec<OfferedFile>, SourceError> {
    PeerConnection::open(address, None, timeouts, shutdown)?.files(query, shutdown)
}

/// Key of a found file: a list of all files has each of its names, any other answer has a file once.
type FoundKey = (FileId, Option<FileName>);

fn key_of(query: &Query, file: &FileSummary) -> FoundKey {
    (file.id, (*query == Query::default()).then(|| file.name.clone()))
}

/// Groups the offers of single peers by file.
fn group_by_file(query: &Query, answers: Vec<(PeerAddress, OfferedFile)>) -> Vec<FoundFile> {
    let mut found: BTreeMap<FoundKey, FoundFile> = BTreeMap::new();
    let mut known = HashSet::new();
    for (address, OfferedFile { file, held }) in answers {
        let entry = found.entry(key_of(query, &file)).or_insert_with(|| FoundFile {
            file: file.clone(),
            holders: 0,
            complete: 0,
            whole: Vec::new(),
            partial: Vec::new(),
            md5: None,
        });
        if !known.insert((key_of(query, &file), address.clone())) {
            continue;
        }
        entry.holders += 1;
        match held >= file.chunks {
            true => {
                entry.complete += 1;
                entry.whole.push(address);
            }
            false => entry.partial.push(address),
        }
    }
    found.into_values().collect()
}

/// Finder that combines the answers of several finders.
pub struct CombinedFinder(pub Vec<Box<dyn Finder>>);

impl Finder for CombinedFinder {
    fn find(&mut self, query: &Query, stop: &Shutdown) -> Result<Vec<FoundFile>, FindError> {
        let mut found: BTreeMap<FoundKey, FoundFile> = BTreeMap::new();
        let mut failure = None;
        let mut answered = false;
        for finder in &mut self.0 {
            match finder.find(query, stop) {
                Ok(files) => {
                    answered = true;
                    files
                        .into_iter()
                        .for_each(|file| merge_file(&mut found, key_of(query, &file.file), file));
                }
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) if !answered => Err(error),
            _ => {
                let mut found = found.into_values().collect();
                query.prefer_named(&mut found);
                Ok(found)
            }
        }
    }
}

fn merge_file(found: &mut BTreeMap<FoundKey, FoundFile>, key: FoundKey, file: FoundFile) {
    let Some(entry) = found.get_mut(&key) else {
        found.insert(key, file);
        return;
    };
    entry.md5 = entry.md5.or(file.md5);
    merge_holders(entry, file.whole, file.partial);
}

/// Adds the holders that are not known yet.
pub(super) fn merge_holders(entry: &mut FoundFile, whole: Vec<PeerAddress>, partial: Vec<PeerAddress>) {
    let known = |entry: &FoundFile, address: &PeerAddress| {
        entry.whole.iter().chain(&entry.partial).any(|known| known.meets(address))
    };
    let unknown = |entry: &FoundFile, addresses: Vec<PeerAddress>| -> Vec<PeerAddress> {
        addresses.into_iter().filter(|address| !known(entry, address)).collect()
    };
    let (whole, partial) = (unknown(entry, whole), unknown(entry, partial));
    entry.holders += (whole.len() + partial.len()) as u32;
    entry.complete += whole.len() as u32;
    entry.whole.extend(whole);
    entry.partial.extend(partial);
}

/// Error of a download that was interrupted.
pub fn interrupted() -> RoleError {
    RoleError::new(Fault::Interrupted, "interrupted; run the same command to resume")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::limits::PROTOCOL_VERSION;
    use std::net::SocketAddr;

    fn address(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    fn offered(id: u8, held: u32) -> OfferedFile {
        let name = FileName::new("f").unwrap();
        OfferedFile { file: FileSummary { id: FileId([id; 32]), name, size: 1, chunks: 4 }, held }
    }

    #[test]
    fn a_text_that_may_be_a_name_or_the_first_digits_of_an_id_means_a_name_first() {
        let name = |text: &str| Query { name: FileName::new(text).ok(), ..Query::default() };
        let mut named = offered(9, 4);
        named.file.name = FileName::new("01010101").unwrap();
        let all = || {
            group_by_file(
                &Query::default(),
                vec![(address(1).into(), offered(1, 4)), (address(2).into(), named.clone())],
            )
        };
        let query = name("01010101");
        assert!(all().iter().all(|found| query.is_answered_by(&found.file)));
        let mut found = all();
        query.prefer_named(&mut found);
        assert_eq!(found[..].iter().map(|found| found.file.id).collect::<Vec<_>>(), [FileId([9; 32])]);
        found = group_by_file(&Query::default(), vec![(address(1).into(), offered(1, 4))]);
        query.prefer_named(&mut found);
        assert_eq!(found.len(), 1);
        assert!(query.is_found_by_id(&found[0].file) && !name("0101010").is_answered_by(&found[0].file));
        let by_id = Query { name: query.name, ..Query::of_id(&"01010101".parse().unwrap()) };
        assert!(by_id.is_answered_by(&found[0].file) && !by_id.is_found_by_id(&found[0].file));
        assert!(!by_id.is_answered_by(&named.file));
    }

    #[test]
    fn silent_peers_do_not_hide_the_others() {
        use crate::net::{FrameReader, FrameWriter};
        use crate::protocol::peer::{PeerRequest, PeerResponse};
        use std::net::TcpListener;
        // The system accepts connections for a listener without an accept loop, which then stay silent.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = holder.local_addr().unwrap();
        std::thread::spawn(move || {
            let stream = Arc::new(holder.accept().unwrap().0);
            let mut reader = FrameReader::new(stream.clone());
            let mut writer = FrameWriter::new(stream).unwrap();
            let _: PeerRequest = reader.message(ANSWER_TIMEOUT).unwrap();
            writer.send(&PeerResponse::Hello { version: PROTOCOL_VERSION, site: None }).unwrap();
            let _: PeerRequest = reader.message(ANSWER_TIMEOUT).unwrap();
            let list = serde_json::to_vec(&[offered(1, 4)]).unwrap();
            writer.send_with(&PeerResponse::Files { count: 1, length: list.len() as u64 }, &list).unwrap();
        });
        let name = || crate::content::PeerName::new("peer").unwrap();
        let peer = |address| PeerSummary { name: name(), address: SocketAddr::into(address) };
        let mut peers = vec![peer(silent.local_addr().unwrap()); 100];
        peers.push(peer(at));
        // Each silent peer would occupy a query for longer than the whole query may take.
        let day = Duration::from_secs(86_400);
        let timeouts = Timeouts { hello: day, idle: day, stall: day };
        let mut finder = PeersFinder::new(Arc::new(RwLock::new(peers)), timeouts);
        let found = finder.find(&Query::default(), &Shutdown::new()).unwrap();
        assert_eq!((found.len(), &found[0].whole[..]), (1, &[at.into()][..]));
    }

    #[test]
    fn a_list_of_all_files_has_each_name_of_equal_files_and_a_query_for_an_id_has_one() {
        let named = |name: &str| {
            let mut offered = offered(1, 4);
            offered.file.name = FileName::new(name).unwrap();
            offered
        };
        let answers = || vec![(address(1).into(), named("a")), (address(1).into(), named("b"))];
        let names = |query: &Query| {
            let found = group_by_file(query, answers()).into_iter();
            found.map(|found| (found.file.name.to_string(), found.whole.len())).collect::<Vec<_>>()
        };
        assert_eq!(names(&Query::default()), [("a".to_owned(), 1), ("b".to_owned(), 1)]);
        let by_id = Query { id: Some(FileId([1; 32])), ..Query::default() };
        assert_eq!(names(&by_id), [("a".to_owned(), 1)]);
    }

    #[test]
    fn answers_are_merged_by_file_id() {
        let answers = vec![
            (address(1).into(), offered(1, 4)),
            (address(2).into(), offered(1, 3)),
            (address(2).into(), offered(1, 4)),
            (address(3).into(), offered(2, 4)),
        ];
        let found = group_by_file(&Query::default(), answers);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].holders, &found[0].whole[..], &found[0].partial[..]),
            (2, &[address(1).into()][..], &[address(2).into()][..])
        );

        struct Fixed(Option<Vec<FoundFile>>);
        impl Finder for Fixed {
            fn find(&mut self, _: &Query, _: &Shutdown) -> Result<Vec<FoundFile>, FindError> {
                self.0.clone().ok_or_else(|| UdpClientError::NoResponse(address(1).into()).into())
            }
        }
        let more = group_by_file(
            &Query::default(),
            vec![(address(1).into(), offered(1, 4)), (address(9).into(), offered(1, 4))],
        );
        let none = || Box::new(Fixed(None));
        let mut both =
            CombinedFinder(vec![Box::new(Fixed(Some(found))), none(), Box::new(Fixed(Some(more)))]);
        let found = both.find(&Query::default(), &Shutdown::new()).unwrap();
        assert_eq!((found.len(), found[0].holders, found[0].whole.len()), (2, 3, 2));
        assert!(CombinedFinder(vec![none(), none()]).find(&Query::default(), &Shutdown::new()).is_err());
    }
}
