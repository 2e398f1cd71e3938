//! Search for the tracker or manager of the local network.

use super::search::search;
use crate::content::limits::TRACKER_ADDRESS;
use crate::net::{Endpoint, Shutdown, Threads, UdpClient, running_time};
use crate::protocol::discovery::Wanted;
use crate::protocol::tracker::TrackerRequest;
use crate::report::error::{Fault, RoleError};
use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Interval at which a program without a tracker looks for one to suggest.
const SUGGESTION_INTERVAL: Duration = Duration::from_secs(5);
/// Time for the answer of the tracker on this host.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between two searches while nothing is found.
const PAUSE: Duration = Duration::from_secs(2);

/// A program that peers register with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hub {
    /// A tracker.
    Tracker,
    /// A manager.
    Manager,
}

impl fmt::Display for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tracker => "tracker",
            Self::Manager => "manager",
        })
    }
}

/// The trackers or managers of the local network that answer now: one address of each, IPv4 rather than IPv6.
pub fn hubs(hub: Hub, shutdown: &Shutdown) -> Vec<SocketAddr> {
    let wanted = |_| match hub {
        Hub::Tracker => Wanted::Tracker,
        Hub::Manager => Wanted::Manager,
    };
    match search(wanted, shutdown) {
        Ok(found) => {
            let mut found: Vec<_> = found.into_iter().map(|found| (found.address, found.program)).collect();
            found.sort_by_key(|(address, _)| *address);
            let mut programs = HashSet::new();
            found.retain(|(_, program)| programs.insert(*program));
            found.into_iter().map(|(address, _)| address).collect()
        }
        Err(error) => {
            log::debug!("no search for a {hub}: {error}");
            Vec::new()
        }
    }
}

/// The only tracker or manager of the local network. Searches until one answers, for at most `wait`.
///
/// # Errors
/// Several answer, none does in time, or the shutdown.
pub fn only_hub(hub: Hub, wait: Duration, shutdown: &Shutdown) -> Result<Endpoint, RoleError> {
    let started = running_time();
    let mut is_announced = false;
    loop {
        let found = hubs(hub, shutdown);
        match &found[..] {
            _ if shutdown.is_stopped() => {
                return Err(RoleError::new(Fault::Interrupted, "interrupted".to_owned()));
            }
            [only] => {
                log::info!("found the {hub} on {only}");
                return Ok((*only).into());
            }
            [] => {}
            several => return Err(ambiguous(hub, several)),
        }
        let waited = running_time().saturating_sub(started);
        if waited >= wait {
            let text = format!(
                "no {hub} answers in the local network; name one with --{hub} HOST, or let it listen on the network with: {hub} --listen 0.0.0.0"
            );
            return Err(RoleError::new(Fault::Unreachable, text));
        }
        if !std::mem::replace(&mut is_announced, true) {
            log::info!("waiting for a {hub} in the local network");
        }
        shutdown.wait(PAUSE.min(wait.saturating_sub(waited)));
    }
}

fn ambiguous(hub: Hub, several: &[SocketAddr]) -> RoleError {
    let list: Vec<String> =
        several.iter().map(|address| format!("--{hub} {}", Endpoint::from(*address))).collect();
    let text = format!("several {hub}s answer in the local network; choose one: {}", list.join(", "));
    RoleError::new(Fault::Usage, text)
}

/// The address that a user gave, or for `auto` the [only tracker or manager](only_hub) of the local network.
///
/// # Errors
/// Those of [`only_hub`].
pub fn resolve(
    given: &Endpoint,
    hub: Hub,
    wait: Option<Duration>,
    shutdown: &Shutdown,
) -> Result<Endpoint, RoleError> {
    match given.is_auto() {
        true => only_hub(hub, wait.unwrap_or(Duration::MAX), shutdown),
        false => Ok(given.clone()),
    }
}

/// The advice to use a tracker of the local network; the address is shown without the default port.
pub fn suggestion(tracker: SocketAddr) -> String {
    let named = match tracker {
        SocketAddr::V4(v4) if v4.port() == TRACKER_ADDRESS.port() => v4.ip().to_string(),
        _ => Endpoint::from(tracker).to_string(),
    };
    format!("a tracker answers on {tracker}; use --tracker {named}")
}

/// Runs a program that uses the tracker on this host. If `suggests`, and while none answers there, log lines name the
/// trackers of the local network, each once; none is used without the user's word.
pub fn suggesting<T>(suggests: bool, shutdown: &Shutdown, run: impl FnOnce() -> T) -> T {
    let threads = Threads::new();
    let stop = shutdown.child();
    if suggests {
        let stop = stop.clone();
        if let Err(error) = threads.spawn("suggest", move || suggest(&stop)) {
            log::debug!("no search for trackers: {error}");
        }
    }
    let result = run();
    stop.trigger();
    threads.join();
    result
}

fn suggest(stop: &Shutdown) {
    let mut suggested = HashSet::new();
    while !stop.wait(SUGGESTION_INTERVAL) {
        let mut client = UdpClient::new(TRACKER_ADDRESS.into(), stop).with_timeout(Some(PROBE_TIMEOUT));
        // A lookup without a name and an id finds no file.
        let probe = TrackerRequest::Lookup { name: None, id: None, limit: 1, token: None };
        if client.request(&probe).is_ok() {
            return;
        }
        for tracker in hubs(Hub::Tracker, stop) {
            if suggested.insert(tracker) {
                log::info!("{}", suggestion(tracker));
            }
        }
    }
}
