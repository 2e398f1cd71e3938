//! Subscribers of a serving peer: leechers that download a file from it and serve it as well.
//!
//! The peer tells each new subscriber the addresses of some present ones. If it is a root of the file, complete when
//! the first subscriber came, it keeps the rings of those that join, and sends them its chunks once (super-seeding).
//!
//! Invariant: no state is kept for a file without subscribers.

use crate::content::limits::NAMED_PEERS_MAX;
use crate::content::{Bitfield, ChunkIndex, FileId};
use crate::net::{Shutdown, StreamError};
use crate::swarm::rings::{Placement, Rings, Site, Transfers};
use crate::swarm::super_seeding::SuperSeeder;
use crate::sync::{lock, wait_timeout};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Capacity of a subscriber's queue of notices.
const NOTICES_MAX: usize = 64;
/// Longest interval at which messages of a root are sent while its transfer waits for others.
const NOTICE_INTERVAL: Duration = Duration::from_millis(20);

/// Number of a connection.
pub type SubscriberId = u64;

/// A message of a root to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The predecessor in a ring.
    Place {
        /// Index of the ring.
        ring: usize,
        /// Address of the predecessor.
        peer: SocketAddr,
    },
    /// Each chunk has been sent once.
    Spent,
}

struct Subscriber {
    address: SocketAddr,
    site: Site,
    notices: Sender<Notice>,
    /// Whether it has joined the rings.
    is_member: bool,
    /// Chunks that it has reported, or has been sent by this peer's choice.
    has: Bitfield,
}

#[derive(Default)]
struct FileSubscribers {
    present: HashMap<SubscriberId, Subscriber>,
    /// `None` if this peer did not have the whole file when the first subscriber came.
    root: Option<RootState>,
}

struct RootState {
    super_seeder: SuperSeeder<SubscriberId>,
    rings: Rings<SubscriberId>,
    transfers: Arc<TransferQueue>,
}

impl FileSubscribers {
    fn send_placements(&self, placements: Vec<Placement<SubscriberId>>) {
        for Placement { member, ring, predecessor } in placements {
            if let (Some(member), Some(predecessor)) =
                (self.present.get(&member), self.present.get(&predecessor))
            {
                // Dropped if the queue is full: a subscriber that does not read is about to be disconnected.
                let _ = member.notices.try_send(Notice::Place { ring, peer: predecessor.address });
            }
        }
    }

    /// Changes what has been sent. If nothing is unsent any more, tells all members.
    fn update_sent<T>(&mut self, change: impl FnOnce(&mut SuperSeeder<SubscriberId>) -> T) -> Option<T> {
        let super_seeder = &mut self.root.as_mut()?.super_seeder;
        let was_spent = super_seeder.is_spent();
        let result = change(super_seeder);
        if super_seeder.is_spent() && !was_spent {
            for member in self.present.values().filter(|one| one.is_member) {
                let _ = member.notices.try_send(Notice::Spent);
            }
        }
        Some(result)
    }
}

/// Initial information for a new subscriber.
pub struct JoinInfo {
    /// Addresses of other subscribers.
    pub peers: Vec<SocketAddr>,
    /// Number of members of the rings, if this peer is a root.
    pub members: Option<u32>,
    /// Messages of this root.
    pub notices: Receiver<Notice>,
}

#[derive(Default)]
struct SubscriberTable {
    files: HashMap<FileId, FileSubscribers>,
    last: SubscriberId,
}

/// Subscribers of a peer, by file.
#[derive(Default)]
pub struct Subscribers(Mutex<SubscriberTable>);

impl Subscribers {
    fn state(&self) -> MutexGuard<'_, SubscriberTable> {
        lock(&self.0)
    }

    /// Allocates a number for a connection.
    pub fn new_id(&self) -> SubscriberId {
        let mut state = self.state();
        state.last += 1;
        state.last
    }

    /// Some addresses of the subscribers of a file.
    pub fn peers(&self, file: FileId) -> Vec<SocketAddr> {
        let state = self.state();
        let all = state.files.get(&file).into_iter().flat_map(|entry| entry.present.values());
        fastrand::choose_multiple(all.map(|subscriber| subscriber.address), NAMED_PEERS_MAX)
    }

    /// Adds a subscriber that serves at `address`; `have` is this peer's bitfield of the file.
    pub fn add(
        &self,
        id: SubscriberId,
        (address, site): (SocketAddr, Site),
        file: FileId,
        have: &Bitfield,
    ) -> JoinInfo {
        let mut state = self.state();
        let entry = state.files.entry(file).or_insert_with(|| FileSubscribers {
            present: HashMap::new(),
            root: have.is_complete().then(|| RootState {
                super_seeder: SuperSeeder::new(have.count(), &mut fastrand::Rng::new()),
                rings: Rings::default(),
                transfers: Arc::default(),
            }),
        });
        let others = entry.present.values().map(|subscriber| subscriber.address);
        let peers = fastrand::choose_multiple(others.filter(|other| *other != address), NAMED_PEERS_MAX);
        let (sender, notices) = bounded(NOTICES_MAX);
        let has = Bitfield::none(have.count());
        entry.present.insert(id, Subscriber { address, site, notices: sender, is_member: false, has });
        let members = entry.root.as_ref().map(|root| root.rings.count() as u32);
        JoinInfo { peers, members, notices }
    }

    /// Adds a subscriber to the rings of a file. Tells it if each chunk has been sent.
    pub fn join(&self, id: SubscriberId, file: FileId) {
        let mut state = self.state();
        let Some(entry) = state.files.get_mut(&file) else { return };
        let (Some(root), Some(member)) = (&mut entry.root, entry.present.get_mut(&id)) else { return };
        member.is_member = true;
        if root.super_seeder.is_spent() {
            let _ = member.notices.try_send(Notice::Spent);
        }
        let placements = root.rings.join(id, member.site.clone(), &mut fastrand::Rng::new());
        entry.send_placements(placements);
    }

    /// Records a report of a member that it cannot connect to its predecessor.
    pub fn unreachable(&self, id: SubscriberId, file: FileId, predecessor: SocketAddr) {
        let mut state = self.state();
        let Some(entry) = state.files.get_mut(&file) else { return };
        let found = entry.present.iter().find(|(_, other)| other.address == predecessor);
        let found = found.map(|(other, _)| *other);
        let host = entry.present.get(&id).map(|member| member.address.ip());
        if let (Some(root), Some(predecessor), Some(host)) = (&mut entry.root, found, host) {
            let placements = root.rings.unreachable(id, host, predecessor);
            entry.send_placements(placements);
        }
    }

    /// Records the chunks that a subscriber reports with a request for a chunk of this peer's choice.
    pub fn record_claims(&self, id: SubscriberId, file: FileId, ranges: &[(ChunkIndex, ChunkIndex)]) {
        let mut state = self.state();
        let Some(entry) = state.files.get_mut(&file) else { return };
        let Some(member) = entry.present.get_mut(&id) else { return };
        let last_of_all = member.has.count().saturating_sub(1);
        let all = ranges.iter().flat_map(|(first, last)| first.0..=last.0.min(last_of_all));
        // Ranges that repeat each other would name any number of chunks.
        let all = all.map(ChunkIndex).take(member.has.count() as usize);
        let new: Vec<ChunkIndex> = all.filter(|index| member.has.insert(*index)).collect();
        entry.update_sent(|seeder| new.into_iter().for_each(|index| seeder.claimed(id, index)));
    }

    /// Chooses the chunk to send to a subscriber. `None` if there is none that it lacks and no other one has been sent.
    pub fn choose(&self, id: SubscriberId, file: FileId) -> Option<ChunkIndex> {
        let mut state = self.state();
        let entry = state.files.get_mut(&file)?;
        let has = entry.present.get(&id)?.has.clone();
        let chosen = entry.update_sent(|seeder| seeder.next(id, &has)).flatten()?;
        entry.present.get_mut(&id)?.has.insert(chosen);
        Some(chosen)
    }

    /// Records that a chunk is sent to a subscriber that requested it.
    pub fn record_sent(&self, id: SubscriberId, file: FileId, index: ChunkIndex) {
        let mut state = self.state();
        if let Some(entry) = state.files.get_mut(&file).filter(|entry| entry.present.contains_key(&id)) {
            entry.update_sent(|seeder| seeder.sent(id, index));
        }
    }

    /// The transfers of a file of which this peer is a root, to subscribers that serve.
    pub fn transfers(&self, id: SubscriberId, file: FileId) -> Option<Arc<TransferQueue>> {
        let state = self.state();
        let entry = state.files.get(&file).filter(|entry| entry.present.contains_key(&id))?;
        entry.root.as_ref().map(|root| root.transfers.clone())
    }

    /// Removes a subscriber whose connection has ended.
    pub fn leave(&self, id: SubscriberId, file: FileId) {
        let mut state = self.state();
        let Some(entry) = state.files.get_mut(&file) else { return };
        entry.present.remove(&id);
        if let Some(root) = &mut entry.root {
            root.super_seeder.leave(id);
            let placements = root.rings.leave(id);
            entry.send_placements(placements);
        }
        if entry.present.is_empty() {
            state.files.remove(&file);
        }
    }
}

/// The transfers of one file from a root.
pub struct TransferQueue {
    started: Instant,
    transfers: Mutex<Transfers>,
    changed: Condvar,
}

impl Default for TransferQueue {
    fn default() -> Self {
        Self { started: Instant::now(), transfers: Mutex::default(), changed: Condvar::new() }
    }
}

impl TransferQueue {
    /// Queues a transfer.
    pub fn enqueue(self: &Arc<Self>) -> QueuedTransfer {
        QueuedTransfer { number: lock(&self.transfers).enqueue(), queue: self.clone() }
    }
}

/// A transfer that waits or is active; it ends when dropped.
pub struct QueuedTransfer {
    queue: Arc<TransferQueue>,
    number: u64,
}

impl QueuedTransfer {
    /// Waits until the transfer may begin. Meanwhile `send` is called at least every [`NOTICE_INTERVAL`], with whether
    /// a sign of life is due: one every `keep_alive`.
    ///
    /// # Errors
    /// The error of `send`; [`StreamError::Closed`] on shutdown.
    pub fn wait(
        &self,
        keep_alive: Duration,
        shutdown: &Shutdown,
        mut send: impl FnMut(bool) -> Result<(), StreamError>,
    ) -> Result<(), StreamError> {
        let TransferQueue { started, transfers, changed } = &*self.queue;
        let signs = crossbeam_channel::tick(keep_alive);
        loop {
            let mut waiting = lock(transfers);
            let Err(wait) = waiting.try_begin(self.number, started.elapsed()) else {
                // The next one may be able to begin as well.
                changed.notify_all();
                return Ok(());
            };
            drop(wait_timeout(changed, waiting, wait.min(NOTICE_INTERVAL)));
            if shutdown.is_stopped() {
                return Err(StreamError::Closed);
            }
            send(signs.try_recv().is_ok())?;
        }
    }
}

impl Drop for QueuedTransfer {
    fn drop(&mut self) {
        lock(&self.queue.transfers).end(self.number, self.queue.started.elapsed());
        self.queue.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::limits::KEEP_ALIVE_INTERVAL;

    const FILE: FileId = FileId([1; 32]);

    fn address(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, number], 7000))
    }

    fn add(subscribers: &Subscribers, id: SubscriberId) -> JoinInfo {
        let address = address(id as u8);
        subscribers.add(id, (address, Site::of(None, address.ip())), FILE, &Bitfield::all(9))
    }

    #[test]
    fn members_learn_their_predecessors_and_the_other_subscribers() {
        let subscribers = Subscribers::default();
        let [one, two] = [(); 2].map(|()| subscribers.new_id());
        let first = add(&subscribers, one);
        assert!(first.peers.is_empty() && first.members == Some(0));
        subscribers.join(one, FILE);
        assert!(first.notices.try_recv().is_err(), "it is alone");
        let second = add(&subscribers, two);
        assert_eq!((second.peers, second.members), (vec![address(1)], Some(1)));
        assert!(second.notices.try_recv().is_err(), "it has not joined");
        subscribers.join(two, FILE);
        for (notices, peer) in [(first.notices, address(2)), (second.notices, address(1))] {
            let places: Vec<Notice> = notices.try_iter().collect();
            let expected = |ring| Notice::Place { ring, peer };
            assert_eq!(places, [0, 1, 2, 3].map(expected));
        }
        assert_eq!(subscribers.peers(FILE).len(), 2);
        (1..=2).for_each(|id| subscribers.leave(id, FILE));
        assert!(subscribers.state().files.is_empty());
    }

    #[test]
    fn each_chunk_is_chosen_for_one_member_and_all_are_told_when_none_is_left() {
        let subscribers = Subscribers::default();
        let [first, second] = [1, 2].map(|id| add(&subscribers, id));
        let claim = |id, ranges: &[(u32, u32)]| {
            let ranges: Vec<_> =
                ranges.iter().map(|(first, last)| (ChunkIndex(*first), ChunkIndex(*last))).collect();
            subscribers.record_claims(id, FILE, &ranges);
        };
        [1, 2].into_iter().for_each(|id| subscribers.join(id, FILE));
        let is_spent = |info: &JoinInfo| info.notices.try_iter().collect::<Vec<_>>().contains(&Notice::Spent);
        claim(1, &[(2, 4), (8, u32::MAX)]);
        claim(2, &[]);
        let mut chosen: Vec<u32> =
            std::iter::from_fn(|| subscribers.choose(1, FILE)).map(|index| index.0).collect();
        chosen.sort_unstable();
        assert_eq!(chosen, [0, 1, 5, 6, 7]);
        subscribers.record_sent(2, FILE, ChunkIndex(2));
        claim(2, &[(3, 4)]);
        assert!(!is_spent(&first) && !is_spent(&second));
        assert_eq!(subscribers.choose(2, FILE), Some(ChunkIndex(8)));
        assert!(is_spent(&first) && is_spent(&second));
        let third = add(&subscribers, 3);
        subscribers.join(3, FILE);
        assert!(is_spent(&third), "a later member is told as well");
    }

    #[test]
    fn signs_of_life_are_sent_while_a_transfer_waits_for_its_turn() {
        let (queue, shutdown, stopped) =
            (Arc::new(TransferQueue::default()), Shutdown::new(), Shutdown::new());
        // The first one waits for its turn forever, so the second one does as well until it ends.
        let mut first = Some(queue.enqueue());
        let second = queue.enqueue();
        let mut signs = 0;
        let waited = second.wait(Duration::from_millis(1), &shutdown, |is_due| {
            signs += u32::from(is_due);
            if signs == 3 {
                first = None;
            }
            Ok(())
        });
        assert!(waited.is_ok() && signs >= 3 && first.is_none());
        let (_active, third) = (queue.enqueue(), queue.enqueue());
        let failed = third.wait(Duration::from_millis(1), &shutdown, |_| Err(StreamError::TimedOut));
        assert!(matches!(failed, Err(StreamError::TimedOut)));
        stopped.trigger();
        assert!(matches!(third.wait(KEEP_ALIVE_INTERVAL, &stopped, |_| Ok(())), Err(StreamError::Closed)));
    }
}
