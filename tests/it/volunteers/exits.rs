//! Interrupts, drains, refusals and inconsistent flags.

use super::{assert_serves, file, holder, volunteer};
use crate::common::scripted::*;
use crate::common::wire::*;
use crate::common::*;
use shoal::protocol::ErrorCode;
use shoal::protocol::peer::PeerRequest;
use shoal::protocol::tracker::TrackerResponse;
use shoal::protocol::volunteer::{VolunteerOrder, VolunteerReport};
use std::time::{Duration, Instant};

#[test]
fn an_interrupted_volunteer_says_goodbye_and_exits_quickly() {
    let dir = place();
    let (whole, kept) = file(1, 6);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let silent = FakePeer::start(|mut wire| while wire.message::<PeerRequest>().is_some() {});
    let mut client = volunteer(dir.path(), "ann", &tracker, &[]);
    let (mut session, _) = tracker.volunteer();
    session.copy(&kept, &[0, 1], source.address);
    (2..6).for_each(|index| session.order_copy(&kept, index, silent.address));
    silent.accepted.recv_timeout(PATIENCE).unwrap();
    client.interrupt();
    session.says_goodbye();
    client.ends_with(0);
    // A tracker that does not answer delays the exit only a little.
    let mut client = volunteer(dir.path(), "ann", &tracker, &[]);
    let (session, held) = tracker.volunteer();
    assert_eq!(held.checked.len() + held.unchecked.len(), 2);
    let started = Instant::now();
    client.interrupt();
    client.ends_with(0);
    assert!(started.elapsed() < Duration::from_secs(10));
    drop(session);
}

#[test]
fn a_volunteer_with_drain_on_exit_is_drained_before_it_leaves() {
    let dir = place();
    let (whole, kept) = file(1, 4);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let mut client = volunteer(dir.path(), "ann", &tracker, &["--drain-on-exit"]);
    let (mut session, _) = tracker.volunteer();
    session.copy(&kept, &[0, 1, 2], source.address);
    client.interrupt();
    assert_eq!(session.said(), VolunteerReport::Drain);
    session.order(VolunteerOrder::Draining { left: 3 });
    client.wait_for_text("draining: 3 chunks left");
    // If the connection is lost during the drain, the drain continues over the next connection.
    drop(session);
    let (mut session, held) = tracker.volunteer();
    assert_eq!(held.checked.len(), 3);
    assert_eq!(session.said(), VolunteerReport::Drain);
    session.order(VolunteerOrder::Draining { left: 1 });
    client.wait_for_text("draining: 1 chunk left");
    assert_serves(session.address, &whole, 1);
    session.order(VolunteerOrder::Draining { left: 0 });
    session.says_goodbye();
    client.ends_with(0);
    // A second Ctrl-C exits at once, and the goodbye is still sent.
    let mut client = volunteer(dir.path(), "ann", &tracker, &["--drain-on-exit"]);
    let (mut session, _) = tracker.volunteer();
    client.interrupt();
    loop {
        match session.said() {
            VolunteerReport::Drain => break,
            VolunteerReport::Holds { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    session.order(VolunteerOrder::Draining { left: 9 });
    client.wait_for_text("draining: 9 chunks left");
    client.interrupt();
    session.says_goodbye();
    client.ends_with(0);
}

#[test]
fn a_tracker_that_refuses_storage_is_reported_and_does_not_delay_the_exit() {
    let dir = place();
    let tracker = ScriptedTracker::start();
    let mut client = volunteer(dir.path(), "ann", &tracker, &["--drain-on-exit"]);
    let mut session = tracker.registers();
    assert!(matches!(session.said(), VolunteerReport::Lend { .. }));
    assert_eq!(session.said(), VolunteerReport::Reported);
    let (code, text) = (ErrorCode::Refused, "no files are kept here".to_owned());
    session.wire.send(&TrackerResponse::Error { code, text }).unwrap();
    client.wait_for_text("refused the storage offer: no files are kept here");
    client.interrupt();
    session.says_goodbye();
    client.ends_with(0);
}

#[test]
fn inconsistent_flags_are_rejected() {
    let dir = place();
    let folder = subfolder(dir.path(), "f");
    for (args, text) in [
        (&["--volunteer", "1KiB"][..], "are less than the smallest chunk"),
        (&["--volunteer", "lots"], "expected a size such as 2GiB"),
        (&["--volunteer-dir", "x"], "--volunteer <SIZE>"),
        (&["--drain-on-exit"], "--volunteer <SIZE>"),
        (&["--away", "14h"], "--volunteer <SIZE>"),
        (&["--new-store"], "--volunteer <SIZE>"),
        (&["--volunteer", "1MiB", "--away", "0.5"], "the absence must be from 1 s to 30 days"),
        (&["--volunteer", "1MiB", "--away", "31d"], "the absence must be from 1 s to 30 days"),
        (&["--volunteer", "1MiB", "--away", "tonight"], "expected a duration such as"),
    ] {
        let mut client = plain(dir.path(), &folder, "ann", args);
        client.ends_with(2);
        assert!(client.has_said(text), "{args:?}: {:?}", client.lines());
    }
    let chunks = chunk_folder(dir.path(), "c", 1, &[(1, b"x")]);
    let mut client = plain(dir.path(), &chunks, "ann", &["--volunteer", "1MiB"]);
    client.ends_with(2);
    assert!(client.has_said("are for plain folders"));
}
