//! Every limit, timeout, port and default size of the programs.
//!
//! Flags, `--help`, the README and the tests take their numbers from here. The unit of a constant is given
//! by its type (`Duration`) or in its doc line.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

// Version and addresses

/// Protocol version, sent in the handshake of each connection and in each datagram.
pub const PROTOCOL_VERSION: u32 = 5;
/// Default address of a tracker, TCP and UDP; peers connect to it unless told otherwise.
pub const TRACKER_ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5100));
/// Default listen address of a manager, TCP and UDP.
pub const MANAGER_ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 10_000));
/// Default TCP port of a seeder.
pub const SEEDER_PORT: u16 = 7000;
/// Ports that a seeder without `-p` tries, from [`SEEDER_PORT`] on.
pub const SEEDER_PORTS_COUNT: u16 = 100;
/// Default file of a seeder, in its working directory.
pub const SEEDER_FILE: &str = "large_text_file.txt";
/// Default name of a chunk set.
pub const DEFAULT_SET: &str = "default";
/// File in the working directory that log lines and event lines are appended to.
pub const LOG_FILE: &str = "logs.log";
/// `target` of the log records that are event lines: the log file gets them without time and level.
pub const EVENT_TARGET: &str = "event";
/// Log target of the three result lines of a download: in the log file they have no name of the program.
pub const RESULT_TARGET: &str = concat!("shoal", "::result");
/// Name of the tracker in event lines.
pub const TRACKER_NAME: &str = "P2PTracker";

// Chunks and files

/// Default chunk size of files up to 256 MiB, bytes. The start and the end of a fan-out cost a fixed number of chunk
/// times; smaller chunks cost more messages and hashing calls.
pub const CHUNK_SIZE: u32 = 64 * 1024;
/// Default chunk size of files above 1 GiB, bytes; doubled for large files, see [`DEFAULT_CHUNKS_MAX`].
pub const CHUNK_SIZE_LARGE: u32 = 512 * 1024;
/// Number of chunks from which the default chunk size grows, up to [`CHUNK_SIZE_LARGE`].
pub const DEFAULT_CHUNKS_MIN: u64 = 4_096;
/// Smallest chunk size of a file, bytes.
pub const CHUNK_SIZE_MIN: u32 = 16 * 1024;
/// Largest chunk of a file, bytes; it is received in memory.
pub const CHUNK_SIZE_MAX: u32 = 64 * 1024 * 1024;
/// Largest file and largest chunk of a chunk set, bytes: the largest offset of a file. A chunk above [`CHUNK_SIZE_MAX`] is
/// written to disk while it arrives.
pub const FILE_SIZE_MAX: u64 = i64::MAX as u64;
/// Bytes of a chunk above [`CHUNK_SIZE_MAX`] that are received, hashed and written at a time.
pub const LARGE_CHUNK_BLOCK_BYTES: usize = 256 * 1024;
/// Largest number of chunks of a file for which the default chunk size is not doubled.
pub const DEFAULT_CHUNKS_MAX: u64 = 65_536;
/// Largest number of chunks of a file or a chunk set.
pub const CHUNKS_MAX: u32 = 1 << 20;

// Folders

/// Largest number of entries of a folder, unless a flag allows more.
pub const TREE_ENTRIES_MAX: u32 = 4_000_000;
/// Longest index of a folder, bytes. It is kept in memory while the folder is sent or received.
pub const TREE_INDEX_BYTES_MAX: usize = 1 << 30;
/// Longest path of an entry of a folder, bytes.
pub const TREE_PATH_BYTES_MAX: usize = 4_096;
/// Largest number of components of the path of an entry.
pub const TREE_LEVELS_MAX: usize = 255;
/// Longest target of a symbolic link, bytes: the limit of Linux.
pub const TREE_LINK_BYTES_MAX: usize = 4_095;
/// Largest file in a folder, bytes.
pub const TREE_FILE_SIZE_MAX: u64 = 1 << 60;
/// Largest number of holes of one file in a folder.
pub const TREE_HOLES_MAX: usize = 65_536;
/// Largest distance of a modification time in a folder from 1970, seconds: nine million years.
pub const TREE_SECONDS_MAX: u64 = 1 << 48;
/// Mean size of the chunks of the index of a folder, bytes.
pub const TREE_INDEX_CHUNK_BYTES: u64 = 64 * 1024;
/// Largest size of a chunk that several entries of a folder share, as a multiple of the mean size.
pub const TREE_PACK_FACTOR: u64 = 4;

// Reports of corrupt chunks

/// Shortest time between two reports of an address for which a server hashes a chunk again.
pub const CORRUPT_REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// Largest number of addresses whose last report is remembered; further addresses wait.
pub const CORRUPT_REPORTERS_MAX: usize = 1_024;
/// Bytes per second that a server hashes because of reports, on average.
pub const REPORTED_CHUNK_RATE_MAX: u32 = 8 * 1024 * 1024;

// Messages

/// Longest line of a frame, bytes, without the newline.
pub const FRAME_MAX: usize = 64 * 1024;
/// Largest datagram, bytes.
pub const DATAGRAM_MAX: usize = 1_200;
/// Size to which a datagram without a cookie is padded, bytes.
///
/// At least the size of the response that carries the cookie, so that a forged source address gains no
/// amplification.
pub const DATAGRAM_PADDED_BYTES: usize = 160;
/// Pause before a file of a shared folder that could not be read is read again; it doubles with each failure.
pub const FILE_RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest pause before a file of a shared folder that could not be read is read again.
pub const FILE_RETRY_MAX: Duration = Duration::from_secs(60);
/// Longest file name, bytes: the limit of common file systems.
pub const FILE_NAME_MAX: usize = 255;
/// Longest name of a peer or a chunk set, bytes.
pub const PEER_NAME_MAX: usize = 64;
/// Largest list of peers or files, bytes.
pub const LIST_MAX: u64 = 64 * 1024 * 1024;
/// Largest list of the files of one peer, bytes.
pub const PEER_LIST_MAX: u64 = 16 * 1024 * 1024;
/// Longest payload of a manifest, bytes: a byte, and for each chunk a length of 8 bytes and a digest.
pub const MANIFEST_BYTES_MAX: u64 = 1 + CHUNKS_MAX as u64 * (8 + 32);
/// Longest text of an error in a message, bytes; the rest of a longer text is ignored.
pub const ERROR_TEXT_MAX: usize = 2 * 1024;
/// Chunks in one `got` message, so that it fits in a frame.
pub const GOT_CHUNKS_MAX: usize = 4_096;
/// Proofs in one `identity` message: one for each tracker or manager at which the server is registered.
pub const IDENTITY_PROOFS_MAX: usize = 64;
/// Addresses of a peer. Further ones of a peer that a tracker names are ignored.
pub const PEER_ADDRESSES_MAX: usize = 8;
/// Addresses of a peer with one result in a `reachability` message: also the advertised one and the source address.
pub const REACHED_ADDRESSES_MAX: usize = PEER_ADDRESSES_MAX + 2;
/// Sources of files to whose new chunks one connection subscribes.
pub const SUBSCRIPTIONS_MAX: usize = 16;
/// Longest ticket, bytes: above that of the longest name and 16 of the longest addresses.
pub const TICKET_BYTES_MAX: usize = 8 * 1024;
/// Peers in a ticket.
pub const TICKET_PEERS_MAX: usize = 8;
/// Trackers in a ticket.
pub const TICKET_TRACKERS_MAX: usize = 8;

// Discovery

/// Answers to one search in the local network that are considered.
pub const DISCOVERY_ANSWERS_MAX: usize = 1_000;
/// Discovery questions of one source address that are considered in each second: a person types few commands, and each asks
/// a few times.
pub const SOURCE_QUESTIONS_MAX: u32 = 20;
/// Discovery questions of all sources in each second: a room of machines that start a command together. Also bounds the
/// memory for source addresses.
pub const QUESTIONS_MAX: u32 = 500;

// Tracker and manager

/// Interval between two heartbeats of a peer.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// Lease of a peer: it counts as alive for this time after its last heartbeat.
pub const LEASE_TIMEOUT: Duration = Duration::from_secs(10);
/// Shortest interval between two peer lists that a manager sends to a peer.
pub const BROADCAST_INTERVAL: Duration = Duration::from_millis(100);
/// Number of clients that must claim the same hash of a chunk before it is agreed.
pub const QUORUM_MIN: usize = 2;
/// Time after which a tracker derives new cookies.
///
/// A cookie stays valid until the end of the next period: for this long at least, twice as long at most.
pub const COOKIE_INTERVAL: Duration = Duration::from_secs(120);
/// Peers registered at a tracker.
pub const PEERS_MAX: usize = 1_000_000;
/// Peers registered at a tracker from one IP address.
///
/// Enough for a test network on one host, while no host can take the places of all others.
pub const PEERS_PER_IP_MAX: usize = 65_536;
/// Claims of chunks at a tracker and requests that wait for an agreement, over all chunk sets, at most.
pub const CLAIMS_MAX: u64 = 16 * 1024 * 1024;
/// Default number of files announced by one peer.
pub const FILES_PER_PEER_MAX: usize = 65_536;
/// Different files announced by the peers of a tracker, at most.
pub const ANNOUNCED_FILES_MAX: u64 = 4 * 1024 * 1024;
/// Holders of files at a tracker, at most; a peer counts once for each name of each file that it announces.
pub const HOLDER_ENTRIES_MAX: u64 = 16 * 1024 * 1024;
/// Addresses of peers whose dialling has no result yet. Above it, a new peer is not dialled, and its source address counts
/// without a result.
pub const DIALS_OUTSTANDING_MAX: usize = 1_024;
/// Reports of completed downloads that a seeder counts.
pub const COMPLETION_REPORTS_MAX: usize = 65_536;
/// Reports of completed downloads from one source address that a seeder counts.
pub const COMPLETION_REPORTS_PER_IP_MAX: usize = 4_096;
/// Chunks without an agreed hash that one report to the members of a set names.
pub const REPORTED_CHUNKS_MAX: usize = 8;
/// Members with different claims that a report names for each chunk.
pub const REPORTED_NAMES_MAX: usize = 4;
/// Other sets of the same name that the response to a joining member lists.
pub const OTHER_COUNTS_MAX: usize = 8;
/// Chunks in the state of a set, which fits in a frame.
pub const STATUS_CHUNKS_MAX: usize = 20;
/// Clients in the state of a set.
pub const STATUS_MEMBERS_MAX: usize = 50;
/// Claims in the state of a chunk.
pub const STATUS_CLAIMS_MAX: usize = 4;
/// Clients that are named for a claim, and as holders of a chunk, in the state of a set.
pub const STATUS_NAMES_MAX: usize = 4;
/// Chunk sets joined by one peer.
pub const SETS_PER_PEER_MAX: usize = 64;
/// Holders in one response over TCP.
pub const HOLDERS_MAX: usize = 512;
/// Peers of one source address that a lookup names before the other peers of the address.
///
/// So a host with thousands of peers does not take the places of others.
pub const FRONT_PEERS_MAX: u32 = 8;
/// Files of one peer that move to another place in the order of naming when the tracker reaches it, or no longer does.
pub const RERANKED_FILES_MAX: usize = 4_096;
/// Files in the response to one lookup by name.
pub const FOUND_FILES_MAX: usize = 64;
/// Files in the list of all files of a tracker.
pub const LISTED_FILES_MAX: usize = 65_536;
/// Complete holders, and partial holders, of each file in the list of all files.
pub const LISTED_HOLDERS_MAX: usize = 3;
/// Requests of one connection that a tracker or manager reads ahead of processing them.
pub const CONNECTION_REQUESTS_MAX: usize = 32;
/// Messages queued for one connection, at most; a peer that does not read them is disconnected.
pub const OUTBOX_MESSAGES_MAX: usize = 4_096;
/// Bytes queued for one connection, at most; a peer that does not read them is disconnected.
///
/// A message of any size is accepted while the queue is below the limit.
pub const OUTBOX_BYTES: usize = 64 * 1024 * 1024;
/// Default bytes of responses that wait for their readers, over all connections of a program, unless its memory is small.
pub const IN_FLIGHT_BYTES: u64 = 1024 * 1024 * 1024;
/// Peer lists queued by a manager for one connection before it disconnects the peer.
///
/// Small, because each list replaces the one before it.
pub const OUTBOX_LISTS_MAX: usize = 64;
/// Interval of the limit on log lines that other hosts cause.
pub const LINE_INTERVAL: Duration = Duration::from_secs(60);
/// Log lines of one kind that one source address may cause in each [`LINE_INTERVAL`].
///
/// Enough for the peers of a large room behind one gateway; about 100 kB.
pub const LINES_PER_INTERVAL_MAX: u32 = 500;
/// Source addresses and kinds whose log lines are limited separately.
pub const LINE_SOURCES_MAX: usize = 4_096;
/// Warnings that a tracker causes at a volunteer in one session; further ones are debug lines.
pub const SESSION_LINES_MAX: u32 = 100;
/// Lines in the history of the interactive prompt.
pub const HISTORY_MAX: usize = 1_000;

// Replication on volunteers

/// Default number of replicas of each chunk on volunteers.
pub const REPLICA_COUNT: usize = 2;
/// Default number of returned copies of a chunk that are kept above the wanted ones, while there is space.
pub const RETURNED_REPLICAS_MAX: usize = 2;
/// Default time after which the copies of a volunteer that is away without announcement are replaced.
pub const REPAIR_DELAY: Duration = Duration::from_secs(600);
/// Live volunteers required before files are replicated.
pub const VOLUNTEERS_MIN: usize = 3;
/// Copies in flight to one volunteer, and from one volunteer.
pub const COPY_WINDOW_MAX: u32 = 8;
/// Bytes of copies in flight to one volunteer, and from one volunteer; one copy is always allowed.
pub const COPY_WINDOW_BYTES: u64 = 64 * 1024 * 1024;
/// Timeout of a copy, in addition to the transfer time of the chunk at [`COPY_RATE_MIN`].
pub const COPY_TIMEOUT: Duration = Duration::from_secs(30);
/// Slowest accepted rate of a copy, bytes per second.
pub const COPY_RATE_MIN: u64 = 16 * 1024;
/// Pause before the next copy to a volunteer that failed to store a chunk.
pub const DISK_RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// Interval between two challenges of the holders of a chunk.
pub const CHALLENGE_INTERVAL: Duration = Duration::from_secs(10);
/// Possession proofs in flight.
pub const PROOFS_IN_FLIGHT_MAX: usize = 16;
/// Time for which a stored copy counts although its proof cannot be had.
pub const PROOF_PATIENCE: Duration = Duration::from_secs(60);
/// Largest age of the proofs that justify the drop of a surplus copy.
pub const PROOF_AGE_MAX: Duration = Duration::from_secs(60);
/// Longest time for which the proof of a stored copy waits for the end of other copies.
pub const PROOF_DELAY_MAX: Duration = Duration::from_secs(10);
/// First pause before another proof of a volunteer whose proof was wrong or could not be had.
pub const PROOF_RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest of these pauses.
pub const PROOF_RETRY_MAX: Duration = Duration::from_secs(300);
/// Time after which a proof that has no outcome counts as one that could not be had.
pub const PROOF_TASK_TIMEOUT: Duration = Duration::from_secs(300);
/// Drop orders in flight to one volunteer.
pub const DROPS_IN_FLIGHT_MAX: usize = 64;
/// Drop orders in flight to the tracker's own chunk store.
pub const OWN_DROPS_IN_FLIGHT_MAX: usize = 4;
/// Time after which a drop order without an answer no longer counts as in flight.
pub const DROP_TIMEOUT: Duration = Duration::from_secs(60);
/// Shortest time between the disconnection of a volunteer and the replacement of its copies.
pub const REPAIR_DELAY_MIN: Duration = Duration::from_secs(10);
/// Time within which a volunteer that has connected must report its chunks.
pub const REPORT_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest absence that a volunteer can announce.
pub const ABSENCE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Volunteer records of a tracker.
pub const VOLUNTEER_RECORDS_MAX: usize = 16_384;
/// Volunteer records for one source address that are always accepted.
pub const ADDRESS_RECORDS_MIN: usize = 64;
/// Time after which the record of a volunteer that has not returned is removed.
pub const VOLUNTEER_RECORD_EXPIRY: Duration = Duration::from_secs(30 * 24 * 3600);
/// First pause before the manifest of an unknown file is requested from the same volunteers again.
pub const ADOPTION_RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest of these pauses.
pub const ADOPTION_RETRY_MAX: Duration = Duration::from_secs(300);
/// Unknown files of volunteers that a tracker with `--rebuild` adds at the same time.
///
/// Of this number, and of the next but one, a volunteer gets at most half of what the others leave free.
pub const ADOPTIONS_MAX: usize = 256 * 1024;
/// Volunteers that have reported one such file.
pub const ADOPTION_REPORTERS_MAX: usize = 64;
/// Chunks in the reports on such files, of all files together.
pub const ADOPTION_CHUNKS_MAX: usize = 16 * 1024 * 1024;
/// Unknown files of volunteers that a tracker without `--rebuild` names in its log.
pub const UNKNOWN_FILES_NAMED_MAX: usize = 1_024;
/// Drop orders and deletions in the status of a tracker.
pub const STATUS_DROPS_MAX: usize = 100;
/// First pause before the next copy to a tracker whose disk is full.
pub const TRACKER_SPACE_RETRY_MIN: Duration = Duration::from_secs(60);
/// Longest of these pauses.
pub const TRACKER_SPACE_RETRY_MAX: Duration = Duration::from_secs(3600);
/// Longest delay before a change of the replication ledger is written to the catalogue.
///
/// Changes that a request waits for are written at once.
pub const RECORD_INTERVAL: Duration = Duration::from_millis(100);
/// Writes pending at the catalogue; at this number, further changes are gathered into one write.
pub const PENDING_RECORDS_MAX: u64 = 4;
/// Writes combined into one transaction of the catalogue.
pub const TRANSACTION_RECORDS_MAX: usize = 256;
/// Read cache of a catalogue, bytes.
pub const CATALOGUE_CACHE_BYTES: usize = 16 * 1024 * 1024;
/// Free disk space required to grow a catalogue, bytes; stated in the error of a full disk.
pub const CATALOGUE_GROWTH_BYTES: u64 = 4 * 1024 * 1024;
/// Concurrent tasks of a tracker that need another host.
pub const EXECUTOR_REMOTE_MAX: usize = 4;
/// Concurrent tasks of a tracker that let the holders of a chunk prove their copies.
pub const EXECUTOR_PROOF_MAX: usize = 8;
/// Holders of one chunk that a tracker asks for their proofs at the same time.
pub const PROOF_HOLDERS_MAX: usize = 8;
/// Memory of a tracker for chunks that proofs are compared with, bytes.
pub const PROOF_MEMORY_BYTES: u64 = 64 * 1024 * 1024;
/// Timeout of a volunteer's response to a demand for a proof, and of the handshake before it.
pub const PROOF_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before the next demand for a proof to an address that stalled.
///
/// Meanwhile the proof cannot be had at once, so that one stalled holder does not delay the proofs of others.
pub const PROOF_RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Concurrent tasks of a tracker that need only its own disk.
pub const EXECUTOR_LOCAL_MAX: usize = 2;
/// Chunks in one `drop` order, so that it fits in a frame.
pub const DROP_MAX: usize = 4_096;
/// Files in one status response.
pub const STATUS_FILES_MAX: usize = 1_000;
/// Peers in one answer to the command `peers`.
pub const PEERS_LISTED_MAX: usize = 1_000;
/// Number of `verify` commands that run at the same time.
pub const VERIFICATIONS_MAX: usize = 4;
/// Fewest digits of a prefix of a file id.
pub const ID_PREFIX_MIN: usize = 8;
/// Fewest digits of a prefix of a key print.
pub const KEY_PREFIX_MIN: usize = 4;
/// Connections to the control socket of a tracker that are served at the same time.
pub const CONTROL_CONNECTIONS_MAX: usize = 16;
/// Maximum time from a connection to the control socket to its whole command.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);

// Volunteers

/// Share of the disk size that a volunteer or tracker leaves free, per cent.
pub const DISK_RESERVE_PERCENT: u64 = 5;
/// Folder of the replicas inside the folder of a volunteer; hidden, so that it is never shared.
pub const VOLUNTEER_FOLDER: &str = ".volunteer";
/// Chunks in one message of a volunteer.
pub const NAMED_CHUNKS_MAX: usize = 4_096;
/// Chunks that a volunteer hashes for proofs at the same time.
pub const PROOFS_MAX: usize = 2;
/// Time that a demand for a proof waits for others before it is refused as `busy`.
pub const PROOF_WAIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Concurrent copies of a volunteer.
pub const COPY_WORKERS_MAX: usize = 8;
/// Orders of each kind queued at a volunteer; further orders are refused.
pub const ORDERS_MAX: usize = 4_096;
/// Idle time after which a volunteer closes its connection to a source of copies.
pub const SOURCE_IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Idle connections to sources of copies kept open by a volunteer.
pub const IDLE_SOURCES_MAX: usize = 32;
/// Pause before the next copy from a source that was unreachable or stalled.
///
/// Other copies from this source fail at once instead of waiting for the same timeout.
pub const SOURCE_RETRY_INTERVAL: Duration = Duration::from_secs(3);
/// Pause after hashing a stored chunk, as a multiple of the hashing time.
///
/// It leaves disk and processor free while a restarted volunteer verifies its replicas.
pub const CHECK_PAUSE_FACTOR: u32 = 3;
/// Interval between two log lines of a volunteer that summarise stored and dropped chunks.
pub const SUMMARY_INTERVAL: Duration = Duration::from_secs(5);
/// Interval at which a volunteer checks that its store is still at its path.
pub const STORE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest absence that a volunteer can announce.
pub const AWAY_MIN: Duration = Duration::from_secs(1);
/// Longest absence that a volunteer can announce.
pub const AWAY_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Time that a leaving volunteer waits for the tracker to acknowledge it.
pub const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

// Connections

/// Default idle timeout of a connection, and timeout of a whole request.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Default timeout of one read or write inside a message.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of a TCP connect.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of the resolution of a name.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Default timeout of the handshake on a new connection.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle time after which a connection is closed for a new one, if all connection slots are in use.
///
/// Longer than [`KEEP_ALIVE_INTERVAL`], so that a live peer is never evicted.
pub const EVICTION_IDLE_MIN: Duration = Duration::from_secs(35);
/// Grace period in which a new connection without a request is not closed for another one.
///
/// Until it ends, the next connection waits for a slot.
pub const EVICTION_GRACE_MIN: Duration = Duration::from_millis(250);
/// Interval between two keep-alives of a peer on an idle connection.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(25);
/// Connections that wait to be accepted; the operating system may allow fewer.
///
/// A connect beyond the backlog is retried by the system of the client, which takes seconds.
pub const LISTEN_BACKLOG: i32 = 4_096;
/// Concurrent connections of a server.
pub const CONNECTIONS_MAX: usize = 1_024;
/// Requests of one connection that a server reads ahead of answering them.
pub const SERVE_QUEUE_MAX: usize = 16;
/// Time that a request waits for an upload slot before it is refused as busy.
///
/// Shorter than the stall timeout of the peer that waits for its response.
pub const UPLOAD_SLOT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which a transfer whose receiver takes nothing does not use an upload slot any more.
pub const SLOT_STALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval between two log lines about read errors of one file.
pub const READ_ERROR_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Timeout of the first attempt of a datagram request; doubled at each attempt.
pub const DATAGRAM_TIMEOUT: Duration = Duration::from_millis(400);
/// Time without a response after which UDP counts as blocked, and requests go over TCP.
pub const UDP_BLOCKED_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which UDP is tried again while it is blocked.
pub const UDP_RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// Attempts of a datagram request.
pub const DATAGRAM_ATTEMPTS_MAX: u32 = 4;
/// First retry interval of the exponential backoff, doubled up to [`RETRY_MAX`].
pub const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest retry interval of the exponential backoff.
pub const RETRY_MAX: Duration = Duration::from_secs(5);
/// Stack of a thread, bytes.
pub const STACK_BYTES: usize = 256 * 1024;

// Downloads

/// Interval between two lookups of a download that has a live holder.
pub const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);
/// Interval between two lookups of a download without a live holder.
pub const URGENT_LOOKUP_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout of each step when a tracker or manager dials the address of a peer.
pub const DIAL_BACK_TIMEOUT: Duration = Duration::from_secs(3);

/// Time without received data after which a leecher gives up.
pub const LEECHER_TIMEOUT: Duration = Duration::from_secs(90);
/// Shortest of the longest stays of a leecher that has completed its download.
pub const LINGER_MIN: Duration = Duration::from_secs(2);
/// Longest of them.
pub const LINGER_MAX: Duration = Duration::from_secs(60);
/// A leecher that has completed its download stays at most for the download time divided by this.
pub const LINGER_DIVISOR: u32 = 10;
/// Grace period for further answers to a query of all peers, once one peer offers the file.
///
/// Measured from the start of the query.
pub const ANSWER_GRACE_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of a query to all peers for the holders of a file.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Concurrent sources of a download.
pub const SOURCES_MAX: usize = 64;
/// Concurrent sources of a download that [`RECEIVE_MEMORY_BYTES`] never reduces.
pub const SOURCES_MIN: usize = 4;
/// Memory for chunks being received, bytes; large chunks reduce the number of sources.
pub const RECEIVE_MEMORY_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of a chunk in one read of a download with a limit.
///
/// Also the rate of one source, bytes per second, below which a limited download uses fewer sources.
pub const LIMITED_PART_BYTES: usize = 16 * 1024;
/// Requests in flight to one source, at least.
///
/// With two, the source always has the next request when it has sent a chunk.
pub const PIPELINE_MIN: usize = 2;
/// Requests in flight to a fast source with a short RTT, for each chunk that the verifier hashes at once.
///
/// Enough for two batches in the verifier and one on the way.
pub const PIPELINE_BATCHES_MAX: usize = 3;
/// Chunk time in flight to a fast source with a short RTT, up to [`PIPELINE_SMALL_BATCHES_MAX`] batches: small chunks
/// arrive faster than the threads that request more of them take turns.
pub const PIPELINE_FAST_TIME: Duration = Duration::from_millis(8);
/// Requests for small chunks in flight to a fast source, for each chunk that the verifier hashes at once.
pub const PIPELINE_SMALL_BATCHES_MAX: usize = 8;
/// Requests in flight to a fast source, at least, when the missing chunks are shared between the sources.
pub const PIPELINE_SHARE_MIN: usize = 12;
/// Chunk time in flight to a source with a short RTT whose chunks take longer than [`VERIFY_PAUSE_MAX`], for each chunk
/// that the verifier hashes at once: the source gets as many requests as it answers in this time.
pub const PIPELINE_BATCH_TIME_MAX: Duration = Duration::from_micros(1_250);
/// Requests in flight to a source with a long RTT: up to the number that it answers in two RTTs.
pub const PIPELINE_LONG_RTT_MAX: usize = 16;
/// Window of a download to a stream, bytes: chunks behind it are not requested yet.
///
/// They wait in memory for their turn. Enough for a link of 1 Gbit/s with an RTT of 0.25 s.
pub const STREAM_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// Chunks in the window of a download to a stream, at least, also if they exceed [`STREAM_WINDOW_BYTES`].
pub const STREAM_CHUNKS_MIN: u32 = 2;
/// Concurrent requests for the same chunk in the endgame.
pub const ENDGAME_COPIES_MAX: usize = 3;
/// `coming` messages sent to a subscriber that has not requested a chunk since the first of them.
///
/// After that it gets only batches of complete chunks (`got`), until it requests a chunk of the file.
pub const UNREQUESTED_ARRIVALS_MAX: u32 = 16;
/// Shortest interval between two `got` messages to a subscriber.
pub const GOT_INTERVAL: Duration = Duration::from_millis(100);
/// Known addresses of possible sources of a download.
pub const CANDIDATES_MAX: usize = 4_096;
/// Ranges of chunks in one `next` message, so that it fits in a frame.
pub const NEXT_RANGES_MAX: usize = 2_048;
/// Peers in one `peers` message: earlier subscribers of the same file.
pub const NAMED_PEERS_MAX: usize = 64;

// Hashing and storage

/// Workers up to which those of one download exceed its sources, to use all cores.
pub const VERIFY_WORKERS_MAX: usize = 8;
/// Longest time that a received chunk waits for others, to be verified in one batch.
pub const VERIFY_BATCH_TIMEOUT: Duration = Duration::from_millis(20);
/// Pause of a source after which a received chunk does not wait for others; also the chunk time below which a source is
/// fast, so that its chunks are verified in batches.
pub const VERIFY_PAUSE_MAX: Duration = Duration::from_millis(2);
/// Rate from which a source is fast whatever its chunk time, bytes per second: a core verifies and stores at about four
/// times this rate.
pub const VERIFY_FAST_RATE: u64 = 256 * 1024 * 1024;
/// Memory for the batches of chunks of one download, bytes. Without it each chunk is verified alone.
pub const VERIFY_MEMORY_BYTES: usize = 16 * 1024 * 1024;
/// Chunks that are verified together, at least: fewer would take as long together as one by one.
pub const VERIFY_BATCH_CHUNKS_MIN: usize = 3;
/// Bytes of the chunks that one thread verifies together: 16 of the default size.
pub const VERIFY_BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Chunks hashed when an existing file is verified by a sample.
pub const VERIFY_SAMPLE_COUNT: usize = 32;
/// Memory for chunks hashed in parallel on all cores, when a file is published or verified, bytes.
pub const HASH_MEMORY_BYTES: usize = 64 * 1024 * 1024;
/// A scan of a shared folder is repeated after this multiple of its duration at the earliest, which limits its share of the
/// processor.
pub const FOLDER_SCAN_PAUSE_FACTOR: u32 = 4;
/// Shortest interval between two scans of a shared folder.
pub const FOLDER_SCAN_INTERVAL: Duration = Duration::from_secs(1);
/// Age of the last write at which the first scan of a shared folder takes a file as complete.
///
/// A file written more recently is hashed only if the next scan finds it unchanged.
pub const FILE_SETTLED_MIN: Duration = Duration::from_secs(2);
/// Interval between two writes of the resume file; a `kill -9` loses at most this much progress.
pub const RESUME_FILE_INTERVAL: Duration = Duration::from_millis(500);
/// Interval between two fsyncs of a download; a power failure loses at most this much progress.
pub const FSYNC_INTERVAL: Duration = Duration::from_secs(10);
