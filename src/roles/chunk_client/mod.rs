//! Chunk client: claims the chunks of a folder, downloads missing ones, serves the others.
//!
//! The calling thread is the state thread. It owns the [`DownloadScheduler`] and the state of the chunk set;
//! the tracker session, the sources and the upload server run in threads that send it events. Invariants:
//! each held chunk was hashed by this client; a chunk is claimed only after its line is in
//! `local_chunks.txt`; a chunk that differs from the agreed hash is not served until it has been replaced; the
//! folder is complete only while it holds each chunk of the sealed set with the agreed hash.

mod agreed;
mod client;
mod completion;
mod dispute;
mod join;
mod lookup_retry;
mod own_chunks;
mod progress;
pub mod questions;
mod requests;
mod stall;
mod unreachable;

use crate::content::limits::CHUNK_SIZE;
use crate::content::{Bitfield, FileId, PeerName, SetName};
use crate::download::events::{Job, SourceEvent};
use crate::download::scheduler::DownloadScheduler;
use crate::net::{Endpoint, Listener, RateLimit, Shutdown, Threads};
use crate::protocol::tracker::SetKey;
use crate::report::LimitedLines;
use crate::report::error::RoleError;
use crate::report::events;
use crate::report::next_step;
use crate::report::watch::Watch;
use crate::storage::ChunkFolder;
use crate::storage::verify::VerifyCallbacks;
use crate::tracker_client::presence::{CHUNK_SET, Presence, PresenceConfig};
use crate::tracker_client::session::{self, SessionConfig, SessionEvent};
use crate::upload::offers::Offers;
use crate::upload::server::{ServeOptions, serve};
use agreed::{AgreedChunks, Committed, FolderSink};
use client::{Agreed, ChunkClient};
use crossbeam_channel::{Receiver, bounded};
use join::JoinTask;
use questions::{Asked, Questions};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Capacity of each event queue of the state thread.
const QUEUE: usize = 1_024;

/// Configuration of a client.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Folder with `local_chunks.txt`.
    pub folder: PathBuf,
    /// Listening address of the upload server.
    pub listen: SocketAddr,
    /// The listening address is a default and may be widened, see [`Presence`].
    pub widens: bool,
    /// Name of this client in logs and event lines.
    pub name: PeerName,
    /// Address of the tracker.
    pub tracker: Endpoint,
    /// Chunk set of the folder.
    pub set: SetName,
    /// Advertised address, if it differs from the source address that the tracker sees.
    pub advertise: Option<SocketAddr>,
    /// File that the chunks are joined into when the folder is complete.
    pub join: Option<PathBuf>,
    /// Whether to exit when the folder is complete.
    pub exit_when_complete: bool,
    /// Download limit of all sources together, bytes per second; 0 for no limit.
    pub download_limit: u64,
    /// Options of the upload server.
    pub serve: ServeOptions,
    /// Time without an answer of the tracker, or without data while a chunk is missing, after which to give up.
    pub timeout: Option<Duration>,
}

/// Channels to the state thread.
struct Inputs {
    /// Events of the session with the tracker.
    session: Receiver<SessionEvent>,
    /// Events of the sources.
    sources: Receiver<SourceEvent>,
    /// Results of commits to the folder, and of adoptions.
    committed: Receiver<Committed>,
    /// Questions of the prompt.
    asked: Receiver<Asked>,
}

/// Runs until the shutdown, or until the folder is complete with `exit_when_complete`, and answers the questions of a prompt.
///
/// # Errors
/// The folder is invalid, the port is in use, the timeout has passed, a chunk cannot be stored, or a different file is where
/// the chunks are to be joined.
pub fn run(
    config: ClientConfig,
    questions: Questions,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<(), RoleError> {
    let listener = Listener::bind(config.listen).map_err(RoleError::bind("-transfer_port PORT"))?;
    let folder = match open(&config, watch, shutdown) {
        Ok(folder) => Arc::new(folder),
        // Ctrl-C before the client serves is no error.
        Err(_) if shutdown.is_stopped() => return Ok(()),
        Err(error) => return Err(error),
    };
    let threads = Threads::new();
    let result = serve_and_download(&config, questions, listener, folder, watch, &threads, shutdown);
    shutdown.trigger();
    threads.join();
    result
}

fn open(config: &ClientConfig, watch: &dyn Watch, shutdown: &Shutdown) -> Result<ChunkFolder, RoleError> {
    let hashed = |bytes| watch.advance(bytes);
    let stop = || shutdown.is_stopped();
    let begin = |bytes| watch.begin(&format!("hashing {}", config.folder.display()), bytes, 0);
    let folder =
        ChunkFolder::open(&config.folder, VerifyCallbacks { begin: &begin, hashed: &hashed, stop: &stop });
    watch.end();
    Ok(folder?)
}

fn serve_and_download(
    config: &ClientConfig,
    Questions { asked, started }: Questions,
    listener: Listener,
    folder: Arc<ChunkFolder>,
    watch: &dyn Watch,
    threads: &Threads,
    shutdown: &Shutdown,
) -> Result<(), RoleError> {
    let address = listener.address();
    let set = SetKey { set: config.set.clone(), count: folder.count() };
    let key = FileId::of_set(&set.set, set.count);
    let offers = Offers::new();
    offers.put(key, folder.clone());
    let listening = serve(listener, offers.clone(), &config.serve, None, threads, shutdown)?;
    let presence = PresenceConfig {
        name: config.name.clone(),
        advertise: config.advertise,
        widens: config.widens,
        shared_files: None,
    };
    let presence = Presence::new(presence, listening, offers.registrations().clone());
    log::info!("{} listening on {address}", config.name);
    events::listening(address);
    let held = folder.held();
    log::info!("{} holds {} of {} chunks", folder.path().display(), held.len(), set.count);
    log::info!("{}", next_step::join_set(&config.set, &config.tracker));

    // The receiver may have ended, or there is no prompt.
    let _ = started.try_send(());
    let session = start_session(config, presence, threads, shutdown)?;
    let agreed = Arc::new(AgreedChunks::default());
    let (sink, adoptions, committed) = FolderSink::start(&folder, &agreed, threads)?;
    let (events, sources) = bounded(QUEUE);
    let job = Job {
        relay: None,
        download: 0,
        file: key,
        name: format!("set {}", set.set),
        count: set.count,
        // Raised by the tracker's answers.
        longest: CHUNK_SIZE.into(),
        large_chunk_bytes: AtomicU64::new(0),
        expected: agreed.clone(),
        sink: Arc::new(sink),
        port: None,
        site: None,
        subscribe: false,
        limit: RateLimit::from_flag(config.download_limit),
        timeouts: config.serve.timeouts,
        lines: LimitedLines::default(),
    };
    let mut have = Bitfield::none(set.count);
    held.iter().for_each(|chunk| _ = have.insert(chunk.index));
    let scheduler = DownloadScheduler::new(job, have, false, events, threads, shutdown);
    let join = JoinTask::new(config.join.clone(), threads.clone());
    let agreed = Agreed { chunks: agreed, adoptions };
    let mut client = ChunkClient::new(config, set, folder, offers, agreed, scheduler, join, watch);
    let result = client.run(&Inputs { session, sources, committed, asked }, shutdown);
    // Before `client` and its request queue are dropped: the session must see a shutdown, not a lost connection.
    shutdown.trigger();
    result
}

/// Starts the session with the tracker and returns its events.
fn start_session(
    config: &ClientConfig,
    presence: Presence,
    threads: &Threads,
    shutdown: &Shutdown,
) -> io::Result<Receiver<SessionEvent>> {
    let (sender, events) = bounded(QUEUE);
    let session = SessionConfig {
        role: "tracker",
        tracker: config.tracker.clone(),
        presence,
        purpose: CHUNK_SET,
        timeout: config.timeout,
        timeouts: config.serve.timeouts,
    };
    session::start(session, sender, threads, shutdown)?;
    Ok(events)
}
