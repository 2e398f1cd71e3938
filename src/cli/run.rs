//! Runs a program from its flags to its exit code.
//!
//! Invariant: an error is logged with its cause and has an exit code.

use super::console::print_error;
use super::json::{self, EndOnDrop};
use super::receivers::ReceiverTable;
use super::service;
use super::signals::block_unwanted;
use super::{Bar, Console, ExitCode, LogOptions, logging, on_interrupt};
use crate::net::{Shutdown, free_bytes, start_process_clock, unjoined_count};
use crate::report::Fault;
use crate::report::RoleError;
use crate::report::events::{self, Event, PeerEvent, PeerState};
use crate::report::watch::Watch;
use crate::swarm::distribution::DistributionView;
use crate::sync::lock;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// Sets up logging and Ctrl-C, runs `body`, and returns the exit code for its result.
pub fn run(
    log: &LogOptions,
    body: impl FnOnce(&Arc<BarWatch>, &Shutdown) -> Result<(), RoleError>,
) -> std::process::ExitCode {
    let _end = EndOnDrop;
    let code = run_to_code(log, body);
    json::end(code as u8);
    code.into()
}

/// Runs `body` and returns the exit code for its result.
fn run_to_code(
    log: &LogOptions,
    body: impl FnOnce(&Arc<BarWatch>, &Shutdown) -> Result<(), RoleError>,
) -> ExitCode {
    block_unwanted();
    allow_many_files();
    // Without threads, the system shows what is no heap.
    let _ = free_bytes();
    service::begin();
    let shutdown = Shutdown::new();
    let console = match logging::init(log) {
        Ok(console) => console,
        Err(error) => {
            print_error(&format!("error: {error:#}"));
            events::failed(&RoleError::new(Fault::FileAccess, format!("{error:#}")));
            return ExitCode::FileAccess;
        }
    };
    if let Err(error) = start_process_clock() {
        log::warn!("pauses of this process count against timeouts: cannot start a thread: {error}");
    }
    let trigger = shutdown.clone();
    if let Err(error) = on_interrupt(move || {
        service::stopping();
        trigger.trigger();
    }) {
        log::error!("{error:#}");
        events::failed(&RoleError::new(Fault::Other, format!("{error:#}")));
        return ExitCode::Other;
    }
    let code = match body(&Arc::new(BarWatch::new(console)), &shutdown) {
        Ok(()) => ExitCode::Done,
        Err(error) => {
            // Each line of the text is a log line of its own.
            let is_interrupted = error.fault == Fault::Interrupted;
            let level = if is_interrupted { log::Level::Warn } else { log::Level::Error };
            error.text.lines().for_each(|line| log::log!(level, "{line}"));
            events::failed(&error);
            exit_code(error.fault)
        }
    };
    let left = unjoined_count();
    if left > 0 {
        log::error!(
            "unjoined threads at exit: {left} (running: {}); this is a bug in shoal: please report it",
            threads().join(", ")
        );
    }
    log::logger().flush();
    code
}

/// The names of all threads of this process.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.map(|name| name.trim_end().to_owned()).collect()
}

/// Raises the soft limit on open files to the hard limit. Each connection is an open file, and the usual soft limit of
/// 1,024 is less than the connections that a program serves.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    // A failure is ignored: the program then serves fewer connections.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// The exit code of an error.
pub fn exit_code(fault: Fault) -> ExitCode {
    match fault {
        Fault::Other => ExitCode::Other,
        Fault::Usage => ExitCode::Usage,
        Fault::NotFound => ExitCode::NotFound,
        Fault::ChunksMissing => ExitCode::ChunksMissing,
        Fault::Unreachable => ExitCode::Unreachable,
        Fault::TimedOut => ExitCode::TimedOut,
        Fault::Interrupted => ExitCode::Interrupted,
        Fault::DiskFull => ExitCode::DiskFull,
        Fault::ExistsAndDiffers => ExitCode::ExistsAndDiffers,
        Fault::FileAccess => ExitCode::FileAccess,
        Fault::VerificationFailed => ExitCode::VerificationFailed,
    }
}

/// Shows progress as a bar on the terminal, or in the log.
pub struct BarWatch {
    console: Console,
    bar: Mutex<Option<Bar>>,
    receivers: Mutex<Option<ReceiverTable>>,
    /// The last stage of each peer that was emitted as an event.
    stages: Mutex<HashMap<String, PeerState>>,
    /// The total of several operations; shared by their watches.
    total: Arc<Mutex<Option<Bar>>>,
}

impl BarWatch {
    /// A watch without a bar.
    pub fn new(console: Console) -> Self {
        Self {
            console,
            bar: Mutex::new(None),
            receivers: Mutex::new(None),
            stages: Mutex::default(),
            total: Arc::default(),
        }
    }

    /// The console that the bar is drawn on.
    pub fn console(&self) -> &Console {
        &self.console
    }

    fn bar(&self) -> MutexGuard<'_, Option<Bar>> {
        lock(&self.bar)
    }

    /// Emits an event for each peer whose stage has changed. A peer that is not in the view any more is forgotten.
    fn emit_stages(&self, view: &DistributionView) {
        if !events::are_wanted() || view.known == 0 {
            return;
        }
        let mut stages = lock(&self.stages);
        let mut present = HashMap::new();
        for row in &view.rows {
            let peer = PeerEvent::from(row);
            if stages.get(&row.peer) != Some(&peer.state) {
                events::emit(|| Event::Peer(peer.clone()));
            }
            present.insert(row.peer.clone(), peer.state);
        }
        *stages = present;
    }
}

impl Watch for BarWatch {
    fn begin(&self, title: &str, total: u64, done: u64) {
        let has_total = lock(&self.total).is_some();
        // The bar of the last operation is erased first.
        self.bar().take();
        let bar = self.console.bytes(title, total, done);
        *self.bar() = Some(if has_total { bar.without_log() } else { bar });
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = &*self.bar() {
            bar.add(bytes);
        }
    }

    fn resize(&self, total: u64) {
        if let Some(bar) = &*self.bar() {
            bar.resize(total);
        }
    }

    fn note(&self, text: &str) {
        if let Some(bar) = &*self.bar() {
            bar.note(text);
        }
    }

    fn end(&self) {
        self.bar().take();
    }

    fn result(&self, line: &str) {
        self.console.print_answer(&format!("{line}\n"));
    }

    fn receivers(&self, view: &DistributionView) -> bool {
        self.emit_stages(view);
        let mut table = lock(&self.receivers);
        if view.known == 0 || self.console.is_prompting() {
            table.take();
            return false;
        }
        if table.is_none() {
            *table = self.console.receiver_table();
        }
        table.as_mut().map(|table| table.draw(view)).is_some()
    }

    fn total(&self, title: &str, bytes: u64, done: u64) {
        let mut total = lock(&self.total);
        total.get_or_insert_with(|| self.console.total(title, bytes, done)).retitle(title, bytes, done);
    }

    fn end_total(&self) {
        lock(&self.total).take();
    }

    fn separate(&self) -> Arc<dyn Watch> {
        Arc::new(Self { total: self.total.clone(), ..Self::new(self.console.clone()) })
    }
}
