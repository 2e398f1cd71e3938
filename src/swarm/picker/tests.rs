//! Tests of the request order: rarity, pipelining, endgame, refusals.

use super::*;
use proptest::prelude::*;

const NOW: Moment = Duration::ZERO;

fn picker(count: u32) -> Picker {
    Picker::new(Bitfield::none(count), true)
}

fn having(count: u32, chunks: &[u32]) -> Bitfield {
    let mut have = Bitfield::none(count);
    for chunk in chunks {
        have.insert(ChunkIndex(*chunk));
    }
    have
}

fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(5)
}

#[test]
fn requests_in_flight_fill_the_rtt_of_a_distant_source() {
    let ms = Duration::from_millis;
    let depth = |round_trip: Duration, each: Duration| {
        let mut picker = picker(1_000);
        let id = SourceId(0);
        picker.add_source(id, Bitfield::all(1_000), NOW);
        picker.set_rtt(id, round_trip);
        let mut random = rng();
        let (mut now, mut flying) = (NOW, std::collections::VecDeque::new());
        for _ in 0..60 {
            while let Some(index) = picker.pick(id, now, &mut random) {
                flying.push_back((index, now + round_trip));
            }
            let (index, begins) = flying.pop_front().unwrap();
            now = now.max(begins) + each;
            picker.arrived(id, index, now);
        }
        flying.len() + 1
    };
    assert_eq!(depth(ms(1), ms(40)), PIPELINE_MIN);
    assert_eq!(depth(ms(9), ms(40)), PIPELINE_MIN);
    // At 20 ms per chunk, an RTT of 50 ms is worth 2.5 chunks, plus the one in transfer.
    assert!((4..=7).contains(&depth(ms(50), ms(20))), "{}", depth(ms(50), ms(20)));
    assert_eq!(depth(ms(200), ms(4)), PIPELINE_LONG_RTT_MAX);
}

#[test]
fn a_fast_source_gets_requests_for_three_batches_of_the_verifier_and_for_more_of_small_chunks() {
    let (short, long) = (Duration::from_micros(100), Duration::from_micros(1_000));
    for (batch, chunk_time, expected) in
        [(4, short, 8 * 4), (16, short, 80), (4, long, 3 * 4), (16, long, 3 * 16)]
    {
        let mut picker = picker(1_000);
        picker.set_batch(batch);
        let (id, mut now, mut random) = (SourceId(0), NOW, rng());
        picker.add_source(id, Bitfield::all(1_000), NOW);
        picker.set_rtt(id, Duration::ZERO);
        let mut flying = std::collections::VecDeque::new();
        for _ in 0..200 {
            flying.extend(std::iter::from_fn(|| picker.pick(id, now, &mut random)));
            now += chunk_time;
            picker.arrived(id, flying.pop_front().unwrap(), now);
        }
        assert_eq!(flying.len() + 1, expected);
    }
}

#[test]
fn a_fast_source_does_not_get_the_share_of_other_sources() {
    let (count, batch) = (60, 16);
    let mut picker = picker(count);
    picker.set_batch(batch);
    let (mut now, mut random) = (NOW, rng());
    (0..2).for_each(|id| picker.add_source(SourceId(id), Bitfield::all(count), NOW));
    let mut requested = |picker: &mut Picker, now| {
        std::iter::from_fn(|| picker.pick(SourceId(0), now, &mut random)).collect::<Vec<_>>()
    };
    let first = requested(&mut picker, now);
    now += Duration::from_micros(1_000);
    picker.arrived(SourceId(0), first[0], now);
    requested(&mut picker, now);
    assert_eq!(picker.in_flight(SourceId(0)), (count as usize - 1) / 2);
    // Alone it gets as many as fit in its pipeline.
    picker.remove_source(SourceId(1));
    requested(&mut picker, now);
    assert_eq!(picker.in_flight(SourceId(0)), PIPELINE_BATCHES_MAX * batch);
    // However many sources there are, the pipeline of a fast one is not empty.
    let mut picker = self::picker(count);
    picker.set_batch(batch);
    (0..9).for_each(|id| picker.add_source(SourceId(id), Bitfield::all(count), NOW));
    let first = requested(&mut picker, NOW);
    picker.arrived(SourceId(0), first[0], now);
    requested(&mut picker, now);
    assert_eq!(picker.in_flight(SourceId(0)), PIPELINE_SHARE_MIN);
}

#[test]
fn chunks_that_arrive_together_share_the_time_since_the_last_arrival() {
    let mut picker = picker(100);
    picker.add_source(SourceId(0), Bitfield::all(100), NOW);
    let mut random = rng();
    let mut requested = |picker: &mut Picker, now| {
        std::iter::from_fn(|| picker.pick(SourceId(0), now, &mut random)).collect::<Vec<_>>()
    };
    let (mut now, mut chunks) = (NOW, requested(&mut picker, NOW));
    for _ in 0..9 {
        // 5 ms for each chunk, whatever their number.
        now += Duration::from_millis(5) * chunks.len() as u32;
        assert!(picker.arrived_together(SourceId(0), &chunks, now).into_iter().all(|is_new| is_new));
        chunks = requested(&mut picker, now);
    }
    assert_eq!(picker.sources[&SourceId(0)].chunk_time, Some(Duration::from_millis(5)));
    assert!(picker.arrived_together(SourceId(0), &[], now).is_empty());
    assert_eq!(picker.arrived_together(SourceId(1), &[ChunkIndex(99)], now), [true], "its source is gone");
}

#[test]
fn the_rarest_chunk_goes_first() {
    let mut picker = picker(3);
    picker.add_source(SourceId(0), Bitfield::all(3), NOW);
    picker.add_source(SourceId(1), having(3, &[0, 1]), NOW);
    picker.add_source(SourceId(2), having(3, &[0]), NOW);
    let mut random = rng();
    assert_eq!(picker.pick(SourceId(0), NOW, &mut random), Some(ChunkIndex(2)));
    assert_eq!(picker.pick(SourceId(0), NOW, &mut random), Some(ChunkIndex(1)));
    assert_eq!(picker.pick(SourceId(0), NOW, &mut random), None, "its pipeline is full");
    assert_eq!(picker.pick(SourceId(2), NOW, &mut random), Some(ChunkIndex(0)));
    assert_eq!(picker.pick(SourceId(2), NOW, &mut random), None);
}

#[test]
fn chunks_in_flight_from_a_lost_source_are_requested_elsewhere() {
    let mut picker = picker(1);
    picker.add_source(SourceId(0), Bitfield::all(1), NOW);
    picker.add_source(SourceId(1), Bitfield::all(1), NOW);
    let mut random = rng();
    assert!(picker.pick(SourceId(0), NOW, &mut random).is_some());
    assert_eq!(picker.pick(SourceId(1), NOW, &mut random), None);
    picker.remove_source(SourceId(0));
    assert_eq!(picker.pick(SourceId(1), NOW, &mut random), Some(ChunkIndex(0)));
    assert!(picker.arrived(SourceId(1), ChunkIndex(0), NOW));
    assert!(picker.is_complete());
}

#[test]
fn endgame_requests_a_late_chunk_from_another_source_and_counts_it_once() {
    let mut picker = picker(1);
    for id in 0..5 {
        picker.add_source(SourceId(id), Bitfield::all(1), NOW);
    }
    let mut random = rng();
    let mut pick = |id, seconds| picker.pick(SourceId(id), Duration::from_secs(seconds), &mut random);
    assert!(pick(0, 0).is_some());
    assert_eq!(pick(1, 1), None, "not late yet");
    assert!(pick(1, 2).is_some());
    assert_eq!(pick(1, 9), None, "never twice from one source");
    assert!(pick(2, 9).is_some());
    assert_eq!(pick(3, 99), None, "no more than three copies");
    assert!(picker.arrived(SourceId(2), ChunkIndex(0), NOW));
    assert!(!picker.arrived(SourceId(0), ChunkIndex(0), NOW));
    picker.remove_source(SourceId(1));
    assert!(picker.is_complete());
}

#[test]
fn a_large_chunk_is_requested_elsewhere_only_when_no_more_bytes_arrive() {
    let mut picker = picker(1);
    (0..2).for_each(|id| picker.add_source(SourceId(id), Bitfield::all(1), NOW));
    picker.wait_while_bytes_arrive();
    let (mut random, seconds) = (rng(), Duration::from_secs);
    assert!(picker.pick(SourceId(0), NOW, &mut random).is_some());
    for now in 1..9 {
        picker.heard(SourceId(0), seconds(now));
        assert_eq!(picker.pick(SourceId(1), seconds(now), &mut random), None);
    }
    assert!(picker.pick(SourceId(1), seconds(12), &mut random).is_some());
}

#[test]
fn an_overdue_chunk_is_reported_with_its_waiting_time() {
    let mut picker = picker(2);
    let id = SourceId(0);
    picker.add_source(id, Bitfield::all(2), NOW);
    let seconds = Duration::from_secs;
    assert_eq!(picker.overdue(id, seconds(9)), None, "no request is outstanding");
    let first = picker.pick(id, seconds(9), &mut rng()).unwrap();
    let second = picker.pick(id, seconds(9), &mut rng()).unwrap();
    assert_eq!(picker.overdue(id, seconds(10)), None);
    assert_eq!(picker.overdue(id, seconds(11)), Some((first, seconds(2))));
    // Its measured chunk time is now five seconds.
    picker.arrived(id, first, seconds(14));
    assert_eq!(picker.overdue(id, seconds(23)), None);
    assert_eq!(picker.overdue(id, seconds(24)), Some((second, seconds(10))));
    assert_eq!(picker.overdue(SourceId(1), seconds(99)), None);
}

#[test]
fn a_refused_chunk_is_requested_again_only_after_an_announcement() {
    let mut picker = picker(2);
    picker.add_source(SourceId(0), Bitfield::all(2), NOW);
    let mut random = rng();
    picker.pick(SourceId(0), NOW, &mut random);
    picker.pick(SourceId(0), NOW, &mut random);
    picker.refused(SourceId(0), ChunkIndex(1));
    assert_eq!(picker.pick(SourceId(0), NOW, &mut random), None);
    assert_eq!(picker.unavailable().collect::<Vec<_>>(), [ChunkIndex(1)]);
    picker.source_has(SourceId(0), ChunkIndex(1));
    assert_eq!(picker.pick(SourceId(0), NOW, &mut random), Some(ChunkIndex(1)));
}

#[test]
fn chunks_that_a_source_has_go_before_chunks_that_it_is_receiving() {
    let mut picker = picker(3);
    picker.add_source(SourceId(0), having(3, &[0]), NOW);
    picker.add_source(SourceId(1), having(3, &[0]), NOW);
    picker.source_receives(SourceId(0), ChunkIndex(1));
    let mut random = rng();
    assert_eq!(picker.pick(SourceId(0), NOW, &mut random), Some(ChunkIndex(0)), "although 1 is rarer");
    assert_eq!(picker.pick(SourceId(0), NOW, &mut random), Some(ChunkIndex(1)));
}

#[test]
fn a_late_chunk_is_requested_again_only_from_a_source_that_has_it() {
    let mut picker = picker(1);
    picker.add_source(SourceId(0), Bitfield::all(1), NOW);
    let (mut random, later) = (rng(), Duration::from_secs(9));
    assert!(picker.pick(SourceId(0), NOW, &mut random).is_some());
    picker.add_source(SourceId(1), Bitfield::none(1), NOW);
    picker.source_receives(SourceId(1), ChunkIndex(0));
    assert_eq!(picker.pick(SourceId(1), later, &mut random), None, "it may receive it from this peer");
    picker.source_has(SourceId(1), ChunkIndex(0));
    assert_eq!(picker.pick(SourceId(1), later, &mut random), Some(ChunkIndex(0)));
}

#[test]
fn no_chunk_is_requested_twice_while_others_are_open() {
    let mut picker = picker(2);
    picker.add_source(SourceId(0), having(2, &[0]), NOW);
    picker.add_source(SourceId(1), having(2, &[0]), NOW);
    let (mut random, later) = (rng(), Duration::from_secs(9));
    assert!(picker.pick(SourceId(0), NOW, &mut random).is_some());
    assert_eq!(picker.pick(SourceId(1), later, &mut random), None, "chunk 1 is open");
    picker.have(ChunkIndex(1));
    assert_eq!(picker.pick(SourceId(1), later, &mut random), Some(ChunkIndex(0)));
}

#[test]
fn the_deficit_is_measured_against_the_median_source_since_it_appeared() {
    let mut picker = picker(100);
    assert_eq!(picker.deficit(), None);
    picker.add_source(SourceId(0), Bitfield::all(100), NOW);
    assert_eq!(picker.deficit(), None, "complete sources do not count");
    let gain = |picker: &mut Picker, id, from, count| {
        (from..from + count).for_each(|index| picker.source_has(SourceId(id), ChunkIndex(index)));
    };
    picker.add_source(SourceId(1), having(100, &[0, 1, 2]), NOW);
    gain(&mut picker, 1, 3, 20);
    assert_eq!(picker.deficit(), Some(20));
    for _ in 0..5 {
        let index = picker.pick(SourceId(1), NOW, &mut rng()).unwrap();
        picker.arrived(SourceId(1), index, NOW);
    }
    picker.add_source(SourceId(2), Bitfield::none(100), NOW);
    assert_eq!(picker.deficit(), Some(15), "the upper median");
    gain(&mut picker, 2, 0, 9);
    picker.add_source(SourceId(3), Bitfield::none(100), NOW);
    assert_eq!(picker.deficit(), Some(9));
    picker.set_boost(1);
    let picks = std::iter::from_fn(|| picker.pick(SourceId(2), NOW, &mut rng())).count();
    assert_eq!(picks, PIPELINE_MIN + 1);
    assert_eq!(picker.deficit(), Some(8), "one chunk arrives now");
}

#[test]
fn unwanted_chunks_are_never_requested() {
    let mut picker = Picker::new(having(3, &[0]), false);
    picker.add_source(SourceId(0), Bitfield::all(3), NOW);
    let mut random = rng();
    assert_eq!(picker.pick(SourceId(0), NOW, &mut random), None);
    picker.want(ChunkIndex(2));
    picker.want(ChunkIndex(3));
    assert_eq!(picker.pick(SourceId(0), NOW, &mut random), Some(ChunkIndex(2)));
    picker.want(ChunkIndex(0));
    assert_eq!(
        picker.pick(SourceId(0), NOW, &mut random),
        Some(ChunkIndex(0)),
        "a corrupt chunk is requested again"
    );
}

#[derive(Debug, Clone)]
enum Step {
    Add(u32, Vec<bool>),
    Has(u32, u32),
    Remove(u32),
    Pick(u32),
    Arrive(u32),
    Refuse(u32),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let source = 0u32..4;
    prop_oneof![
        (source.clone(), prop::collection::vec(any::<bool>(), 6)).prop_map(|(s, h)| Step::Add(s, h)),
        (source.clone(), 0u32..6).prop_map(|(s, i)| Step::Has(s, i)),
        source.clone().prop_map(Step::Remove),
        source.clone().prop_map(Step::Pick),
        source.clone().prop_map(Step::Pick),
        source.clone().prop_map(Step::Arrive),
        source.prop_map(Step::Refuse),
        (0u64..3).prop_map(Step::Pass),
    ]
}

fn check(picker: &Picker) {
    for index in (0..6).map(ChunkIndex) {
        let flying: Vec<SourceId> = picker.flights.get(&index).cloned().unwrap_or_default();
        let open = !picker.done.has(index) && flying.is_empty();
        assert_eq!(picker.open.contains(index), open);
        assert!(flying.len() <= ENDGAME_COPIES_MAX);
        let partial = picker.sources.values().filter(|source| source.partial);
        let rarity = partial.filter(|source| source.have.has(index)).count();
        assert_eq!(picker.rarity[index.at()] as usize, rarity);
        assert!(picker.sources.values().all(|source| source.have.has(index) || !source.whole.has(index)));
    }
    for (id, source) in &picker.sources {
        assert!(source.flights.len() <= PIPELINE_LONG_RTT_MAX);
        for (index, since) in &source.flights {
            assert!(picker.flights[index].contains(id));
            assert!(picker.done.has(*index) || picker.oldest.get() <= *since);
        }
    }
}

proptest! {
    #[test]
    fn the_invariants_hold_for_any_sequence_of_events(steps in prop::collection::vec(step(), 0..150), seed: u64) {
        let mut picker = picker(6);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut now = NOW;
        let mut asked: Vec<(SourceId, ChunkIndex)> = Vec::new();
        for step in steps {
            match step {
                Step::Add(source, held) => {
                    let held: Vec<u32> = (0..6).filter(|at| held[*at as usize]).collect();
                    asked.retain(|(id, _)| id.0 != source);
                    picker.add_source(SourceId(source), having(6, &held), now);
                }
                Step::Has(source, index) => picker.source_has(SourceId(source), ChunkIndex(index)),
                Step::Remove(source) => {
                    asked.retain(|(id, _)| id.0 != source);
                    picker.remove_source(SourceId(source));
                }
                Step::Pick(source) => {
                    let id = SourceId(source);
                    if let Some(index) = picker.pick(id, now, &mut random) {
                        prop_assert!(!picker.done.has(index) && !asked.contains(&(id, index)));
                        asked.push((id, index));
                    }
                }
                Step::Arrive(source) => {
                    if let Some(at) = asked.iter().position(|(id, _)| id.0 == source) {
                        let (id, index) = asked.remove(at);
                        picker.arrived(id, index, now);
                        prop_assert!(picker.done.has(index));
                    }
                }
                Step::Refuse(source) => {
                    if let Some(at) = asked.iter().position(|(id, _)| id.0 == source) {
                        let (id, index) = asked.remove(at);
                        picker.refused(id, index);
                    }
                }
                Step::Pass(seconds) => now += Duration::from_secs(seconds),
            }
            check(&picker);
        }
        // A single honest complete source finishes the download.
        picker.add_source(SourceId(9), Bitfield::all(6), now);
        for _ in 0..20 {
            now += Duration::from_secs(60);
            while let Some(index) = picker.pick(SourceId(9), now, &mut random) {
                picker.arrived(SourceId(9), index, now);
            }
            // The other sources never respond; they are removed.
            (0..4).for_each(|id| picker.remove_source(SourceId(id)));
        }
        prop_assert!(picker.is_complete() && picker.done.is_complete());
    }
}
