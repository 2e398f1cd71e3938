//! Peer-to-peer file distribution: a file is cut into chunks, whoever has a chunk serves it, and every byte is
//! checked before it counts. This page is the architecture; `README.md` tells how to use the programs.
//!
//! # The layers
//!
//! A module imports only from layers below its own, and modules do not import each other in a cycle. From the top:
//!
//! | layer | subject | what it never does |
//! |---|---|---|
//! | `bin/` | flags become a config, a role runs, its end becomes an exit code | anything else |
//! | [`cli`] | flags, log lines, progress bars, prompts, exit codes, Ctrl-C | know how a role works inside |
//! | [`roles`] | the code of each program: tracker, manager, seeder, leecher, clients with a chunk folder or a plain folder | read flags, draw on a terminal |
//! | [`tracker`] | server (sockets around the pure state machine), executor (disk and host tasks), store (the catalogue) | decide where replicas are stored |
//! | [`volunteer`] | disk space that is offered to a tracker | decide what to store |
//! | [`download`] | job, driver, scheduler, source connections, verifier, finder of holders | serve |
//! | [`tracker_client`] | announcer (UDP), session (TCP), lookup | transfer chunks |
//! | [`upload`] | server, offered files, subscribers, relay of partial chunks, rate limit | decide what to download |
//! | [`report`] | errors of roles, watch of progress, commands to type next | open a socket or a file |
//! | [`net`] | sockets and threads: listener, link, datagrams, shutdown | know the messages that it carries |
//! | [`storage`] | bytes on disk: complete files, part files with their resume file, folders, replica store | open a socket, decide what to fetch |
//! | [`swarm`] | decisions: registry, agreement, picker, replication | name a socket, a file, a thread or a clock |
//! | [`protocol`] | frames, datagrams and messages | wait, or touch a socket |
//! | [`content`] | chunk arithmetic, digests, manifests, names, and every limit and default | depend on anything above |
//!
//! The three lowest layers are pure. The time and the source of randomness are arguments there, so a test of
//! [`swarm`] reads like a timetable. Everything is synchronous: blocking sockets, a thread for each connection,
//! bounded channels between threads.
//!
//! # The threads of each program
//!
//! Every daemon has one thread that owns its state. It takes events from bounded channels and never waits for a
//! socket or a disk. Chunk bytes do not pass through it.
//!
//! - **tracker** ([`roles::tracker`]) and **manager** ([`roles::manager`]): both are a [`tracker::server`] around a
//!   pure [`swarm::machine::Machine`], which is a [`swarm::tracker::Tracker`] or a [`swarm::manager::Manager`]. `state`
//!   has it decide. `datagrams` receives, proves sources, and asks it itself when it is free: this one state has a lock,
//!   because handing each datagram over took longer than answering it. `link-accept` takes connections; each has a
//!   `link` that reads and a `link-out` that writes.
//! - **tracker that keeps files**, besides: its machine holds a [`swarm::replication::Placement`], and what that wants done with a
//!   disk or another host goes as a [`swarm::keeping::ExecutorTask`] to its hands ([`tracker::executor`]) and comes back as
//!   [`swarm::keeping::TaskOutcome`]. There `keeper` hands out tasks to `keep-distant` (four that fetch from volunteers) and
//!   `keep-local` (two for its own disk), `record` alone writes the catalogue, `publish` looks at the folder of files, `check` hashes
//!   chunks that were here before the start, and `spoiled` tells of those that turn out wrong. It serves like any peer.
//! - **whoever serves** ([`upload::server`]): `serve-accept`, and for each connection a `serve` that reads requests
//!   and a `serve-out` that answers them in order, chunks by `sendfile(2)`.
//! - **seeder** ([`roles::seeder`]): hashes on all cores, then serves. `announce` ([`tracker_client::announcer`]) registers,
//!   announces and sends heartbeats by datagram.
//! - **leecher** ([`roles::leecher`], [`download::job`], [`download::driver`]): the state thread is the caller's own and owns a
//!   [`download::scheduler::DownloadScheduler`]. Each source has a `fetch` that reads, checks and stores, and a `fetch-ask` that sends
//!   requests. `find` asks for more holders ([`download::finder`]), `keep-map` writes the have-map. With `--stay` it serves and
//!   announces as a seeder does.
//! - **client with a chunk folder** ([`roles::chunk_client`]): the same [`DownloadScheduler`](download::scheduler::DownloadScheduler), fed by a `tracker-session` that keeps
//!   up one connection (with a `tracker-ask` that writes to it and a `heartbeat`); it serves too.
//! - **client with a plain folder** ([`roles::folder_client`]): `member` takes in the manager's lists (over the same
//!   `tracker-session`), `folder` looks at the folder and hashes what is new, and each `get` is a `transfer`, the same as
//!   a leecher's, that asks all peers, a tracker, or both.
//! - **volunteer** ([`volunteer`]), beside a member with a tracker: `volunteer` takes in what the tracker orders over
//!   a `tracker-session` and says what has come of it; eight `volunteer-copy` fetch chunks, verify and store them;
//!   `volunteer-chores` drops chunks and proves that they are here; `volunteer-check` hashes what was kept before.
//! - **prompt** ([`cli::prompt`] of a client, [`cli::tracker_prompt`] of a tracker): the caller's thread waits for lines and for the shutdown. `prompt-line` reads,
//!   `prompt-print` shows what others print above the line, `prompt-ask` asks the swarm. A reader that waits for a key
//!   is woken by a signal that this process sends itself; where the line editor does not take a terminal, that one thread
//!   is not joined and ends with the process.
//!
//! Threads are spawned by [`net::Threads`] alone, have names, and are joined; a program that ends and has not joined one
//! says so, and no test takes that. [`net::Shutdown`] wakes whatever any of them waits for.
//!
//! # A download, step by step
//!
//! 1. The leecher asks the tracker for a name or an id ([`tracker_client::lookup`]): a datagram, sent again with the cookie
//!    that comes back; a connection when the answer does not fit. The answer is a file id and addresses of holders.
//! 2. It fetches the manifest from any holder and checks it against the id ([`content::Manifest`]). From here on it
//!    needs to trust nobody.
//! 3. [`storage::PartFile`] opens a hidden file beside the target. What an earlier run's have-map vouches for is
//!    there and is not hashed again.
//! 4. Each holder gets a connection. It tells which chunks it has, and later which ones it gets.
//! 5. [`swarm::picker::Picker`] decides what to ask of whom: the rarest first, each chunk of one source at a time; at
//!    the end, what is late is asked of others as well. Where one peer has what all the others want, it keeps a line of
//!    them, or trees when they are many ([`swarm::trees`]), and each asks the one ahead of it, as long as that one keeps up.
//! 6. A chunk arrives in the source's thread, is hashed, compared with the manifest, and only then stored and
//!    announced to whoever asked this peer. A wrong one ends that source for good; what it still owed is asked
//!    elsewhere.
//! 7. When all are there the part file gets its name by a rename.
//!
//! A chunk folder differs in three things. The digests come from agreement ([`swarm::agreement`]): what a quorum of
//! clients claims alike. The holders are told by the tracker, chunk by chunk. What arrives becomes a file of its own and
//! a line in `local_chunks.txt` ([`storage::ChunkFolder`]). A set whose chunks are all agreed upon gets a manifest,
//! and from then on is a file like any other.
//!
//! # A chunk's life at volunteers, step by step
//!
//! 1. The tracker's `publish` hashes a file of its folder, writes the manifest into the catalogue
//!    ([`tracker::store`]), puts the file on the shelf and reports it. Nothing is promised before that is durable.
//! 2. A volunteer registers, says what it lends and, chunk by chunk, what it holds ([`protocol::volunteer`]). It is known by
//!    a key of its own, not by its name or address.
//! 3. When enough of them are here, [`swarm::replication`] picks two for each chunk, by free space and load, on different addresses
//!    where there are any, and tells each: copy this chunk from there.
//! 4. The volunteer fetches the chunk as any peer does, checks it against the manifest (fetched once by the file's id), and
//!    stores it ([`storage::replica_store`]). When file and folder are on the disk it says `stored`: the copy is
//!    verified, the catalogue learns of it, and the registry names this holder to whoever asks for the file.
//! 5. With `--offload`, when each chunk has its verified copies and the catalogue says so durably, the tracker deletes its own. The
//!    manifest stays on its shelf.
//! 6. Random ranges are challenged, hashed with a nonce. Where answers differ, the tracker fetches the suspect's chunk itself and
//!    hashes it; a bad copy is dropped and made again elsewhere.
//! 7. A connection that ends makes a volunteer *away*; the end of its lease makes it *gone*. Its copies count no more. Chunks
//!    that are short are copied as in 3, from a volunteer that has them, those with the fewest copies first. Where nobody has room they
//!    come back to the tracker's own store.
//! 8. A volunteer that comes back reports what it has. That counts for repair at once, and as verified when it has been
//!    hashed again; above the wanted number of verified copies one is dropped.
//! 9. A volunteer that is drained does not count, so its chunks are copied as in 7; it may leave when nothing depends on it.
//!
//! # Invariants
//!
//! - No byte from outside counts or is announced as here before it was verified here against a digest that did not come with
//!   it. A chunk that is arriving may be passed on as it comes ([`upload::relay`]), but for its last bytes: nobody gets all
//!   of a chunk that has not been verified.
//! - A file appears under its name only when it is complete.
//! - A have-map never names a chunk whose bytes are not there; the durable one never names one that is not on the disk.
//! - A peer whose lease has ended is in no answer.
//! - A name from outside is a [`content::FileName`] or a [`content::PeerName`] before anything is done with it.
//! - A datagram from a source that has not been proven is never answered with more bytes than it had.
//! - Of a chunk that is kept there is a durable copy at every instant; what is not known is not dropped.
//! - A catalogue is read as a whole or not at all.
//! - Every wait has a deadline or is woken by the shutdown; every queue and every message has a limit.
//!
//! # Where to look
//!
//! | for | see |
//! |---|---|
//! | a number: port, limit, time-out | [`content::limits`] |
//! | what is said on the wire | [`protocol::tracker`], [`protocol::peer`], [`protocol::datagram`], [`protocol::frame`] |
//! | how ids are computed | [`content::Manifest::id`] |
//! | who counts as alive, who is named | [`swarm::registry`] |
//! | which hash is the right one | [`swarm::agreement`] |
//! | what is asked of whom | [`swarm::picker`], [`swarm::trees`], [`swarm::fresh`] |
//! | who keeps a copy, what is repaired first | [`swarm::replication`] |
//! | what a tracker does with its own disk | [`tracker::executor`] |
//! | what survives a crash | [`storage::part`], [`storage::chunk_folder`], [`storage::replica_store`], [`tracker::store`] |
//! | which exit code | [`cli::exit`] |
//! | all of it at work | `examples/demo` |
#![forbid(unsafe_code)]

pub mod cli;
pub mod content;
pub mod download;
pub mod net;
pub mod protocol;
pub mod report;
pub mod roles;
pub mod storage;
pub mod swarm;
pub mod tracker;
pub mod tracker_client;
pub mod upload;
pub mod volunteer;
