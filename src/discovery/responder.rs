//! Answers the questions of other hosts about the services of this program.

use super::random;
use crate::net::multicast::QuestionSocket;
use crate::net::{Shutdown, Threads, running_time};
use crate::protocol::discovery::QUESTION_BYTES;
use crate::protocol::file_summary::FileSummary;
use crate::swarm::discovery::{Responder, Services};
use crate::sync::lock;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Interval at which new interfaces are looked for.
const INTERFACES_INTERVAL: Duration = Duration::from_secs(5);

/// The services of this program, and its files at the time of a question.
pub struct Discoverable {
    /// The services. `None` while the program listens only on loopback: no question is answered then.
    pub services: Box<dyn Fn() -> Option<Services> + Send + Sync>,
    /// The files that it serves.
    pub files: Box<dyn Fn() -> Vec<FileSummary> + Send + Sync>,
}

impl Discoverable {
    /// Fixed services of a program that serves no files.
    pub fn without_files(services: Services) -> Self {
        Self { services: Box::new(move || Some(services.clone())), files: Box::new(Vec::new) }
    }
}

/// Answers questions until the shutdown. Without a usable network it does so when there is one. If it cannot, for example
/// because another program uses the port, a log line says so.
pub fn respond(discoverable: Discoverable, threads: &Threads, shutdown: &Shutdown) {
    if let Err(error) = start(discoverable, threads, shutdown) {
        log::info!("this program cannot be discovered in the local network: {error}");
    }
}

fn start(discoverable: Discoverable, threads: &Threads, shutdown: &Shutdown) -> io::Result<()> {
    let responder = Arc::new(Mutex::new(Responder::new(random()?)));
    let discoverable = Arc::new(discoverable);
    for socket in QuestionSocket::open()? {
        socket.wake_at(shutdown)?;
        let (responder, discoverable, shutdown) = (responder.clone(), discoverable.clone(), shutdown.clone());
        threads.spawn("discover", move || run(socket, &responder, &discoverable, &shutdown))?;
    }
    Ok(())
}

fn run(
    mut socket: QuestionSocket,
    responder: &Mutex<Responder>,
    discoverable: &Discoverable,
    shutdown: &Shutdown,
) {
    let mut buffer = [0; QUESTION_BYTES + 1];
    let mut updated: Option<Duration> = None;
    while !shutdown.is_stopped() {
        let now = running_time();
        if updated.is_none_or(|updated| now.saturating_sub(updated) >= INTERFACES_INTERVAL) {
            socket.update_interfaces();
            updated = Some(now);
        }
        let Some((count, from)) = socket.receive(&mut buffer, INTERFACES_INTERVAL) else { continue };
        let Some(services) = (discoverable.services)() else { continue };
        let datagram = &buffer[..count.min(QUESTION_BYTES)];
        let files = || (discoverable.files)();
        let answer = lock(responder).answer(running_time(), from.ip(), datagram, &services, files);
        if let Some(answer) = answer {
            socket.answer(&answer, from);
        }
    }
}
