//! Every thread ends no later than the call or object that started it.
//!
//! A separate binary with one test, because threads are counted for the whole process.

#[path = "it/common/mod.rs"]
mod common;

use common::wire::{PeerClient, Wire};
use common::{PATIENCE, place, random_bytes, write};
use shoal::content::limits::{CONNECTIONS_MAX, OUTBOX_MESSAGES_MAX};
use shoal::net::{InFlightBudget, Listener, PortRange, Shutdown, Threads, Timeouts, run_parallel};
use shoal::protocol::tracker::{TrackerRequest, TrackerResponse};
use shoal::report::watch::Unwatched;
use shoal::roles::seeder::{self, ListenRule, SeederConfig, Until};
use shoal::storage::CompleteFile;
use shoal::swarm::manager::Manager;
use shoal::swarm::membership::{Exposure, Leases};
use shoal::swarm::tracker::{Rules, Tracker};
use shoal::tracker::server::{ExecutorChannels, ServerConfig, SwarmServer};
use shoal::upload::offers::Offers;
use shoal::upload::server::{ServeOptions, serve};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Runs a function that starts threads, and asserts that none of them outlives it.
#[track_caller]
fn assert_no_threads_left(subject: &str, run: impl FnOnce()) {
    let before = threads();
    run();
    // The kernel still counts a joined thread for a moment.
    let started = Instant::now();
    while threads() > before {
        assert!(started.elapsed() < PATIENCE, "{subject} leaves {} threads", threads() - before);
        std::thread::yield_now();
    }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Stops a server with eight connections after the hello, of which one has been closed, and one without a hello.
fn server(start: impl FnOnce(&ServerConfig, &Shutdown) -> SwarmServer) {
    let shutdown = Shutdown::new();
    let config = ServerConfig {
        listen: any_port(),
        connections: CONNECTIONS_MAX,
        outbox: OUTBOX_MESSAGES_MAX,
        in_flight: InFlightBudget::new(1 << 20),
        timeouts: Timeouts::default(),
    };
    let server = start(&config, &shutdown);
    let mut wires: Vec<Wire> = (0..9).map(|_| Wire::connect(server.address())).collect();
    for wire in &mut wires[1..] {
        wire.send(&TrackerRequest::Hello { version: 5 }).unwrap();
        assert_eq!(wire.message(), Some(TrackerResponse::Hello { version: 5 }));
    }
    drop(wires.pop());
    shutdown.trigger();
    server.join();
    wires.iter_mut().for_each(Wire::is_closed);
}

fn serving(dir: &std::path::Path) {
    let bytes = random_bytes(1, 100_000);
    let path = write(dir, "served", &bytes);
    let file = CompleteFile::publish(&path, Some(16_384), &|_| (), &|| false).unwrap();
    let (threads, shutdown, offers) = (Threads::new(), Shutdown::new(), Offers::new());
    offers.put(file.id(), Arc::new(file));
    let listener = Listener::bind(any_port()).unwrap();
    let address = listener.address();
    serve(listener, offers, &ServeOptions::default(), None, &threads, &shutdown).unwrap();
    let silent = Wire::connect(address);
    let mut peers = [PeerClient::connect(address), PeerClient::connect(address)];
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
    let server_config = ServerConfig {
        listen: any_port(),
        connections: 9,
        outbox: 9,
        in_flight: InFlightBudget::new(1 << 20),
        timeouts: Timeouts::default(),
    };
    let tracker = Tracker::new(Rules::default(), fastrand::Rng::with_seed(1), || 7);
    let server = SwarmServer::start(&server_config, tracker, ExecutorChannels::none(), &ends).unwrap();
    let config = SeederConfig {
        files: vec![file],
        offer_as: None,
        listen: ListenRule::Only(any_port().ip()),
        ports: PortRange::ANY,
        is_discoverable: false,
        gives_tickets: true,
        tracker: Some(server.address().into()),
        name: None,
        advertise: None,
        tree: Default::default(),
        chunk_size: None,
        serve: ServeOptions::default(),
        timeout: None,
        until: Until::default(),
    };
    std::thread::scope(|scope| {
        let seeder = scope.spawn(|| seeder::run(config, &Unwatched, &shutdown));
        let mut udp = common::wire::Udp::to(server.address());
        while udp.lookup("seeded").is_empty() {}
        shutdown.trigger();
        seeder.join().unwrap().unwrap();
    });
    ends.trigger();
    server.join();
}

#[test]
fn every_thread_ends_with_its_owner() {
    let place = place();
    // The first call starts threads that live as long as the process.
    assert_no_threads_left("nothing", || ());
    assert_no_threads_left("working side by side", || run_parallel("test", 4, || ()));
    assert_no_threads_left("threads that spawn threads", || {
        let (threads, shutdown) = (Threads::new(), Shutdown::new());
        for _ in 0..100 {
            let (inner, end) = (threads.clone(), shutdown.child());
            let nested = move || inner.spawn("inner", move || end.wait_forever()).unwrap();
            threads.spawn("outer", nested).unwrap();
        }
        shutdown.trigger();
        threads.join();
    });
    assert_no_threads_left("a tracker", || {
        server(|config, shutdown| {
            let tracker = Tracker::new(Rules::default(), fastrand::Rng::with_seed(1), || 7);
            SwarmServer::start(config, tracker, ExecutorChannels::none(), shutdown).unwrap()
        });
    });
    assert_no_threads_left("a manager", || {
        server(|config, shutdown| {
            SwarmServer::start(
                config,
                Manager::new(Leases::default(), Exposure::default(), || 7),
                ExecutorChannels::none(),
                shutdown,
            )
            .unwrap()
        });
    });
    assert_no_threads_left("a server", || serving(place.path()));
    assert_no_threads_left("a seeder and its tracker", || seeding(place.path()));
}
