//! No thread outlives what began it. A program of its own with one test, because threads are counted for the whole
//! process.

#[path = "it/common/mod.rs"]
mod common;

use common::wire::{Guest, Wire};
use common::{PATIENCE, place, random_bytes, write};
use shoal::content::limits::{CONNECTIONS_MAX, OUTBOX};
use shoal::daemon::hub::{Hands, Hub, HubConfig};
use shoal::daemon::peer::{ServeOptions, serve};
use shoal::daemon::seeder::{self, SeederConfig};
use shoal::daemon::shelf::Offers;
use shoal::daemon::watch::Unwatched;
use shoal::net::{Listener, Shutdown, Threads, Timeouts, side_by_side};
use shoal::protocol::tracker::{TrackerRequest, TrackerResponse};
use shoal::storage::WholeFile;
use shoal::swarm::manager::Manager;
use shoal::swarm::membership::Leases;
use shoal::swarm::tracker::{Rules, Tracker};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Runs something that begins and ends threads.
#[track_caller]
fn leaves_none(what: &str, run: impl FnOnce()) {
    let before = threads();
    run();
    // A thread that has been joined is still counted for a moment.
    let began = Instant::now();
    while threads() > before {
        assert!(began.elapsed() < PATIENCE, "{what} leaves {} threads", threads() - before);
        std::thread::yield_now();
    }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Some who talk, one who says nothing, and one who has not even said hello, all of them still there at the end.
fn hub(start: impl FnOnce(&HubConfig, &Shutdown) -> Hub) {
    let shutdown = Shutdown::new();
    let config = HubConfig {
        listen: any_port(),
        connections: CONNECTIONS_MAX,
        outbox: OUTBOX,
        timeouts: Timeouts::default(),
    };
    let hub = start(&config, &shutdown);
    let mut wires: Vec<Wire> = (0..9).map(|_| Wire::connect(hub.address())).collect();
    for wire in &mut wires[1..] {
        wire.send(&TrackerRequest::Hello { version: 1 }).unwrap();
        assert_eq!(wire.message(), Some(TrackerResponse::Hello { version: 1 }));
    }
    drop(wires.pop());
    shutdown.trigger();
    hub.join();
    wires.iter_mut().for_each(Wire::is_closed);
}

fn serving(dir: &std::path::Path) {
    let bytes = random_bytes(1, 100_000);
    let path = write(dir, "served", &bytes);
    let file = WholeFile::publish(&path, Some(16_384), &|_| (), &|| false).unwrap();
    let (threads, shutdown, shelf) = (Threads::new(), Shutdown::new(), Offers::new());
    shelf.put(file.id(), Arc::new(file));
    let listener = Listener::bind(any_port()).unwrap();
    let address = listener.address();
    serve(listener, shelf, &ServeOptions::default(), None, &threads, &shutdown).unwrap();
    let silent = Wire::connect(address);
    let mut peers = [Guest::of(address), Guest::of(address)];
    for peer in &mut peers {
        peer.ask(&shoal::protocol::peer::PeerRequest::Ping);
    }
    shutdown.trigger();
    threads.join();
    drop((silent, peers));
}

fn seeding(dir: &std::path::Path) {
    let file = write(dir, "seeded", &random_bytes(2, 100_000));
    let (shutdown, ends) = (Shutdown::new(), Shutdown::new());
    let hub_config =
        HubConfig { listen: any_port(), connections: 9, outbox: 9, timeouts: Timeouts::default() };
    let tracker = Tracker::new(Rules::default(), fastrand::Rng::with_seed(1), || 7);
    let hub = Hub::start(&hub_config, tracker, Hands::none(), &ends).unwrap();
    let config = SeederConfig {
        file,
        offer_as: None,
        listen: any_port(),
        tracker: hub.address(),
        name: None,
        advertise: None,
        chunk_size: None,
        serve: ServeOptions::default(),
        timeout: None,
    };
    std::thread::scope(|scope| {
        let seeder = scope.spawn(|| seeder::run(config, &Unwatched, &shutdown));
        let mut udp = common::wire::Udp::to(hub.address());
        while udp.lookup("seeded").is_empty() {}
        shutdown.trigger();
        seeder.join().unwrap().unwrap();
    });
    ends.trigger();
    hub.join();
}

#[test]
fn every_thread_ends_with_what_began_it() {
    let place = place();
    // What is started once and for all is started now.
    leaves_none("nothing", || ());
    leaves_none("working side by side", || side_by_side("test", 4, || ()));
    leaves_none("threads that spawn threads", || {
        let (threads, shutdown) = (Threads::new(), Shutdown::new());
        for _ in 0..100 {
            let (inner, end) = (threads.clone(), shutdown.child());
            let nested = move || inner.spawn("inner", move || end.wait_forever()).unwrap();
            threads.spawn("outer", nested).unwrap();
        }
        shutdown.trigger();
        threads.join();
    });
    leaves_none("a tracker", || {
        hub(|config, shutdown| {
            let tracker = Tracker::new(Rules::default(), fastrand::Rng::with_seed(1), || 7);
            Hub::start(config, tracker, Hands::none(), shutdown).unwrap()
        });
    });
    leaves_none("a manager", || {
        hub(|config, shutdown| {
            Hub::start(config, Manager::new(Leases::default(), false, || 7), Hands::none(), shutdown).unwrap()
        });
    });
    leaves_none("a server", || serving(place.path()));
    leaves_none("a seeder and its tracker", || seeding(place.path()));
}
