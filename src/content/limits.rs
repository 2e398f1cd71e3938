//! Every limit, time-out, port and size, each once.
//!
//! Flags, `--help`, the README and the tests take their numbers from here. A constant says its unit
//! in its type (`Duration`) or in its doc line.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

/// Version of the protocol that every conversation opens with.
pub const PROTOCOL_VERSION: u32 = 1;

/// Where a tracker listens, TCP and UDP, and where everybody looks for it.
pub const TRACKER_ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5100));
/// Where a manager listens, TCP and UDP.
pub const MANAGER_ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 10_000));
/// The port on which a seeder serves.
pub const SEEDER_PORT: u16 = 7000;
/// The file that a seeder offers when none is named.
pub const SEEDER_FILE: &str = "large_text_file.txt";
/// The chunk set that a chunk folder joins when none is named.
pub const DEFAULT_SET: &str = "default";
/// The file, in the working directory, that log lines and events are appended to.
pub const LOG_FILE: &str = "logs.log";
/// The `target` of a log record that is an event line: it goes into the log file bare and whole.
pub const EVENT_TARGET: &str = "event";
/// The tracker's name in event lines.
pub const TRACKER_ENTITY: &str = "P2PTracker";

/// Bytes in a chunk, unless the file is so large that it must be doubled, or the user says otherwise.
pub const CHUNK_SIZE: u32 = 512 * 1024;
/// Smallest chunk size that may be asked for, bytes.
pub const CHUNK_SIZE_MIN: u32 = 16 * 1024;
/// Largest chunk, bytes: of a file, and of a chunk set.
pub const CHUNK_SIZE_MAX: u32 = 64 * 1024 * 1024;
/// The default chunk size is doubled until a file has at most this many chunks.
pub const CHUNKS_WANTED_MAX: u64 = 65_536;
/// No file has more chunks than this, whatever chunk size is asked for.
pub const CHUNKS_MAX: u32 = 1 << 20;

/// Largest frame line, bytes, the newline not counted.
pub const FRAME_MAX: usize = 64 * 1024;
/// Largest datagram, bytes.
pub const DATAGRAM_MAX: usize = 1_200;
/// A datagram without a proven source is padded to this many bytes, so that the cookie that answers it
/// is never larger than it was.
pub const DATAGRAM_PADDED: usize = 160;
/// Longest file name, bytes (what common file systems take).
pub const FILE_NAME_MAX: usize = 255;
/// Longest name of a peer or a chunk set, bytes.
pub const ENTITY_NAME_MAX: usize = 64;

/// How often a peer says that it is alive.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long a peer counts as alive after its last heartbeat.
pub const LEASE: Duration = Duration::from_secs(10);
/// A manager sends its list to everybody at most this often.
pub const BROADCAST_PAUSE: Duration = Duration::from_millis(100);
/// How many clients must claim the same hash before it is the chunk's hash.
pub const QUORUM: usize = 2;

/// Copies of each chunk that are wanted at volunteers.
pub const REPLICAS: usize = 2;
/// Volunteers that must be there before a file is distributed.
pub const VOLUNTEERS_MIN: usize = 3;
/// Copies of chunks that are under way into one volunteer at once, and out of one.
pub const COPY_WINDOW: u32 = 8;
/// Bytes of copies that are under way into one volunteer at once, and out of one; one copy always may be.
pub const COPY_WINDOW_BYTES: u64 = 64 * 1024 * 1024;
/// A copy that has not been acknowledged after this time, and the time that [`COPY_RATE_MIN`] gives it, has failed.
pub const COPY_TIMEOUT: Duration = Duration::from_secs(30);
/// A copy may be as slow as this, bytes a second.
pub const COPY_RATE_MIN: u64 = 16 * 1024;
/// How long nothing is copied to a volunteer that could not store a chunk.
pub const DISK_REST: Duration = Duration::from_secs(60);
/// How often the holders of a chunk are challenged.
pub const CHALLENGE_EVERY: Duration = Duration::from_secs(10);
/// Most bytes of a chunk that a challenge asks about.
pub const CHALLENGE_RANGE: u32 = 64 * 1024;
/// How long a holder has to answer a challenge.
pub const CHALLENGE_WAIT: Duration = Duration::from_secs(30);
/// What has changed about placement is made durable at most this often, unless something waits for it.
pub const RECORD_PAUSE: Duration = Duration::from_millis(100);
/// Records that may wait for the catalogue before changes are gathered into one.
pub const RECORDS_AHEAD: u64 = 4;
/// Chunks that one order to drop names: it fits a frame.
pub const DROP_MAX: usize = 4_096;
/// Files that a status shows.
pub const STATUS_FILES: usize = 1_000;

/// A connection on which nothing was asked for this long is closed, unless its server is told otherwise, and a request
/// that is not answered as a whole by then is given up.
pub const CONVERSATION_TIMEOUT: Duration = Duration::from_secs(90);
/// No single read or write waits longer than this in the middle of a message, unless a program is told otherwise.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may take to be made.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the other side of a new connection may take to say hello, unless a program is told otherwise.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// When all places are taken, a connection on which nothing was asked for this long makes room for a new one. Longer
/// than [`KEEP_ALIVE`].
pub const EVICTION_IDLE: Duration = Duration::from_secs(35);
/// One on which nothing was ever asked does so after this long; until then the new one waits.
pub const EVICTION_GRACE: Duration = Duration::from_millis(250);
/// A peer that waits on an idle connection says so this often, to keep it open.
pub const KEEP_ALIVE: Duration = Duration::from_secs(25);
/// First wait for the answer to a datagram; doubled at each repeat.
pub const DATAGRAM_WAIT: Duration = Duration::from_millis(400);
/// How often a datagram is sent before its answer is given up.
pub const DATAGRAM_TRIES: u32 = 4;
/// First pause before something is tried again; doubled up to [`RETRY_MAX`].
pub const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest pause before something is tried again.
pub const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often a download asks the tracker for holders.
pub const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);
/// How often a download without a single live holder asks the tracker for one.
pub const LOOKUP_INTERVAL_ALONE: Duration = Duration::from_secs(1);
/// A leecher for which nothing arrives for this long gives up.
pub const LEECHER_TIMEOUT: Duration = Duration::from_secs(90);
/// How often a shared folder is looked at.
pub const FOLDER_LOOK: Duration = Duration::from_secs(1);
/// How long a tracker's cookie proves a source address, at least.
pub const COOKIE_EPOCH: Duration = Duration::from_secs(120);

/// Connections that may wait to be accepted; in a rush further ones are tried again by their systems, which takes
/// seconds. The system may allow fewer.
pub const LISTEN_BACKLOG: i32 = 4_096;
/// Connections that a daemon serves at once.
pub const CONNECTIONS_MAX: usize = 1_024;
/// Peers that a tracker remembers at once.
pub const PEERS_MAX: usize = 1_000_000;
/// Peers that a tracker remembers at once of those that register from one IP address: enough for a laboratory on one
/// host, and no host takes the places of all others.
pub const PEERS_PER_IP_MAX: usize = 65_536;
/// Claims and wishes for chunks that a tracker remembers at once, in all chunk sets together.
pub const CHUNK_ENTRIES_MAX: usize = 16 * 1024 * 1024;
/// Files that one peer may announce.
pub const FILES_PER_PEER_MAX: usize = 4_096;
/// Chunk sets that one peer may join.
pub const SETS_PER_PEER_MAX: usize = 64;
/// Holders named in one answer over TCP.
pub const HOLDERS_MAX: usize = 512;
/// Files named in one answer to a question for a name.
pub const FOUND_FILES_MAX: usize = 64;
/// Messages that may wait for a connection before it is dropped as one that does not drain.
pub const OUTBOX: usize = 4_096;
/// Requests of one connection that a tracker or a manager takes ahead of handling them.
pub const HUB_REQUESTS: usize = 32;
/// Bytes that may wait for a connection before it is dropped as one that does not drain. Whatever is queued while
/// fewer wait is taken, however large it is.
pub const OUTBOX_BYTES: usize = 64 * 1024 * 1024;
/// Lists of peers that may wait for a connection before it is dropped: each supersedes the one before.
pub const OUTBOX_LISTS: usize = 64;
/// Largest list of peers, or of files, bytes.
pub const LIST_MAX: u64 = 64 * 1024 * 1024;
/// Files named in a tracker's list of all.
pub const LISTED_FILES: usize = 65_536;
/// Holders of each kind, whole and partial, named for each file in that list.
pub const LISTED_HOLDERS: usize = 3;
/// Lines that the prompt remembers.
pub const HISTORY_MAX: usize = 1_000;
/// Largest list of files of one peer, bytes.
pub const PEER_LIST_MAX: u64 = 8 * 1024 * 1024;
/// Requests that a server takes from one connection ahead of answering them.
pub const SERVE_QUEUE: usize = 16;
/// Requests kept in flight to one source: the next is asked for before the last has arrived.
pub const PIPELINE: usize = 2;
/// Requests in flight to a source that is so fast that this many take no longer than [`PIPELINE_TIME`]: two batches that are
/// being verified, one that comes.
pub const PIPELINE_MAX: usize = 12;
/// Requests worth so much time are in flight to one source, as far as [`PIPELINE_MAX`] allows.
pub const PIPELINE_TIME: Duration = Duration::from_millis(5);
/// Requests in flight to a source that is far away: as many as are answered in two round trips, as far as this allows.
pub const PIPELINE_FAR_MAX: usize = 16;
/// Who has been told of so many chunks as they began to arrive, and has asked for none of that file since, is told only of
/// those that are there, many at a time, until it asks for one.
pub const COMING_UNASKED: u32 = 16;
/// News of chunks that are there is told so often at most.
pub const NEWS_PAUSE: Duration = Duration::from_millis(100);
/// Peers named to one that asks for a file, of those who have asked for it before.
pub const PEERS_NAMED: usize = 64;
/// Sources that a download is connected to at once.
pub const SOURCES_MAX: usize = 64;
/// Memory for chunks being received, bytes: with large chunks fewer sources are used at once.
pub const RECEIVE_MEMORY: u64 = 64 * 1024 * 1024;
/// Memory in which a catalogue keeps what it has read, bytes.
pub const CATALOGUE_CACHE: usize = 16 * 1024 * 1024;
/// Free disk space without which a catalogue cannot be relied on to grow, bytes: what it says it needs when the disk is
/// full.
pub const CATALOGUE_GROWTH: u64 = 4 * 1024 * 1024;
/// Tasks of a tracker that are under way at once and need another host.
pub const KEEPER_DISTANT: usize = 4;
/// Tasks of a tracker that are under way at once and need only its own disk.
pub const KEEPER_LOCAL: usize = 2;
/// Groups of changes that go into one transaction of a catalogue.
pub const RECORDS_AT_ONCE: usize = 256;
/// Threads that check and store chunks beside those of the sources; never more than there are cores.
pub const VERIFY_HELPERS_MAX: usize = 8;
/// Memory for chunks that are hashed together when a file is published or checked, bytes, on all cores together.
pub const HASH_MEMORY: usize = 64 * 1024 * 1024;
/// How long a chunk waits at most for others to be verified together with it, where they come faster than that.
pub const VERIFY_COMPANY: Duration = Duration::from_millis(2);
/// Memory for chunks that such threads have in hand, bytes: with large chunks they get fewer of them, or none.
pub const VERIFY_MEMORY: usize = 16 * 1024 * 1024;
/// Sources used at once however large the chunks are.
pub const SOURCES_MIN: usize = 4;
/// Copies of one chunk that are asked for at once when a download ends.
pub const ENDGAME_COPIES: usize = 3;
/// A file that was written to less long ago than this when a shared folder is looked at for the first time
/// may still be being written: it is looked at once more before it is hashed.
pub const FILE_SETTLED: Duration = Duration::from_secs(2);
/// When all peers are asked who has a file, and some have it, the others are waited for no longer than this.
pub const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// Peers are not waited for any longer than this even when none has answered.
pub const ANSWER_MOST: Duration = Duration::from_secs(15);
/// How often what has been verified is noted in the have-map (a `kill -9` loses at most this much).
pub const NOTE_INTERVAL: Duration = Duration::from_millis(500);
/// How often what has been verified is made durable (a power cut loses at most this much).
pub const DURABLE_INTERVAL: Duration = Duration::from_secs(10);
/// Chunks that are hashed of what is there already, when a sample of it is.
pub const VERIFY_SAMPLE: usize = 32;
/// Whoever keeps chunks for others leaves at least this share of the disk's size free, per cent.
pub const DISK_RESERVE_PERCENT: u64 = 5;
/// The folder, in a volunteer's own one, that chunks are kept in for others. Hidden, so that nothing in it is shared.
pub const VOLUNTEER_FOLDER: &str = ".volunteer";
/// Chunks that a volunteer names in one message.
pub const NAMED_CHUNKS_MAX: usize = 4_096;
/// Chunks that a volunteer copies at once.
pub const COPY_WORKERS: usize = 8;
/// Orders of each kind that a volunteer takes ahead of carrying them out; more are refused.
pub const ORDERS_MAX: usize = 4_096;
/// A connection to a peer that nothing was asked over for this long is closed by who asked.
pub const CONVERSATION_IDLE: Duration = Duration::from_secs(15);
/// Connections to peers that are kept open without being used.
pub const CONVERSATIONS_KEPT: usize = 32;
/// A peer that could not be reached, or fell silent, is not asked for another copy for this long: what else was to be
/// copied from it does not wait for it as well.
pub const SOURCE_PAUSE: Duration = Duration::from_secs(3);
/// A volunteer that hashes what it has kept since before it was started rests so many times as long as it hashed.
pub const CHECK_REST: u32 = 3;
/// A volunteer tells of what it has stored and dropped in one line for all of it, at most this often.
pub const SUMMARY_PAUSE: Duration = Duration::from_secs(5);
/// How long a volunteer that leaves waits for its tracker to take notice.
pub const FAREWELL_WAIT: Duration = Duration::from_millis(500);
/// Stack of a thread, bytes.
pub const STACK: usize = 256 * 1024;
