//! Tests of the tracker.

use super::*;
use crate::content::{ChunkIndex, Digest, FileName, Manifest, ManifestSizes, SetName};
use crate::protocol::set_status::{ChunkStatus, Clients, SetStatus};
use crate::protocol::tracker::{Claim, FoundFile, ReportId, SetKey};
use crate::swarm::shares::{BudgetKind, Budgets, Shares};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

fn at(seconds: u64) -> Moment {
    Duration::from_secs(seconds)
}

fn tracker() -> Tracker {
    let mut next = 0;
    let draw = move || {
        next += 1;
        next
    };
    Tracker::new(Rules::default(), fastrand::Rng::with_seed(1), draw)
}

fn connection(number: u64) -> Origin {
    Origin::Connection(ConnectionId(number), IpAddr::from([10, 0, 0, number as u8]))
}

fn datagram(number: u8) -> Origin {
    Origin::Datagram(SocketAddr::from(([10, 0, 0, number], 9999)), 5)
}

/// Registers a peer and returns its token.
fn register(tracker: &mut Tracker, now: u64, origin: Origin, name: &str) -> Token {
    let name = PeerName::new(name).unwrap();
    let request = TrackerRequest::Register(Registration::new(name, 7000));
    match &tracker.request(at(now), origin, request)[0] {
        Effect::Reply(_, TrackerResponse::Registered { token, .. }) => *token,
        other => panic!("{other:?}"),
    }
}

fn key() -> SetKey {
    SetKey { set: SetName::new("default").unwrap(), count: 2 }
}

fn claim(number: u8) -> Claim {
    Claim { sha256: Digest([number; 32]), size: 10 }
}

fn member(tracker: &mut Tracker, number: u64) -> Token {
    let token = register(tracker, 0, connection(number), &format!("peer{number}"));
    let joined = tracker.request(at(0), connection(number), TrackerRequest::JoinSet { token, set: key() });
    assert_eq!(
        joined[0],
        Effect::Reply(connection(number), TrackerResponse::SetJoined { set: key(), others: vec![] })
    );
    token
}

fn claims(tracker: &mut Tracker, number: u64, token: Token, index: u32, value: u8) -> Vec<Effect> {
    let (set, index) = (key(), ChunkIndex(index));
    let request = TrackerRequest::Claim { token, set, index, claim: claim(value) };
    tracker.request(at(1), connection(number), request)
}

fn wants(tracker: &mut Tracker, number: u64, token: Token, index: u32) -> Vec<Effect> {
    let request = TrackerRequest::WhereChunk { token, set: key(), index: ChunkIndex(index) };
    tracker.request(at(1), connection(number), request)
}

fn code(effects: &[Effect]) -> Option<ErrorCode> {
    match effects.first() {
        Some(Effect::Reply(_, TrackerResponse::Error { code, .. })) => Some(*code),
        _ => None,
    }
}

#[test]
fn a_seeder_is_found_until_its_lease_expires() {
    let mut tracker = tracker();
    let token = register(&mut tracker, 0, datagram(1), "s");
    let name = FileName::new("f").unwrap();
    let file = FileSummary { id: FileId([1; 32]), name: name.clone(), size: 1, chunks: 1 };
    tracker.request(at(0), datagram(1), TrackerRequest::Announce { token, file, held: 1, sent: None });
    let mut found = |now| {
        let lookup = TrackerRequest::Lookup { name: Some(name.clone()), id: None, limit: 9, token: None };
        match tracker.request(at(now), datagram(2), lookup).remove(0) {
            Effect::Reply(_, TrackerResponse::Found { files, truncated: false }) => files,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(found(9)[0].whole, [SocketAddr::from(([10, 0, 0, 1], 7000)).into()]);
    assert!(found(10).is_empty());
    assert_eq!(tracker.next_tick(), Some(at(10)));
    let effects = tracker.tick(at(10));
    assert!(
        matches!(&effects[..], [Effect::Departure(_, note), Effect::Peer(PeerChange { has_joined: false, .. })]
        if note.contains("its lease ended"))
    );
}

#[test]
fn an_expired_holder_of_a_chunk_is_not_returned_even_before_the_next_tick() {
    let mut tracker = tracker();
    let [a, b] = [1, 2].map(|number| member(&mut tracker, number));
    claims(&mut tracker, 1, a, 0, 1);
    claims(&mut tracker, 2, b, 0, 1);
    // Member 3 sends heartbeats; the other two have been silent since the first second.
    let c = member(&mut tracker, 3);
    tracker.request(at(9), connection(3), TrackerRequest::Heartbeat { token: c });
    let wanted = TrackerRequest::WhereChunk { token: c, set: key(), index: ChunkIndex(0) };
    let named = |effects: &[Effect]| {
        effects.iter().any(|effect| matches!(effect, Effect::Reply(_, TrackerResponse::ChunkLocation { .. })))
    };
    assert!(named(&tracker.request(at(10), connection(3), wanted.clone())));
    let late = tracker.request(at(11), connection(3), wanted);
    assert!(!named(&late), "{late:?}");
    assert!(matches!(late[0], Effect::Reply(_, TrackerResponse::ChunkUnknown { .. })));
}

#[test]
fn the_list_is_sent_once_per_connection_and_is_never_stale() {
    let mut tracker = tracker();
    let list = |tracker: &mut Tracker, now, number| match &tracker.request(
        at(now),
        connection(number),
        TrackerRequest::List,
    )[..]
    {
        [Effect::PushWith(_, TrackerResponse::Listing { count, length }, payload)] => {
            assert_eq!(*length, payload.len() as u64);
            let files: Vec<FoundFile> = serde_json::from_slice(payload).unwrap();
            assert_eq!(*count as usize, files.len());
            Ok((files.into_iter().map(|found| found.file.name.to_string()).collect(), payload.clone()))
        }
        effects => Err(code(effects)),
    };
    let names = |listed: &Result<(Vec<String>, Arc<[u8]>), _>| listed.as_ref().unwrap().0.clone();
    assert!(names(&list(&mut tracker, 0, 1)).is_empty());
    assert_eq!(list(&mut tracker, 0, 1), Err(Some(ErrorCode::Busy)));
    tracker.closed(at(0), ConnectionId(1));
    let token = register(&mut tracker, 0, datagram(1), "s");
    for (number, name) in [(1, "b"), (2, "a")] {
        let name = FileName::new(name).unwrap();
        let file = FileSummary { id: FileId([number; 32]), name, size: 1, chunks: 1 };
        tracker.request(at(0), datagram(1), TrackerRequest::Announce { token, file, held: 1, sent: None });
    }
    let (first, second) = (list(&mut tracker, 1, 1), list(&mut tracker, 2, 2));
    assert_eq!(names(&first), ["a", "b"]);
    assert!(Arc::ptr_eq(&first.unwrap().1, &second.unwrap().1), "encoded once");
    assert!(names(&list(&mut tracker, 10, 3)).is_empty(), "the lease has expired");
    let datagram = tracker.request(at(10), datagram(1), TrackerRequest::List);
    assert_eq!(code(&datagram), Some(ErrorCode::Malformed));
}

#[test]
fn requests_with_a_wrong_token_or_connection_are_refused() {
    let mut tracker = tracker();
    let token = register(&mut tracker, 0, datagram(1), "s");
    let forged = Token(token.0 + 1);
    let file = FileSummary { id: FileId([1; 32]), name: FileName::new("f").unwrap(), size: 1, chunks: 1 };
    for request in [
        TrackerRequest::Heartbeat { token: forged },
        TrackerRequest::Announce { token: forged, file, held: 1, sent: None },
        TrackerRequest::JoinSet { token, set: key() },
    ] {
        let effects = tracker.request(at(1), connection(2), request);
        assert_eq!(code(&effects), Some(ErrorCode::UnknownToken));
    }
    tracker.request(at(1), datagram(2), TrackerRequest::Goodbye { token: forged });
    let alive = tracker.request(at(1), datagram(1), TrackerRequest::Heartbeat { token });
    assert_eq!(alive, [Effect::Reply(datagram(1), TrackerResponse::Alive)]);
}

#[test]
fn a_set_becomes_a_file_when_all_chunks_are_agreed() {
    let mut tracker = tracker();
    let (one, two, three) = (member(&mut tracker, 1), member(&mut tracker, 2), member(&mut tracker, 3));
    claims(&mut tracker, 1, one, 0, 7);
    let unknown = wants(&mut tracker, 3, three, 0);
    assert!(matches!(unknown[0], Effect::Reply(_, TrackerResponse::ChunkUnknown { .. })));
    assert_eq!(unknown[1], Effect::Event("P2PTracker,CHUNK_LOCATION_UNKNOWN,1".into()));

    let effects = claims(&mut tracker, 2, two, 0, 7);
    let line = format!("P2PTracker,GET_CHUNK_FROM,1,{},10.0.0.", Digest([7; 32]));
    assert!(matches!(&effects[0], Effect::Event(event) if event.starts_with(&line)), "{effects:?}");
    assert!(matches!(
        &effects[1],
        Effect::Push(ConnectionId(3), TrackerResponse::ChunkLocation { holders, .. }) if holders.len() == 2
    ));

    claims(&mut tracker, 1, one, 1, 8);
    let sealed = claims(&mut tracker, 3, three, 1, 8);
    let file = sealed
        .iter()
        .find_map(|effect| match effect {
            Effect::Push(_, TrackerResponse::SetSealed { file, .. }) => Some(*file),
            _ => None,
        })
        .expect("the set is sealed");
    let manifest = tracker.request(at(1), connection(9), TrackerRequest::Manifest { file });
    let [Effect::PushWith(ConnectionId(9), TrackerResponse::Manifest { size: 20, .. }, payload)] =
        &manifest[..]
    else {
        panic!("{manifest:?}")
    };
    let sizes = ManifestSizes { size: 20, chunk_size: 0, index: None };
    assert_eq!(Manifest::decode(file, sizes, payload).map(|manifest| manifest.id()), Ok(file));
    let again = tracker.request(at(1), connection(8), TrackerRequest::Manifest { file });
    let [Effect::PushWith(_, _, second)] = &again[..] else { panic!("{again:?}") };
    assert!(Arc::ptr_eq(payload, second), "all clients share one payload");
    let name = Some(FileName::new("default").unwrap());
    let lookup = TrackerRequest::Lookup { name, id: None, limit: 9, token: None };
    let found = tracker.request(at(1), datagram(9), lookup.clone());
    let Effect::Reply(_, TrackerResponse::Found { files, .. }) = &found[0] else { panic!("{found:?}") };
    assert_eq!((files[0].file.id, files[0].whole.len(), files[0].partial.len()), (file, 1, 2));

    // Peers 1 and 2 held chunk 1: without them the set is no longer available as a file.
    tracker.closed(at(1), ConnectionId(1));
    tracker.closed(at(1), ConnectionId(2));
    let found = tracker.request(at(1), datagram(9), lookup);
    assert!(matches!(&found[0], Effect::Reply(_, TrackerResponse::Found { files, .. }) if files.is_empty()));
    tracker.closed(at(1), ConnectionId(3));
    assert!(tracker.sets.by_key.is_empty() && tracker.sets.of_member.is_empty() && tracker.peers.is_clean());
}

#[test]
fn members_are_notified_when_all_of_them_are_complete() {
    let mut tracker = tracker();
    let tokens = [1, 2, 3].map(|number| (number, member(&mut tracker, number)));
    let complete = |effects: &[Effect]| {
        let told = |effect: &&Effect| matches!(effect, Effect::Push(_, TrackerResponse::SetComplete { .. }));
        effects.iter().filter(told).count()
    };
    for (number, token) in tokens {
        assert_eq!(complete(&claims(&mut tracker, number, token, 0, 7)), 0);
    }
    for (number, token) in &tokens[..2] {
        assert_eq!(complete(&claims(&mut tracker, *number, *token, 1, 8)), 0);
    }
    assert_eq!(complete(&claims(&mut tracker, 3, tokens[2].1, 1, 9)), 0, "differs from the agreed hash");
    assert_eq!(complete(&claims(&mut tracker, 3, tokens[2].1, 1, 8)), 3);
    let changes = tracker.peers.registry.changes();
    assert_eq!(claims(&mut tracker, 3, tokens[2].1, 1, 8), [], "a repeated claim");
    assert_eq!(tracker.peers.registry.changes(), changes);
    let late = member(&mut tracker, 4);
    assert_eq!(complete(&claims(&mut tracker, 4, late, 0, 7)), 0);
    assert_eq!(complete(&tracker.closed(at(1), ConnectionId(4))), 3);
    assert_eq!(complete(&tracker.closed(at(1), ConnectionId(3))), 0, "no member waited for it");
}

#[test]
fn a_member_with_a_different_hash_is_told_and_not_returned() {
    let mut tracker = tracker();
    let (one, two, three) = (member(&mut tracker, 1), member(&mut tracker, 2), member(&mut tracker, 3));
    claims(&mut tracker, 3, three, 0, 66);
    claims(&mut tracker, 1, one, 0, 7);
    let effects = claims(&mut tracker, 2, two, 0, 7);
    let differs = TrackerResponse::ClaimDiffers { set: key(), index: ChunkIndex(0), claim: claim(7) };
    assert!(effects.contains(&Effect::Push(ConnectionId(3), differs)), "{effects:?}");
    let located = wants(&mut tracker, 3, three, 0);
    let Effect::Reply(_, TrackerResponse::ChunkLocation { holders, .. }) = &located[0] else {
        panic!("{located:?}")
    };
    let mut ips: Vec<_> = holders.iter().map(|holder| holder.first().ip()).collect();
    ips.sort();
    assert_eq!(ips, [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])]);
}

#[test]
fn invalid_requests_get_an_error_code() {
    let mut tracker = tracker();
    let token = member(&mut tracker, 1);
    let (set, index) = (key(), ChunkIndex(2));
    let past = TrackerRequest::WhereChunk { token, set: set.clone(), index };
    assert_eq!(code(&tracker.request(at(1), connection(1), past)), Some(ErrorCode::Malformed));
    let other = SetKey { count: 3, ..set.clone() };
    let stranger = TrackerRequest::WhereChunk { token, set: other, index };
    assert_eq!(code(&tracker.request(at(1), connection(1), stranger)), Some(ErrorCode::NotFound));
    let empty = TrackerRequest::JoinSet { token, set: SetKey { count: 0, ..set.clone() } };
    assert_eq!(code(&tracker.request(at(1), connection(1), empty)), Some(ErrorCode::Malformed));
    let loose = TrackerRequest::JoinSet { token, set };
    assert_eq!(code(&tracker.request(at(1), datagram(1), loose)), Some(ErrorCode::Malformed));
    let name = PeerName::new("x").unwrap();
    let zero_port = TrackerRequest::Register(Registration::new(name, 0));
    assert_eq!(code(&tracker.request(at(1), datagram(1), zero_port)), Some(ErrorCode::Malformed));
    let tracker_name = PeerName::new("p2pTracker").unwrap();
    let impostor = TrackerRequest::Register(Registration::new(tracker_name, 7));
    assert_eq!(code(&tracker.request(at(1), datagram(1), impostor)), Some(ErrorCode::Malformed));
    let unknown = tracker.request(at(1), datagram(1), TrackerRequest::Unknown);
    assert_eq!(code(&unknown), Some(ErrorCode::UnknownMessage));
}

#[test]
fn a_second_registration_over_a_connection_replaces_the_first() {
    let mut tracker = tracker();
    let first = member(&mut tracker, 1);
    let second = register(&mut tracker, 1, connection(1), "again");
    let old = tracker.request(at(1), datagram(1), TrackerRequest::Heartbeat { token: first });
    assert_eq!(code(&old), Some(ErrorCode::UnknownToken));
    tracker.request(at(1), connection(1), TrackerRequest::Goodbye { token: second });
    assert!(tracker.peers.is_clean());
}

#[test]
fn each_request_with_a_token_renews_the_lease() {
    let mut tracker = tracker();
    let token = member(&mut tracker, 1);
    let (name, id) = (FileName::new("f").unwrap(), FileId([1; 32]));
    let file = FileSummary { id, name: name.clone(), size: 1, chunks: 1 };
    let set = TrackerRequest::JoinSet { token, set: key() };
    let (index, claim) = (ChunkIndex(0), claim(1));
    for (number, request) in [
        TrackerRequest::Announce { token, file: file.clone(), held: 1, sent: None },
        TrackerRequest::Withdraw { token, file: id, name: None },
        TrackerRequest::Lookup { name: Some(name), id: None, limit: 1, token: Some(token) },
        set.clone(),
        TrackerRequest::Claim { token, set: key(), index, claim },
        TrackerRequest::WhereChunk { token, set: key(), index },
        TrackerRequest::Unclaim { token, set: key(), index },
    ]
    .into_iter()
    .enumerate()
    {
        let now = at(9 * (number as u64 + 1));
        let effects = tracker.request(now, connection(1), request.clone());
        assert_eq!(code(&effects), None, "{request:?}");
        assert_eq!(tracker.tick(now), []);
    }
    // A token used over another connection does not renew the lease.
    let forged = tracker.request(at(71), connection(2), set);
    assert_eq!(code(&forged), Some(ErrorCode::UnknownToken));
    assert!(matches!(tracker.tick(at(73))[..], [Effect::Departure(..), Effect::Peer(_)]));
}

#[test]
fn claims_and_requests_are_limited_over_all_sets() {
    let mut tracker = tracker();
    let budgets = Budgets { files: 9, holders: 9, claims: 5 };
    tracker.peers.registry.shares = Shares::new(budgets);
    let (one, two) = (member(&mut tracker, 1), member(&mut tracker, 2));
    assert_eq!(code(&claims(&mut tracker, 1, one, 0, 7)), None);
    for index in [0, 1] {
        assert_eq!(code(&wants(&mut tracker, 2, two, index)), None);
    }
    assert_eq!(code(&claims(&mut tracker, 1, one, 1, 7)), Some(ErrorCode::Busy));
    assert_eq!(code(&wants(&mut tracker, 1, one, 1)), Some(ErrorCode::Busy));
    assert_eq!(code(&claims(&mut tracker, 1, one, 0, 8)), None, "a new claim replaces the old one");
    assert_eq!(code(&wants(&mut tracker, 2, two, 1)), None, "a repeated request");
    let (set, index) = (key(), ChunkIndex(0));
    tracker.request(at(1), connection(1), TrackerRequest::Unclaim { token: one, set, index });
    assert_eq!(code(&claims(&mut tracker, 1, one, 1, 7)), None);
    tracker.closed(at(1), ConnectionId(2));
    let used = |tracker: &Tracker| tracker.peers.registry.shares.of([10, 0, 0, 1].into(), BudgetKind::Claims);
    assert_eq!(used(&tracker), 1);
    tracker.closed(at(1), ConnectionId(1));
    assert_eq!(used(&tracker), 0);
}

#[test]
fn claims_that_add_up_to_no_possible_file_are_refused() {
    let mut tracker = tracker();
    let token = member(&mut tracker, 1);
    let (set, index) = (key(), ChunkIndex(0));
    let size_max = limits::FILE_SIZE_MAX / u64::from(set.count);
    let mut claimed = |size| {
        let claim = Claim { size, ..claim(7) };
        let request = TrackerRequest::Claim { token, set: set.clone(), index, claim };
        code(&tracker.request(at(0), connection(1), request))
    };
    assert_eq!(claimed(size_max + 1), Some(ErrorCode::Malformed));
    assert_eq!(claimed(u64::MAX), Some(ErrorCode::Malformed));
    assert_eq!(claimed(size_max), None);
}

#[test]
fn two_sets_of_the_same_content_are_independent() {
    let mut tracker = tracker();
    let tokens = [1, 2, 3, 4].map(|number| (number, member(&mut tracker, number)));
    let other = SetKey { set: SetName::new("other").unwrap(), ..key() };
    let mut file = None;
    for (number, token) in tokens {
        // Members 1 and 2 claim chunks of one set, members 3 and 4 of the other; all are members of both.
        let set = if number <= 2 { key() } else { other.clone() };
        for set in [key(), other.clone()] {
            tracker.request(at(0), connection(number), TrackerRequest::JoinSet { token, set });
        }
        for index in [0, 1].map(ChunkIndex) {
            let claim = claim(index.0 as u8);
            let request = TrackerRequest::Claim { token, set: set.clone(), index, claim };
            for effect in tracker.request(at(0), connection(number), request) {
                if let Effect::Push(_, TrackerResponse::SetSealed { file: sealed, .. }) = effect {
                    assert_eq!(*file.get_or_insert(sealed), sealed);
                }
            }
        }
    }
    let file = file.expect("both are sealed");
    let whole = |tracker: &mut Tracker| {
        let lookup = TrackerRequest::Lookup { name: None, id: Some(file), limit: 9, token: None };
        match tracker.request(at(0), datagram(9), lookup).remove(0) {
            Effect::Reply(_, TrackerResponse::Found { files, .. }) => {
                files.first().map_or(0, |found| found.whole.len())
            }
            effect => panic!("{effect:?}"),
        }
    };
    assert_eq!(whole(&mut tracker), 4, "complete in one of the sets is complete");
    tracker.closed(at(0), ConnectionId(1));
    tracker.closed(at(0), ConnectionId(2));
    assert_eq!(whole(&mut tracker), 2, "the holders in the remaining set");
    let manifest = TrackerRequest::Manifest { file };
    let answer = tracker.request(at(0), connection(9), manifest.clone());
    assert!(matches!(answer[..], [Effect::PushWith(..)]), "{answer:?}");
    tracker.closed(at(0), ConnectionId(3));
    tracker.closed(at(0), ConnectionId(4));
    assert_eq!(code(&tracker.request(at(0), connection(9), manifest)), Some(ErrorCode::NotFound));
    assert!(tracker.sets.sealed.is_empty());
}

#[test]
fn chunks_without_a_reachable_holder_are_logged_up_to_a_limit() {
    let mut tracker = tracker();
    let [a, b] = [1, 2].map(|number| member(&mut tracker, number));
    let token = member(&mut tracker, 3);
    let report = |tracker: &mut Tracker, now, index| {
        let request =
            TrackerRequest::Unreachable { token, set: key(), index: ChunkIndex(index), seconds: 31 };
        tracker.request(at(now), connection(3), request)
    };
    assert_eq!(report(&mut tracker, 1, 0), [], "no hash is agreed");
    claims(&mut tracker, 1, a, 0, 1);
    claims(&mut tracker, 2, b, 0, 1);
    let line = "set default: chunk 1: peer3 has reached no holder for 31 s";
    assert_eq!(report(&mut tracker, 1, 0), [Effect::Note(line.to_owned())]);
    assert_eq!(code(&report(&mut tracker, 1, 2)), Some(ErrorCode::Malformed));
    let logged = (0..1_000).filter(|_| !report(&mut tracker, 2, 0).is_empty()).count();
    assert!((1..100).contains(&logged), "{logged}");
}

#[test]
fn a_member_with_another_chunk_count_is_told_of_the_other_sets() {
    let mut tracker = tracker();
    member(&mut tracker, 1);
    let token = register(&mut tracker, 0, connection(2), "peer2");
    let more = SetKey { count: 3, ..key() };
    let joined = tracker.request(at(0), connection(2), TrackerRequest::JoinSet { token, set: more.clone() });
    let told = TrackerResponse::SetJoined { set: more, others: vec![2] };
    assert_eq!(joined[0], Effect::Reply(connection(2), told));
}

#[test]
fn reports_of_completion_are_logged_for_known_files() {
    let mut tracker = tracker();
    let token = register(&mut tracker, 0, datagram(1), "s");
    let name = FileName::new("f").unwrap();
    let file = FileSummary { id: FileId([1; 32]), name, size: 1, chunks: 1 };
    tracker.request(at(0), datagram(1), TrackerRequest::Announce { token, file, held: 1, sent: None });
    let mut report = |now, id| {
        let name = PeerName::new("anna").unwrap();
        let request = TrackerRequest::Completed { file: FileId([id; 32]), report: ReportId(9), name };
        tracker.request(at(now), datagram(2), request).split_off(1)
    };
    assert_eq!(report(1, 2), [], "the file is not known");
    assert_eq!(report(1, 1), [Effect::Note("anna has downloaded f".to_owned())]);
}

/// The reports on undecided chunks in these effects, as texts, and the number of disputed chunks of each.
fn reports(effects: &[Effect]) -> Vec<(u64, Vec<String>, u32, u32)> {
    let report = |effect: &Effect| match effect {
        Effect::Push(ConnectionId(to), TrackerResponse::SetWaits { chunks, more, disputed, .. }) => {
            Some((*to, chunks.iter().map(ToString::to_string).collect(), *more, *disputed))
        }
        _ => None,
    };
    let mut reports: Vec<_> = effects.iter().filter_map(report).collect();
    reports.sort();
    reports
}

#[test]
fn members_of_an_undecided_set_get_its_reasons_at_intervals() {
    let rules = Rules { leases: Leases { lease: at(500), ..Leases::default() }, ..Rules::default() };
    let mut number = 0;
    let draw = move || {
        number += 1;
        number
    };
    let mut tracker = Tracker::new(rules, fastrand::Rng::with_seed(1), draw);
    let [a, b] = [1, 2].map(|number| member(&mut tracker, number));
    claims(&mut tracker, 1, a, 0, 1);
    wants(&mut tracker, 1, a, 1);
    claims(&mut tracker, 2, b, 1, 1);
    tracker.closed(at(20), ConnectionId(2));
    assert_eq!(reports(&tracker.tick(at(29))), []);
    assert_eq!(tracker.next_tick(), Some(at(30)));
    let effects = tracker.tick(at(30));
    let texts = ["chunk 1: 1 of 2 clients agree", "chunk 2: no holder; peer2 had it, disconnected 10 s ago"];
    assert_eq!(reports(&effects), [(1, texts.map(str::to_owned).to_vec(), 0, 0)]);
    let noted = Effect::Note(format!("set default: {}", texts[0]));
    assert!(effects.contains(&noted), "{effects:?}");
    assert_eq!(reports(&tracker.tick(at(59))), []);
    assert_eq!(reports(&tracker.tick(at(60))).len(), 1);
    // An agreement on each chunk ends the reports.
    let c = member(&mut tracker, 3);
    for (number, token, index) in [(1, a, 1), (3, c, 0), (3, c, 1)] {
        claims(&mut tracker, number, token, index, 1);
    }
    assert_eq!(reports(&tracker.tick(at(400))), []);
    assert_eq!(reports(&tracker.tick(at(450))), []);
}

#[test]
fn different_claims_are_reported_soon_and_not_too_often() {
    let mut tracker = tracker();
    let [a, b] = [1, 2].map(|number| member(&mut tracker, number));
    claims(&mut tracker, 1, a, 0, 1);
    claims(&mut tracker, 2, b, 0, 2);
    assert_eq!(tracker.next_tick(), Some(at(2)));
    let texts = [
        "chunk 1: 1 of 2 clients agree; the chunks of peer1 and peer2 differ".to_owned(),
        "chunk 2: no holder".to_owned(),
    ];
    let both = [1, 2].map(|to| (to, texts.to_vec(), 0, 1));
    assert_eq!(reports(&tracker.tick(at(2))), both);
    claims(&mut tracker, 2, b, 0, 3);
    assert_eq!(reports(&tracker.tick(at(9))), []);
}

/// The state of the set as a member sees it.
fn set_status(tracker: &mut Tracker, number: u64, token: Token) -> SetStatus {
    let request = TrackerRequest::SetStatus { token, set: key() };
    match tracker.request(at(9), connection(number), request).remove(0) {
        Effect::Reply(_, TrackerResponse::SetStatus { status }) => *status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn members_see_agreed_hashes_holders_and_different_claims() {
    let mut tracker = tracker();
    let [a, b, c] = [1, 2, 3].map(|number| member(&mut tracker, number));
    for (number, token, index, value) in [(1, a, 1, 1), (2, b, 1, 1), (3, c, 1, 2), (3, c, 0, 5)] {
        claims(&mut tracker, number, token, index, value);
    }
    let texts = |status: &SetStatus| -> Vec<String> {
        let of =
            |clients: &Clients| clients.names.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
        let chunk = |chunk: &ChunkStatus| {
            let claims: Vec<String> = chunk
                .claims
                .iter()
                .map(|claim| format!("{} {}", claim.sha256.0[0], of(&claim.clients)))
                .collect();
            let agreed = chunk.agreed.map(|digest| digest.0[0]);
            let last = chunk.last.as_ref().map(|last| format!("{} {} s", last.name, last.seconds));
            format!("{}: {agreed:?} {} [{}] {last:?}", chunk.index, of(&chunk.holders), claims.join(", "))
        };
        status.chunks.iter().map(chunk).collect()
    };
    let status = set_status(&mut tracker, 1, a);
    assert_eq!((status.quorum, status.agreed, status.clients), (2, 1, 3));
    assert_eq!(status.members.iter().map(|member| member.held).collect::<Vec<_>>(), [1, 1, 0]);
    assert_eq!(texts(&status), ["2: Some(1) peer1+peer2 [2 peer3] None", "1: None  [5 peer3] None"]);
    // No member waits for the first chunk, which has lost its only claim.
    tracker.closed(at(5), ConnectionId(3));
    let status = set_status(&mut tracker, 1, a);
    assert_eq!(texts(&status), ["1: None  [] Some(\"peer3 4 s\")", "2: Some(1) peer1+peer2 [] None"]);
    // Only members see it.
    let stranger = register(&mut tracker, 0, connection(4), "stranger");
    let request = TrackerRequest::SetStatus { token: stranger, set: key() };
    assert_eq!(code(&tracker.request(at(9), connection(4), request)), Some(ErrorCode::NotFound));
}
