//! Tests of the registry.

use super::holders::RANKS;
use super::naming::divide;
use super::*;
use crate::protocol::tokens::IdentityKey;
use crate::protocol::tracker::Registration;
use crate::swarm::reach::{Candidates, DialState};
use proptest::prelude::*;

const LEASE: Duration = Duration::from_secs(10);
const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn at(seconds: u64) -> Moment {
    Duration::from_secs(seconds)
}

fn registry() -> Registry {
    Registry::new(LEASE)
}

fn join(registry: &mut Registry, now: u64, number: u16) -> PeerId {
    let address = SocketAddr::from(([10, 0, 0, 1], number));
    let name = PeerName::new(format!("peer{number}")).unwrap();
    registry.register(at(now), number.into(), name, address).unwrap().0
}

fn token(registry: &Registry, peer: PeerId) -> Token {
    registry.peers.token(peer).unwrap_or(Token(u128::MAX))
}

fn file(number: u8, name: &str) -> FileSummary {
    FileSummary { id: FileId([number; 32]), name: FileName::new(name).unwrap(), size: 5, chunks: 10 }
}

fn ports(registry: &Registry, now: u64, name: &str) -> Vec<(Vec<u16>, Vec<u16>)> {
    let name = FileName::new(name).unwrap();
    let found =
        registry.lookup(at(now), Some(&name), None, None, 100, LOCAL, &mut fastrand::Rng::with_seed(1)).0;
    let sorted = |holders: &[PeerAddress]| {
        let mut ports: Vec<u16> = holders.iter().map(|holder| holder.first().port()).collect();
        ports.sort_unstable();
        ports
    };
    found.iter().map(|found| (sorted(&found.whole), sorted(&found.partial))).collect()
}

#[test]
fn an_expired_peer_is_in_no_lookup_from_that_moment_on() {
    let mut registry = registry();
    let one = join(&mut registry, 0, 1);
    let two = join(&mut registry, 0, 2);
    for peer in [one, two] {
        registry.announce(peer, &file(1, "f"), 10).unwrap();
    }
    let (first, second) = (token(&registry, one), token(&registry, two));
    assert!(registry.heartbeat(at(9), second).is_some());
    assert_eq!(ports(&registry, 9, "f"), [(vec![1, 2], vec![])]);
    assert_eq!(ports(&registry, 10, "f"), [(vec![2], vec![])]);
    assert!(registry.heartbeat(at(10), first).is_none(), "an expired lease cannot be renewed");
    let gone: Vec<PeerId> = registry.expire(at(10)).into_iter().map(|(id, _)| id).collect();
    assert_eq!(gone, [one]);
    assert!(registry.next_expiry().is_some_and(|next| next > at(10) && next <= at(19)));
    assert!(registry.expire(at(19) - Duration::from_nanos(1)).is_empty());
    assert_eq!(registry.next_expiry(), Some(at(19)));
    assert_eq!(registry.expire(at(19)).len(), 1);
    assert!(registry.numbers.is_empty() && registry.names.is_empty() && registry.peers.len() == 0);
}

#[test]
fn peers_behind_one_address_are_distinct() {
    let mut registry = registry();
    let address = SocketAddr::from(([10, 0, 0, 1], 1));
    let name = PeerName::new("x").unwrap();
    let first = registry.register(at(0), 1, name.clone(), address).unwrap().0;
    let second = registry.register(at(5), 2, name, address).unwrap().0;
    registry.announce(first, &file(1, "f"), 10).unwrap();
    registry.announce(second, &file(1, "f"), 10).unwrap();
    assert_eq!(ports(&registry, 6, "f"), [(vec![1], vec![])], "the shared address is returned once");
    assert_eq!(registry.expire(at(10)).len(), 1);
    assert_eq!(ports(&registry, 11, "f"), [(vec![1], vec![])]);
}

#[test]
fn lookup_separates_complete_and_partial_holders_and_files_of_one_name() {
    let mut registry = registry();
    let (one, two, three) = (join(&mut registry, 0, 1), join(&mut registry, 0, 2), join(&mut registry, 0, 3));
    registry.announce(one, &file(1, "f"), 10).unwrap();
    registry.announce(two, &file(1, "f"), 3).unwrap();
    registry.announce(three, &file(2, "f"), 10).unwrap();
    assert_eq!(ports(&registry, 1, "f"), [(vec![1], vec![2]), (vec![3], vec![])]);
    registry.announce(two, &file(1, "f"), 10).unwrap();
    registry.announce(three, &file(2, "g"), 10).unwrap();
    registry.retract(three, FileId([2; 32]), Some(&FileName::new("f").unwrap()));
    assert_eq!(ports(&registry, 1, "f"), [(vec![1, 2], vec![])]);
    registry.retract(one, FileId([1; 32]), None);
    registry.remove(two);
    assert_eq!(ports(&registry, 1, "f"), []);
    assert_eq!(ports(&registry, 1, "g"), [(vec![3], vec![])]);
}

#[test]
fn a_lookup_excludes_the_requester_and_keeps_to_its_limit() {
    let mut registry = registry();
    let peers: Vec<PeerId> = (1..=40).map(|number| join(&mut registry, 0, number)).collect();
    for (number, peer) in peers.iter().enumerate() {
        registry.announce(*peer, &file(1, "f"), if number < 30 { 10 } else { 1 }).unwrap();
    }
    let mut random = fastrand::Rng::with_seed(3);
    let mut look = |except, limit| {
        registry.lookup(at(0), None, Some(FileId([1; 32])), except, limit, LOCAL, &mut random).0
    };
    let found = &look(Some(peers[0]), 8)[0];
    assert_eq!((found.holders, found.whole.len(), found.partial.len()), (39, 4, 4));
    let found = &look(None, 35)[0];
    assert_eq!((found.whole.len(), found.partial.len()), (25, 10));
    assert!(look(None, 0)[0].whole.is_empty());
}

/// A peer with its own source address that has announced the file 1.
fn holder_at(registry: &mut Registry, source: [u8; 4], port: u16) -> PeerId {
    let (ip, name) = (IpAddr::from(source), PeerName::new(format!("peer{port}")).unwrap());
    let secret = u128::from(u32::from_be_bytes(source)) << 16 | u128::from(port);
    let id = registry.register(at(0), secret, name, SocketAddr::new(ip, port)).unwrap().0;
    registry.set_source(id, ip);
    registry.announce(id, &file(1, "f"), 10).unwrap();
    id
}

/// Notes that the tracker reaches a peer, or no longer does.
fn reach(registry: &mut Registry, id: PeerId, works: bool) {
    let address = registry.peer(id).unwrap().address;
    if registry.reaches.of(id).is_none() {
        let registration = Registration {
            name: PeerName::new("x").unwrap(),
            port: address.port(),
            advertise: None,
            addresses: vec![],
            identity: Some(IdentityKey(7)),
            volunteer: false,
        };
        registry.reaches.put(id, Candidates::new(address, &registration, false));
    }
    registry.reaches.note(id, address, if works { DialState::Works } else { DialState::Fails });
    registry.rank_again(id);
}

fn look(registry: &Registry, limit: usize, random: &mut fastrand::Rng) -> Vec<SocketAddr> {
    let id = Some(FileId([1; 32]));
    let (found, _) = registry.lookup(at(1), None, id, None, limit, IpAddr::from([9, 9, 9, 9]), random);
    found[0].whole.iter().map(PeerAddress::first).collect()
}

#[test]
fn a_holder_that_the_tracker_has_reached_is_named_first_beside_thousands_of_dead_hosts() {
    let (mut registry, mut random) = (registry(), fastrand::Rng::with_seed(5));
    for number in 0..1_000_u16 {
        holder_at(&mut registry, [10, 1, (number >> 8) as u8, number as u8], 7);
    }
    let honest = holder_at(&mut registry, [10, 0, 0, 1], 7);
    for number in 1_000..2_000_u16 {
        let dead = holder_at(&mut registry, [10, 1, (number >> 8) as u8, number as u8], 7);
        reach(&mut registry, dead, false);
    }
    reach(&mut registry, honest, true);
    let address = registry.peer(honest).unwrap().address;
    for _ in 0..50 {
        let found = look(&registry, 8, &mut random);
        assert_eq!((found.len(), found[0]), (8, address));
    }
    reach(&mut registry, honest, false);
    assert!((0..9).any(|_| look(&registry, 8, &mut random)[0] != address), "it is one of many");
    agree(&registry).unwrap();
}

#[test]
fn a_host_with_thousands_of_peers_hides_no_other_holder() {
    for are_reached in [false, true] {
        let (mut registry, mut random) = (registry(), fastrand::Rng::with_seed(5));
        let many: Vec<PeerId> =
            (1..=2_000).map(|port| holder_at(&mut registry, [10, 0, 0, 9], port)).collect();
        let honest = holder_at(&mut registry, [10, 0, 0, 1], 7);
        let all = many.iter().copied().chain([honest]);
        all.for_each(|id| reach(&mut registry, id, are_reached));
        let address = registry.peer(honest).unwrap().address;
        for _ in 0..50 {
            let found = look(&registry, 24, &mut random);
            assert!(found.len() == 24 && found.contains(&address), "{found:?}");
        }
        // All are named if there is a place for all.
        many.into_iter().skip(30).for_each(|id| _ = registry.remove(id));
        assert_eq!(look(&registry, 64, &mut random).len(), 31);
        agree(&registry).unwrap();
    }
}

#[test]
fn each_rank_gets_half_of_the_places_that_are_left_and_those_that_others_leave_free() {
    assert_eq!(divide([90, 90, 90, 90], 64), [36, 16, 8, 4]);
    assert_eq!(divide([1, 0, 90, 2], 64), [1, 0, 61, 2]);
    assert_eq!(divide([90, 3, 0, 0], 64), [61, 3, 0, 0]);
    assert_eq!(divide([2, 1, 0, 1], 64), [2, 1, 0, 1]);
    assert_eq!(divide([5, 5, 5, 5], 1), [1, 0, 0, 0]);
    assert_eq!(divide([5, 5, 5, 5], 0), [0; RANKS]);
}

#[test]
fn equal_files_of_a_peer_are_listed_and_found_under_each_of_their_names() {
    let mut registry = registry();
    let (one, two) = (join(&mut registry, 0, 1), join(&mut registry, 0, 2));
    let name = |name: &str| FileName::new(name).unwrap();
    for name in ["a", "b", "c"] {
        assert!(registry.announce(one, &file(1, name), 10).unwrap());
    }
    registry.announce(two, &file(1, "b"), 10).unwrap();
    let listed = |registry: &Registry| {
        let (found, all) = registry.list(at(1), 3, 9, LOCAL, &mut fastrand::Rng::with_seed(1));
        assert_eq!(found.len(), all);
        found.iter().map(|found| found.file.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&registry), ["a", "b", "c"]);
    assert_eq!(ports(&registry, 1, "c"), [(vec![1, 2], vec![])]);
    let id = FileId([1; 32]);
    registry.retract(one, id, Some(&name("a")));
    assert_eq!((listed(&registry), ports(&registry, 1, "a")), (vec!["b".into(), "c".into()], vec![]));
    registry.retract(one, id, Some(&name("b")));
    registry.retract(one, id, Some(&name("other")));
    assert_eq!(listed(&registry), ["b", "c"]);
    registry.retract(one, id, Some(&name("c")));
    assert_eq!((listed(&registry), ports(&registry, 1, "b")), (vec!["b".into()], vec![(vec![2], vec![])]));
}

#[test]
fn names_of_equal_files_count_towards_the_limit_of_a_peer() {
    let mut registry = registry();
    let peer = join(&mut registry, 0, 1);
    registry.files_max = 9;
    for number in 0..9 {
        registry.announce(peer, &file(1, &format!("f{number}")), 10).unwrap();
    }
    assert_eq!(registry.announce(peer, &file(1, "g"), 10), Err(RegistryFull::Files(9)));
    assert_eq!(registry.file_count(peer), 9);
    registry.retract(peer, FileId([1; 32]), Some(&FileName::new("f7").unwrap()));
    assert_eq!(registry.announce(peer, &file(1, "g"), 10), Ok(true));
}

#[test]
fn a_removed_peer_excludes_no_other_peer_from_a_lookup() {
    let mut registry = registry();
    let gone = join(&mut registry, 0, 1);
    registry.remove(gone);
    // This peer may reuse the slot of the removed one.
    let here = join(&mut registry, 0, 2);
    registry.announce(here, &file(1, "f"), 10).unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    let (found, _) = registry.lookup(at(0), None, Some(FileId([1; 32])), Some(gone), 8, LOCAL, &mut random);
    assert_eq!(found.first().map(|found| found.whole.len()), Some(1));
}

#[test]
fn a_lookup_is_bounded_for_any_number_of_files_of_one_name() {
    let mut registry = registry();
    let peers: Vec<PeerId> = (1..=30).map(|number| join(&mut registry, 0, number)).collect();
    for number in 0..=200 {
        for peer in &peers {
            registry.announce(*peer, &file(number, "f"), 10).unwrap();
        }
    }
    let name = FileName::new("f").unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    let mut seen = BTreeSet::new();
    for _ in 0..50 {
        let (found, more) = registry.lookup(at(1), Some(&name), None, None, 512, LOCAL, &mut random);
        assert!(more && found.len() == FOUND_FILES_MAX);
        assert!(found.iter().map(|found| found.whole.len()).sum::<usize>() <= HOLDERS_MAX);
        seen.extend(found.iter().map(|found| found.file.id));
    }
    assert!(seen.len() > FOUND_FILES_MAX, "the choice is random");
    let one = registry.lookup(at(1), Some(&name), Some(FileId([7; 32])), None, 512, LOCAL, &mut random);
    assert!(!one.1 && one.0[0].whole.len() == 30);
}

#[test]
fn expired_peers_are_not_returned_before_they_are_removed() {
    let mut registry = registry();
    let peers: Vec<PeerId> = (1..=9).map(|number| join(&mut registry, 0, number)).collect();
    for peer in &peers {
        registry.announce(*peer, &file(1, "f"), 10).unwrap();
    }
    registry.heartbeat(at(5), token(&registry, peers[3]));
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..50 {
        let (found, _) = registry.lookup(at(10), None, Some(FileId([1; 32])), None, 1, LOCAL, &mut random);
        assert_eq!(found[0].whole, [registry.peer(peers[3]).unwrap().address.into()]);
    }
}

#[test]
fn the_list_contains_every_file_with_a_live_holder() {
    let mut registry = registry();
    let peers: Vec<PeerId> = (1..=9).map(|number| join(&mut registry, 0, number)).collect();
    for (at, peer) in peers.iter().enumerate() {
        registry.announce(*peer, &file(2, "b"), if at < 5 { 10 } else { 1 }).unwrap();
    }
    registry.announce(peers[0], &file(1, "b"), 10).unwrap();
    registry.announce(peers[0], &file(3, "a"), 1).unwrap();
    let list = |registry: &Registry, now, files| {
        let (found, all) = registry.list(at(now), 3, files, LOCAL, &mut fastrand::Rng::with_seed(1));
        let shown = |found: &FoundFile| {
            let FoundFile { file, holders, complete, whole, partial, .. } = found;
            (file.name.to_string(), file.id.0[0], (*holders, *complete), whole.len(), partial.len())
        };
        (found.iter().map(shown).collect::<Vec<_>>(), all)
    };
    let (a, one, two) =
        (("a".into(), 3, (1, 0), 0, 1), ("b".into(), 1, (1, 1), 1, 0), ("b".into(), 2, (9, 5), 3, 3));
    assert_eq!(list(&registry, 1, 9), (vec![a.clone(), one, two], 3));
    assert_eq!(list(&registry, 1, 1), (vec![a], 3));
    assert_eq!(list(&registry, 10, 9), (vec![], 0), "all leases have expired");
    let changes = registry.changes();
    registry.announce(peers[0], &file(3, "a"), 2).unwrap();
    assert_eq!(
        registry.changes(),
        changes,
        "the list does not show the number of chunks of a partial holder"
    );
    registry.announce(peers[0], &file(3, "a"), 10).unwrap();
    assert!(registry.changes() > changes);
}

#[derive(Debug, Clone)]
enum Step {
    Join,
    Announce(usize, u8, u8, u32),
    Heartbeat(usize),
    Retract(usize, u8, Option<u8>),
    Remove(usize),
    Reach(usize, bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Join),
        (0usize..8, 0u8..3, 0u8..3, 0u32..12).prop_map(|(p, f, n, h)| Step::Announce(p, f, n, h)),
        (0usize..8, 0u8..3, prop::option::of(0u8..3)).prop_map(|(p, f, n)| Step::Retract(p, f, n)),
        (0usize..8).prop_map(Step::Heartbeat),
        (0usize..8).prop_map(Step::Remove),
        (0usize..8, any::<bool>()).prop_map(|(peer, works)| Step::Reach(peer, works)),
        (0u64..7).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn lookups_return_only_live_peers_after_any_sequence_of_events(steps in prop::collection::vec(step(), 0..60)) {
        let mut registry = registry();
        let mut peers = Vec::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Join => peers.push(join(&mut registry, now, peers.len() as u16)),
                Step::Announce(peer, f, name, held) => {
                    if let Some(peer) = peers.get(peer) {
                        registry.announce(*peer, &file(f, ["a", "b", "c"][name as usize]), held).unwrap();
                    }
                }
                Step::Retract(peer, f, name) => {
                    let name = name.map(|name| FileName::new(["a", "b", "c"][name as usize]).unwrap());
                    if let Some(peer) = peers.get(peer) {
                        registry.retract(*peer, FileId([f; 32]), name.as_ref());
                    }
                }
                Step::Heartbeat(peer) => {
                    let known = peers.get(peer).map(|peer| token(&registry, *peer));
                    known.and_then(|token| registry.heartbeat(at(now), token));
                }
                Step::Remove(peer) => {
                    peers.get(peer).map(|peer| registry.remove(*peer));
                }
                Step::Reach(peer, works) => {
                    // No peer can connect to port 0, which the first one has.
                    let peer = peers.get(peer).filter(|peer| registry.peer(**peer).is_some());
                    if let Some(peer) = peer.filter(|peer| registry.peer(**peer).unwrap().address.port() != 0) {
                        reach(&mut registry, *peer, works);
                    }
                }
                Step::Pass(seconds) => {
                    now += seconds;
                    registry.expire(at(now));
                }
            }
            for name in ["a", "b", "c"] {
                let name = FileName::new(name).unwrap();
                let mut random = fastrand::Rng::with_seed(now);
                for found in registry.lookup(at(now), Some(&name), None, None, 100, LOCAL, &mut random).0 {
                    prop_assert_eq!(found.holders as usize, found.whole.len() + found.partial.len());
                    prop_assert_eq!(found.complete as usize, found.whole.len());
                    prop_assert_eq!(&found.file.name, &name);
                    for address in found.whole.iter().chain(&found.partial) {
                        let peer = peers.get(address.first().port() as usize);
                        let expires = peer.and_then(|id| registry.peers.expires(*id));
                        prop_assert!(expires.is_some_and(|expires| expires > at(now)));
                    }
                }
            }
            prop_assert!(registry.files.iter().flatten().all(|file| file.holders.len() > 0));
            agree(&registry)?;
        }
    }
}

/// Checks that the files of each peer and the holders of each file refer to each other.
fn agree(registry: &Registry) -> Result<(), TestCaseError> {
    let mut spots = 0;
    for peer in registry.peers() {
        for (number, spot) in peer.held.iter() {
            let file = registry.files[number as usize].as_ref();
            let holder = file.and_then(|file| file.holders.get(spot)).map(|(holder, _)| holder.peer);
            let there = holder.and_then(|place| registry.peers.live_at(Moment::ZERO, place));
            prop_assert!(there.is_some_and(|there| std::ptr::eq(there, peer)));
            let ranks = file.map_or_else(Vec::new, |file| file.holders.ranks_at(spot));
            prop_assert_eq!(
                ranks,
                holder.map(|slot| registry.peers.rank(slot)).into_iter().collect::<Vec<_>>()
            );
            spots += 1;
        }
    }
    let files = registry.files.iter().flatten();
    prop_assert_eq!(spots, files.clone().map(|file| file.holders.len()).sum::<usize>());
    prop_assert_eq!(registry.numbers.len(), files.clone().count());
    prop_assert_eq!(registry.numbers.len() + registry.free.len(), registry.files.len());
    let names = files.clone().map(|file| file.names.values().sum::<u32>() as usize);
    let uses = names.sum::<usize>();
    prop_assert_eq!(uses, spots + registry.aliases.len());
    let used = |kind| registry.shares.used(kind) as usize;
    prop_assert_eq!((used(BudgetKind::Holders), used(BudgetKind::Files)), (uses, registry.numbers.len()));
    let listed = files.map(|file| file.names.len()).sum::<usize>();
    prop_assert_eq!(registry.names.values().map(BTreeSet::len).sum::<usize>(), listed);
    Ok(())
}
