//! Peer-to-peer file distribution. A file is divided into chunks; each peer that has a chunk serves it; each byte is
//! verified with SHA-256 before it is stored. This page is the architecture. `README.md` and `docs/` describe the programs.
//!
//! # The layers
//!
//! A module imports only from layers below its own, and modules do not import each other in a cycle. From the top:
//!
//! | layer | subject | it never does this |
//! |---|---|---|
//! | `bin/` | flags become a config, a role runs, its end becomes an exit code | anything else |
//! | [`cli`] | flags, log lines, progress bars, prompts, exit codes, Ctrl-C | know how a role works inside |
//! | [`roles`] | the code of each program: tracker, manager, seeder, leecher, clients with a chunk folder or a plain folder | read flags, draw on a terminal |
//! | [`tracker`] | server (sockets around the pure state machine), executor (disk and host tasks), store (the catalogue) | decide where replicas are stored |
//! | [`volunteer`] | disk space that is offered to a tracker | decide which chunks to store |
//! | [`download`] | job, driver, scheduler, source connections, workers that verify, finders of holders, report of a completed download | serve |
//! | [`tracker_client`] | announcer (UDP), session (TCP), lookup, selection of files, tickets | transfer chunks |
//! | [`discovery`] | search for files, trackers and managers in the local network | connect to what was found |
//! | [`upload`] | server, offered files, subscribers, relay of partial chunks, rate limit | decide which chunks to download |
//! | [`report`] | errors of roles, watch of progress, commands to type next | open a socket or a file |
//! | [`net`] | sockets and threads: listener, framed stream, UDP client, shutdown | know the messages that it carries |
//! | [`storage`] | bytes on disk: complete files, part files with their resume file, devices, streams, folders, replica store | open a socket, decide which chunks to download |
//! | [`sync`] | locks that ignore poisoning, a clock that excludes pauses of the process | anything else |
//! | [`swarm`] | decisions: registry, agreement, picker, replication | name a socket, a file, a thread or a clock |
//! | [`protocol`] | frames, datagrams and messages | wait, or touch a socket |
//! | [`content`] | chunk arithmetic, digests, manifests, names, and every limit and default | depend on anything above |
//!
//! The three lowest layers are pure: time and random numbers are arguments. The same decisions run in the programs, in
//! unit tests with a table of times, in a simulator with thousands of peers (`tools/simulate`) and under a fuzzer. I/O is
//! synchronous: blocking sockets, one thread for each connection, bounded channels between threads.
//!
//! # The threads of each program
//!
//! Each program has one thread that owns its state. It receives events from bounded channels and never blocks on a socket
//! or a disk. The bytes of chunks do not pass through it.
//!
//! - **Tracker** ([`roles::tracker`]) and **manager** ([`roles::manager`]): each is a [`tracker::server`] around a pure
//!   [`swarm::machine::Machine`], either [`swarm::tracker::Tracker`] or [`swarm::manager::Manager`]. Thread `state` runs
//!   the machine. `datagrams` receives requests and validates source addresses; while the machine is idle it calls the
//!   machine directly under a lock, which is faster than a channel. `link-accept` accepts connections; each connection has
//!   a `link` that reads and a `link-out` that writes.
//! - **Tracker that keeps files**: its machine contains a [`swarm::replication::ReplicationPlanner`]. Tasks for a disk or another
//!   host leave the machine as a [`swarm::keeping::ExecutorTask`] for the [`tracker::executor`], and return as a
//!   [`swarm::keeping::TaskOutcome`]. Thread `executor` distributes tasks to `executor-remote` (four threads that
//!   download from volunteers), `executor-local` (two threads for the local disk), `executor-proof` (four threads that
//!   let holders prove their copies, each with an `executor-ask` for each of several holders) and `executor-recall` (brings
//!   a file back into the folder). `record` is the only writer of the
//!   catalogue, `publish` scans the folder of offered files, `check` hashes the chunks of an earlier run, and `damaged`
//!   reports damaged chunks. `control-accept` and a `control` thread for each connection receive commands of the owner
//!   ([`tracker::control`]).
//! - **Serving peer** ([`upload::server`]): `serve-accept`; for each connection, `serve` reads requests and `serve-out`
//!   answers them in order, chunks by `sendfile(2)`.
//! - **Seeder** ([`roles::seeder`]): hashes files and folders ([`storage::tree`]) on all cores, then serves. `announce` ([`tracker_client::announcer`])
//!   registers, announces the files and sends heartbeats, all by UDP. A seeder that gives tickets also runs the machine of a
//!   tracker on its port ([`tracker::server::SharedPortServer`]): its threads are those of a tracker, except that the upload
//!   server accepts the connections; it has a second `announce` for it. `find-tracker` looks for a tracker on this host. The
//!   connections record in [`upload::receivers`] which peers download; the caller's thread shows them.
//! - **Leecher** ([`roles::leecher`], [`download::job`], [`download::driver`]): downloads one file after another. The
//!   caller's thread owns the [`download::scheduler::DownloadScheduler`]. Each source brings a `fetch` thread that
//!   receives, verifies and stores batches of chunks, and a `fetch-ask` thread that sends requests; with fewer sources than
//!   cores, `verify` threads share the work of fast ones (`download/workers.rs`). `find` looks for more holders
//!   ([`download::finder`]); `resume-file` writes the resume file. If the destination is a stream, `stream-out` writes to it
//!   ([`storage::stream`]), and the leecher does not serve. Unless `--no-serve` is given, the leecher serves and announces
//!   all its files like a seeder until no peer downloads from it any more. For a ticket, an `ask-tracker` thread for each
//!   tracker looks up holders ([`download::ticket_finder`]). `report` tells seeders and trackers of a completed file
//!   ([`download::completion`]); `on-complete` runs the command of the user ([`roles::on_complete`]).
//! - **Discovery** ([`discovery`]): a `discover` thread for each address family answers the questions of other hosts. A
//!   leecher that searches does so on the caller's thread.
//! - **Client with a chunk folder** ([`roles::chunk_client`]): a
//!   [`DownloadScheduler`](download::scheduler::DownloadScheduler), fed by a `tracker-session` that keeps one connection to
//!   the tracker (`tracker-ask` writes to it, `heartbeat` sends datagrams). It serves, too.
//! - **Client with a plain folder** ([`roles::folder_client`]): `member` receives the manager's list of peers over a
//!   `tracker-session`, `folder` scans the folder and hashes new files and sub-folders, and each `get` is a `transfer`: the download of a
//!   leecher with the peers, a tracker or both as its sources.
//! - **Volunteer** ([`volunteer`]), beside a client with a plain folder: `volunteer` executes the tracker's orders, which
//!   arrive over a `tracker-session`, and reports the results. Eight `volunteer-copy` threads download, verify and store
//!   chunks; `volunteer-disk` drops chunks and hashes chunks again on order; `volunteer-check` hashes the chunks of an
//!   earlier run, and all chunks after one was found damaged. Proofs are hashed by the `serve-out` thread of the
//!   connection that demands them ([`upload::prover`]).
//! - **Prompt** ([`cli::prompt`] of a client, [`cli::tracker_prompt`] of a tracker, [`cli::manager_prompt`] of a manager):
//!   shown in the foreground only ([`cli::job_control`], thread `stop-signal`). The caller's thread waits for lines
//!   and for the shutdown. `prompt-line` reads (`prompt-input` from a pipe or file), `prompt-print` writes log lines above the input line, `prompt-ask` queries
//!   the swarm. A signal from this process to itself wakes a reader that waits for a key. Where the line editor does not
//!   control a terminal, that thread is not joined; it ends with the process.
//! - **Service** ([`cli::signals`]): without a terminal, thread `hangup` opens the log file again at SIGHUP.
//!
//! Only [`net::Threads`] spawns threads. Each has a name and is joined; a program that ends with a thread unjoined logs it,
//! and every test fails on this line. [`net::Shutdown`] wakes all waiting threads.
//!
//! # A download, step by step
//!
//! 1. The leecher looks up a name or an id at the tracker ([`tracker_client::lookup`], [`download::locate`]): a datagram,
//!    repeated with the
//!    cookie that the tracker returns; a TCP connection if the response does not fit. The response has the id of the file
//!    and the addresses of holders.
//! 2. It asks several holders for the manifest, more and more while none answers, and verifies the first one against the id
//!    ([`content::Manifest`]). From this point on it trusts no peer.
//! 3. [`storage::PartFile`] opens a hidden file beside the target; [`storage::TreePart`] a hidden folder, for a folder, of which
//!    the chunks of the index are downloaded and checked before those of the content. Chunks that the resume file of an earlier run marks as
//!    verified are neither downloaded nor hashed again. Other destinations ([`download::destination`]) are a block device,
//!    written in place, and a stream, for which only the chunks of a moving window are wanted, in order.
//! 4. It connects to the complete holders, and to few partial ones. A holder sends its bitfield, and later each chunk that
//!    it receives. A complete holder is the root of four rings of the downloading peers ([`swarm::rings`]): it tells each
//!    of them its predecessors, and sends each chunk once, to different peers.
//! 5. [`swarm::picker::Picker`] selects the next chunk and its source: rarest first, each chunk from one source at a time;
//!    in the endgame, late chunks are requested from a second source.
//! 6. The thread of the source receives a chunk, hashes it, compares the digest with the manifest, and only then stores it
//!    and announces it to subscribers. A source that sent a corrupt chunk is banned; its outstanding chunks are requested
//!    from other sources. It is told, and hashes the chunk again: its file may have changed unnoticed.
//! 7. When all chunks are stored, a rename gives the file its name.
//!
//! A chunk folder differs in three points. Its digests come from agreement ([`swarm::agreement`]): a quorum of clients
//! claims the same hash. The tracker names the holders of each chunk. Each chunk becomes a file and a line in
//! `local_chunks.txt` ([`storage::ChunkFolder`]). When all chunks of a set are agreed, the set gets a manifest and is a
//! file like any other.
//!
//! # A replica, step by step
//!
//! 1. The tracker's `publish` thread hashes a file of its folder, writes the manifest to the catalogue
//!    ([`tracker::store`]) and offers the file once the catalogue is durable.
//! 2. A volunteer registers, offers storage and reports the chunks that it has ([`protocol::volunteer`]). Its identity is a
//!    key, not its name or address.
//! 3. When enough volunteers are active, [`swarm::replication`] selects two for each chunk, by free space and load, on
//!    different addresses where possible, and orders each to copy the chunk from a holder.
//! 4. The volunteer downloads the chunk, verifies it against the manifest (downloaded once, by the id), and stores it
//!    ([`storage::replica_store`]). After fsync of file and folder it reports `stored`. The replica counts, the catalogue
//!    records it, and the registry names the volunteer as a holder. It justifies no deletion before it is proven.
//! 5. With `--offload`, the tracker deletes its own copy of a file when each chunk has its replicas proven at approved
//!    volunteers and the catalogue has recorded them durably. The tracker still offers the manifest.
//! 6. The tracker lets holders prove their copies. It verifies its own bytes of the chunk against the manifest, or else
//!    downloads the chunk from one holder and verifies it. Then it dials the address of each holder and receives
//!    SHA-256(key, nonce, chunk) over that connection. A holder that is busy, or is not at its address, has proven nothing,
//!    and nothing is wrong with it. After a wrong proof the volunteer is ordered to hash the chunk again.
//! 7. A volunteer whose connection ended is *away*, and its replicas count until `--repair-after` or the end of its
//!    announced absence; then it is *lost*. A chunk with one safe replica left is copied when the lease ends.
//!    Under-replicated chunks are copied as in step 3, fewest replicas first. If no volunteer has free space, a chunk is
//!    copied back to the tracker's store.
//! 8. A volunteer that returns reports its chunks. They are sources for repair at once, and justify deletions after their
//!    proof. Replicas above `--replicas-max`, or above the wanted number when space is short, are dropped if the wanted
//!    number of others was proven in the last 60 s.
//! 9. The replicas of a draining volunteer do not count, so they are copied as in step 7. It may leave when no chunk
//!    depends on it.
//! 10. The owner approves volunteers, recalls files and verifies replicas at the prompt or over a Unix socket
//!     ([`swarm::command`]).
//!
//! # Invariants
//!
//! - Received bytes count, and are announced, only after they have been verified against a digest from another source. A
//!   partial chunk may be relayed while it arrives ([`upload::relay`]), except its last bytes: no peer receives a complete
//!   chunk that its sender has not verified.
//! - A file or folder appears under its name only when it is complete. A stream and a block device receive only verified chunks.
//! - A bitfield never contains a chunk that is not stored; a durable resume file never contains a chunk that is not durable.
//! - A peer whose lease has ended is in no response.
//! - A name from the network is a [`content::FileName`] or a [`content::PeerName`] before it is used.
//! - A source address that is not validated never receives more bytes than it sent.
//! - The tracker orders no drop of a chunk that it does not know, and none that would leave a chunk without a replica that
//!   it believes to be durable.
//! - A catalogue is read as a whole or refused.
//! - Each wait has a deadline or is ended by the shutdown; each queue and each message has a limit.
//!
//! # Where to look
//!
//! | subject | module |
//! |---|---|
//! | a port, limit or timeout | [`content::limits`] |
//! | messages on the wire | [`protocol::tracker`], [`protocol::peer`], [`protocol::datagram`], [`protocol::frame`] |
//! | the id of a file | [`content::Manifest::id`] |
//! | tickets, and arguments that name files | [`tracker_client::ticket`], [`tracker_client::selection`] |
//! | live peers, the holders in a response | [`swarm::registry`] |
//! | the agreed hash of a chunk | [`swarm::agreement`] |
//! | the next chunk to request, and its source | [`swarm::picker`], [`swarm::rings`], [`swarm::super_seeding`] |
//! | the location of replicas, the order of repair | [`swarm::replication`] |
//! | commands of the owner of a tracker | [`swarm::command`], [`tracker::control`] |
//! | the tracker's own disk | [`tracker::executor`] |
//! | data that survives a crash | [`storage::part`], [`storage::chunk_folder`], [`storage::replica_store`], [`tracker::store`] |
//! | exit codes | [`cli::exit`] |
//! | events of `--json` | [`report::events`] (types), [`cli::json`] (output), `docs/json.md` |
//! | all programs together | `examples/demo` |
#![forbid(unsafe_code)]
// They panic if the output is closed or full; `cli::console` writes.
#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod cli;
pub mod content;
pub mod discovery;
pub mod download;
pub mod net;
pub mod protocol;
pub mod report;
pub mod roles;
pub mod storage;
pub mod swarm;
pub mod sync;
pub mod tracker;
pub mod tracker_client;
pub mod upload;
pub mod volunteer;
