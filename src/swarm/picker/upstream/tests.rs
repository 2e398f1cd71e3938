//! Who is asked, and who is not, while somebody is to be asked before all others.

use super::trial::AGAIN_AFTER;
use super::*;
use crate::content::Bitfield;

const FIRST: SourceId = SourceId(1);
const AHEAD: SourceId = SourceId(2);
const OTHER: SourceId = SourceId(3);

/// Everybody is there, and `AHEAD` is to be asked.
fn picker(first: Option<SourceId>) -> (Picker, fastrand::Rng) {
    let mut picker = Picker::new(Bitfield::none(100), true);
    picker.add_source(FIRST, Bitfield::all(100), ms(0));
    picker.add_source(AHEAD, Bitfield::none(100), ms(0));
    picker.add_source(OTHER, Bitfield::none(100), ms(0));
    follow(&mut picker, Some(AHEAD), first, ms(0));
    (picker, fastrand::Rng::with_seed(1))
}

/// The same in both of two stripes.
fn tree() -> (Picker, fastrand::Rng) {
    let (mut picker, random) = picker(None);
    picker.split(2, ms(0));
    for stripe in 0..2 {
        picker.follow(stripe, Place { source: Some(AHEAD), steps: 1, ..Place::default() }, ms(0));
    }
    (picker, random)
}

fn follow(picker: &mut Picker, source: Option<SourceId>, first: Option<SourceId>, now: Moment) {
    picker.follow(0, Place { source, first, ..Place::default() }, now);
}

fn ms(time: u64) -> Moment {
    Duration::from_millis(time)
}

fn gets(picker: &mut Picker, id: SourceId, chunks: std::ops::Range<u32>) {
    chunks.for_each(|index| picker.source_has(id, ChunkIndex(index), ms(0)));
}

#[test]
fn nobody_but_the_one_ahead_is_asked_while_it_keeps_up() {
    let (mut picker, mut random) = picker(None);
    gets(&mut picker, AHEAD, 0..1);
    gets(&mut picker, OTHER, 0..5);
    assert_eq!(picker.pick(FIRST, ms(10), &mut random), None);
    assert_eq!(picker.pick(OTHER, ms(10), &mut random), None);
    assert_eq!(picker.pick(AHEAD, ms(10), &mut random), Some(ChunkIndex(0)));
    assert!(!picker.waits_long(0, ms(10)) && !picker.waits_long(0, ms(20)));
    picker.remove_source(AHEAD);
    assert!(picker.pick(OTHER, ms(30), &mut random).is_some(), "it is gone");
}

#[test]
fn far_from_the_one_who_has_the_file_the_first_chunk_is_waited_for_longer() {
    let asks_others_after = |steps| {
        let (mut picker, mut random) = picker(None);
        picker.follow(0, Place { source: Some(AHEAD), steps, ..Place::default() }, ms(0));
        gets(&mut picker, OTHER, 0..50);
        (0..50).map(|tick| ms(tick * 100)).find(|now| picker.pick(OTHER, *now, &mut random).is_some())
    };
    let near = asks_others_after(0).unwrap();
    assert!((OWED..OWED + ms(200)).contains(&near), "{near:?}");
    assert!(asks_others_after(20).unwrap() >= near + STEP_TIME * 20);
}

#[test]
fn everybody_is_asked_when_nobody_is_to_be_asked_before_all_others_any_more() {
    for stripes in [1, 3] {
        let (mut picker, mut random) = picker(None);
        picker.split(stripes, ms(0));
        (0..stripes).for_each(|stripe| {
            picker.follow(stripe, Place { source: Some(AHEAD), steps: 1, ..Place::default() }, ms(0));
        });
        assert_eq!(picker.pick(FIRST, ms(10), &mut random), None);
        picker.follow_nobody();
        assert!(picker.pick(FIRST, ms(10), &mut random).is_some());
    }
}

#[test]
fn who_falls_behind_the_one_ahead_asks_everybody() {
    let (mut picker, mut random) = picker(None);
    gets(&mut picker, AHEAD, 0..30);
    assert!(picker.pick(OTHER, ms(1_000), &mut random).is_none(), "it has nothing");
    gets(&mut picker, OTHER, 0..30);
    assert!(picker.pick(OTHER, ms(1_000), &mut random).is_some());
    assert!(!picker.waits_long(0, ms(1_000)), "once is nothing");
    assert!(picker.waits_long(0, ms(1_100)));
}

#[test]
fn who_comes_late_is_not_behind_as_long_as_it_catches_up() {
    let mut picker = Picker::new(Bitfield::none(100), true);
    picker.add_source(AHEAD, Bitfield::none(100), ms(0));
    gets(&mut picker, AHEAD, 0..60);
    follow(&mut picker, Some(AHEAD), None, ms(0));
    (0..30).for_each(|index| _ = picker.arrived(AHEAD, ChunkIndex(index), ms(1_000)));
    gets(&mut picker, AHEAD, 60..63);
    picker.upstreams.ahead[0].since = ms(1_000);
    assert_eq!(picker.keeps_to(0, ms(2_000)), Some(AHEAD), "33 less, after 60");
    gets(&mut picker, AHEAD, 63..80);
    assert_eq!(picker.keeps_to(0, ms(2_000)), None, "50 less, after 30");
}

#[test]
fn one_ahead_who_gets_nothing_itself_is_seen_by_what_others_have() {
    let (mut picker, _) = picker(None);
    gets(&mut picker, OTHER, 0..90);
    assert!(!picker.waits_long(0, ms(1_800)) && picker.waits_long(0, ms(1_900)));
}

#[test]
fn one_ahead_who_gives_nothing_is_not_waited_for_whoever_else_there_is() {
    let (mut picker, mut random) = picker(None);
    assert_eq!(picker.pick(FIRST, SILENT_MIN, &mut random), None);
    assert!(picker.pick(FIRST, SILENT_MIN + ms(1), &mut random).is_some());
    // Not even by three more who give nothing.
    for id in (4..9).map(SourceId) {
        picker.add_source(id, Bitfield::all(100), SILENT_MIN);
        assert!(picker.pick(id, SILENT_MIN + ms(1), &mut random).is_some());
    }
}

#[test]
fn one_ahead_who_gives_nothing_is_waited_for_as_long_as_three_chunks_take_others() {
    let asks_others_after = |others: u32| {
        let (mut picker, mut random) = tree();
        gets(&mut picker, AHEAD, 0..1);
        assert!(picker.pick(AHEAD, ms(0), &mut random).is_some());
        gets(&mut picker, OTHER, 0..others);
        (0..100).map(|tick| ms(tick * 100)).find(|now| picker.pick(FIRST, *now, &mut random).is_some())
    };
    assert_eq!(asks_others_after(9), Some(SILENT_MIN + ms(100)), "a chunk takes less than a second");
    assert_eq!(asks_others_after(1), Some(STRIPE_PACE_MAX * SILENT + ms(100)));
}

fn follow_past(picker: &mut Picker, slow: bool) {
    let place = Place { source: Some(AHEAD), beyond: Some(OTHER), first: None, steps: 2, slow, left: false };
    picker.follow(0, place, ms(0));
}

#[test]
fn until_a_slow_one_is_replaced_the_one_beyond_it_is_asked_for_a_few() {
    let (mut picker, mut random) = picker(None);
    follow_past(&mut picker, false);
    gets(&mut picker, OTHER, 0..BEYOND_CHUNKS);
    assert_eq!(picker.pick(OTHER, ms(150), &mut random), None, "that is nothing yet");
    gets(&mut picker, OTHER, 0..60);
    for _ in 0..BRIDGED_MAX {
        let index = picker.pick(OTHER, ms(150), &mut random).expect("it has more than anybody else");
        picker.arrived(OTHER, index, ms(150));
    }
    assert_eq!(picker.pick(OTHER, ms(160), &mut random), None);
    assert_eq!(picker.pick(FIRST, ms(160), &mut random), None);
}

#[test]
fn one_ahead_that_has_given_something_or_has_as_much_is_not_gone_round() {
    let (mut picker, mut random) = picker(None);
    follow_past(&mut picker, false);
    gets(&mut picker, OTHER, 0..30);
    gets(&mut picker, AHEAD, 0..30);
    assert_eq!(picker.pick(OTHER, ms(50), &mut random), None, "it has as much");
    (0..PROVEN).for_each(|index| _ = picker.arrived(AHEAD, ChunkIndex(index), ms(200)));
    (PROVEN..28).for_each(|index| _ = picker.arrived(AHEAD, ChunkIndex(index), ms(200)));
    gets(&mut picker, OTHER, 30..60);
    assert_eq!(picker.pick(OTHER, ms(210), &mut random), None, "it gives");
}

#[test]
fn one_ahead_that_came_later_than_the_one_beyond_is_not_slow_for_that() {
    let (mut picker, mut random) = picker(None);
    let mut have = Bitfield::none(100);
    (0..60).for_each(|index| _ = have.insert(ChunkIndex(index)));
    picker.add_source(OTHER, have, ms(0));
    follow_past(&mut picker, false);
    assert_eq!(picker.pick(OTHER, ms(200), &mut random), None);
    gets(&mut picker, OTHER, 60..70);
    assert!(picker.pick(OTHER, ms(200), &mut random).is_some());
}

#[test]
fn who_is_slow_asks_only_the_one_ahead_while_that_one_gives() {
    for slow in [false, true] {
        let (mut picker, mut random) = picker(None);
        follow_past(&mut picker, slow);
        gets(&mut picker, AHEAD, 0..90);
        gets(&mut picker, OTHER, 0..90);
        picker.pick(AHEAD, ms(900), &mut random).unwrap();
        picker.upstreams.ahead[0].proven = PROVEN;
        assert_eq!(picker.pick(OTHER, ms(1_000), &mut random).is_none(), slow);
        picker.waits_long(0, ms(1_000));
        assert_eq!(!picker.waits_long(0, ms(1_100)), slow);
        assert!(picker.pick(OTHER, ms(900) + SILENT_MIN * 2, &mut random).is_some(), "now it is silent");
    }
}

#[test]
fn who_is_slow_is_helped_by_those_who_have_everything() {
    let (mut picker, mut random) = picker(None);
    follow_past(&mut picker, true);
    gets(&mut picker, AHEAD, 0..90);
    gets(&mut picker, OTHER, 0..99);
    picker.pick(AHEAD, ms(900), &mut random).unwrap();
    picker.upstreams.ahead[0].proven = PROVEN;
    assert_eq!(picker.pick(OTHER, ms(1_000), &mut random), None);
    gets(&mut picker, OTHER, 99..100);
    assert!(picker.pick(OTHER, ms(1_000), &mut random).is_some());
}

#[test]
fn one_ahead_from_whom_something_comes_is_waited_for_longer_and_not_for_ever() {
    let (mut picker, mut random) = tree();
    gets(&mut picker, AHEAD, 0..2);
    gets(&mut picker, OTHER, 0..50);
    assert!((0..2).all(|_| picker.pick(AHEAD, ms(0), &mut random).is_some()));
    let asks_others =
        |picker: &mut Picker, now| picker.pick(FIRST, now, &mut fastrand::Rng::with_seed(1)).is_some();
    picker.heard(AHEAD, SILENT_MIN);
    assert!(!asks_others(&mut picker, SILENT_MIN + HEARD - ms(1)));
    picker.heard(AHEAD, SILENT_MIN * SPEAKS);
    assert!(asks_others(&mut picker, SILENT_MIN * SPEAKS + ms(1)), "for too long");
}

#[test]
fn one_ahead_with_nothing_to_give_is_not_waited_for_while_others_have_something() {
    let (mut picker, mut random) = picker(None);
    gets(&mut picker, OTHER, 0..4);
    assert_eq!(picker.pick(OTHER, OWED, &mut random), None);
    assert!(picker.pick(OTHER, OWED + ms(1), &mut random).is_some());
}

#[test]
fn one_ahead_with_nothing_to_give_is_not_waited_for_long_when_others_have_everything() {
    let mut picker = Picker::new(Bitfield::none(2), true);
    let mut random = fastrand::Rng::with_seed(1);
    [FIRST, AHEAD, OTHER].into_iter().for_each(|id| picker.add_source(id, Bitfield::none(2), ms(0)));
    follow(&mut picker, Some(AHEAD), None, ms(0));
    gets(&mut picker, OTHER, 0..2);
    assert_eq!(picker.pick(OTHER, OWED, &mut random), None);
    assert!(picker.pick(OTHER, OWED + ms(1), &mut random).is_some());
}

#[test]
fn over_a_long_way_a_peer_may_drift_away_from_the_one_ahead() {
    let (mut picker, mut random) = picker(None);
    picker.set_rtt(AHEAD, ms(50));
    // An eighth less than the one ahead, all the time.
    for index in 0..96 {
        let now = ms(100 * u64::from(index) + 100);
        picker.source_has(AHEAD, ChunkIndex(index), now);
        if index % 8 > 0 {
            let index = picker.pick(AHEAD, now, &mut random).unwrap();
            picker.arrived(AHEAD, index, now);
        }
        assert_eq!(picker.keeps_to(0, now), Some(AHEAD), "{index}");
    }
}

#[test]
fn the_second_takes_one_chunk_past_the_first_and_compares() {
    let (mut picker, mut random) = picker(Some(FIRST));
    let tried = picker.pick(FIRST, ms(0), &mut random).unwrap();
    assert_eq!(picker.pick(FIRST, ms(0), &mut random), None, "one will do");
    assert!(!picker.is_slower_than_first(0, ms(9_000)), "nothing to compare with");
    picker.arrived(FIRST, tried, ms(100));
    assert!(!picker.is_slower_than_first(0, ms(300)));
    assert!(picker.is_slower_than_first(0, ms(600)));
    gets(&mut picker, AHEAD, 0..20);
    let index = picker.pick(AHEAD, ms(600), &mut random).unwrap();
    picker.arrived(AHEAD, index, ms(700));
    assert!(!picker.is_slower_than_first(0, ms(800)));
}

/// In a line whose first one gets a chunk in `took`, and the second the one to be compared in `tried`: whether that is enough.
fn is_found_out(took: u64, tried: u64) -> bool {
    let (mut picker, mut random) = picker(Some(FIRST));
    gets(&mut picker, AHEAD, 0..50);
    let first = picker.pick(FIRST, ms(0), &mut random).unwrap();
    picker.arrived(FIRST, first, ms(tried));
    let mut now = tried;
    for _ in 0..AGAIN_AFTER + 2 {
        let index = picker.pick(AHEAD, ms(now), &mut random).unwrap();
        now += took;
        picker.arrived(AHEAD, index, ms(now));
    }
    let again = picker.pick(FIRST, ms(now), &mut random);
    if let Some(index) = again {
        assert!(!picker.is_slower_than_first(0, ms(now)), "not by one trial");
        picker.arrived(FIRST, index, ms(now + tried));
    }
    assert_eq!(picker.pick(FIRST, ms(now + tried), &mut random), None, "twice will do");
    picker.is_slower_than_first(0, ms(now + tried))
}

#[test]
fn where_the_first_is_no_faster_than_the_one_who_has_the_file_the_second_compares_again() {
    // What the one who has the file gives at full speed it gives to two during a trial.
    assert!(!is_found_out(100, 200));
    assert!(!is_found_out(100, 133), "shared unevenly");
    assert!(is_found_out(300, 150), "three times slower: a third of the link is taken");
    assert!(is_found_out(220, 183));
}

#[test]
fn a_first_one_that_is_slow_for_a_while_later_is_not_compared_again() {
    let (mut picker, mut random) = picker(Some(FIRST));
    gets(&mut picker, AHEAD, 0..50);
    let first = picker.pick(FIRST, ms(0), &mut random).unwrap();
    picker.arrived(FIRST, first, ms(200));
    let mut now = 200;
    for took in [100; AGAIN_AFTER as usize + 1].into_iter().chain([400; 5]) {
        let index = picker.pick(AHEAD, ms(now), &mut random).unwrap();
        now += took;
        picker.arrived(AHEAD, index, ms(now));
        assert!(!picker.upstreams.ahead[0].tries(FIRST));
    }
}

#[test]
fn what_the_one_before_owes_is_asked_of_the_new_one_first() {
    let (mut picker, mut random) = picker(None);
    gets(&mut picker, AHEAD, 0..1);
    assert_eq!(picker.pick(AHEAD, ms(0), &mut random), Some(ChunkIndex(0)));
    gets(&mut picker, OTHER, 0..9);
    follow(&mut picker, Some(OTHER), None, ms(0));
    assert_eq!(picker.pick(OTHER, ms(0), &mut random), Some(ChunkIndex(0)));
    assert_ne!(picker.pick(OTHER, ms(0), &mut random), Some(ChunkIndex(0)));
}

#[test]
fn a_first_holder_that_has_given_its_chunks_up_is_not_kept_to() {
    let (mut picker, mut random) = picker(None);
    follow(&mut picker, Some(FIRST), None, ms(0));
    gets(&mut picker, OTHER, 0..100);
    assert_eq!(picker.pick(OTHER, ms(0), &mut random), None);
    (0..100).for_each(|index| picker.refused(FIRST, ChunkIndex(index)));
    assert!(picker.pick(OTHER, ms(0), &mut random).is_some());
}

#[test]
fn nobody_is_asked_while_the_one_ahead_is_being_connected_to() {
    let mut picker = Picker::new(Bitfield::none(9), true);
    let mut random = fastrand::Rng::with_seed(1);
    picker.add_source(FIRST, Bitfield::all(9), ms(0));
    picker.expect_upstream(0, ms(0));
    assert_eq!(picker.pick(FIRST, ms(1), &mut random), None);
    assert!(picker.pick(FIRST, AWAITED, &mut random).is_some(), "it takes too long");
}

#[test]
fn the_one_who_has_everything_is_spared_longer_while_the_one_ahead_is_being_connected_to() {
    let mut picker = Picker::new(Bitfield::none(9), true);
    let mut random = fastrand::Rng::with_seed(1);
    picker.add_source(FIRST, Bitfield::all(9), ms(0));
    picker.add_source(OTHER, Bitfield::none(9), ms(0));
    picker.source_has(OTHER, ChunkIndex(3), ms(0));
    picker.expect_upstream(0, ms(0));
    assert_eq!(picker.pick(FIRST, AWAITED, &mut random), None);
    assert_eq!(picker.pick(OTHER, AWAITED, &mut random), Some(ChunkIndex(3)));
    assert!(picker.pick(FIRST, AWAITED + AWAITED_SPARED, &mut random).is_some(), "it takes too long");
}

#[test]
fn nobody_is_asked_for_a_stripe_of_which_nothing_has_been_said_yet() {
    let mut picker = Picker::new(Bitfield::none(9), true);
    let mut random = fastrand::Rng::with_seed(1);
    picker.add_source(FIRST, Bitfield::all(9), ms(0));
    picker.add_source(OTHER, Bitfield::all(9), ms(0));
    picker.split(2, ms(0));
    picker.follow(0, Place { source: Some(OTHER), steps: 2, ..Place::default() }, ms(0));
    let asked: Vec<ChunkIndex> = std::iter::from_fn(|| picker.pick(OTHER, ms(1), &mut random)).collect();
    assert!(!asked.is_empty() && asked.iter().all(|index| stripe_of(*index, 2) == 0), "{asked:?}");
    assert_eq!(picker.pick(FIRST, ms(1), &mut random), None);
}

#[test]
fn where_chunks_take_long_one_ahead_that_waits_for_its_next_one_is_given_time() {
    let asks_others_after = |each: u64| {
        let (mut picker, mut random) = tree();
        for index in 0..3 {
            let now = ms(each * u64::from(index + 1));
            picker.source_has(AHEAD, ChunkIndex(index), now);
            assert_eq!(picker.pick(AHEAD, now, &mut random), Some(ChunkIndex(index)));
            picker.arrived(AHEAD, ChunkIndex(index), now);
        }
        let mut times = (each * 3..).step_by(10);
        let asks = |time: &u64| {
            // Others get on meanwhile.
            gets(&mut picker, OTHER, 0..(time / each + 1) as u32);
            picker.pick(OTHER, ms(*time), &mut random).is_some()
        };
        ms(times.find(asks).unwrap() - each * 3)
    };
    let (fast, slow) = (asks_others_after(40), asks_others_after(400));
    assert!((OWED..OWED + ms(100)).contains(&fast), "{fast:?}");
    assert!((ms(1_500)..ms(3_000)).contains(&slow), "{slow:?}");
}

#[test]
fn a_stripe_of_which_everything_is_here_is_not_waited_for() {
    let mut picker = Picker::new(Bitfield::none(4), true);
    let mut random = fastrand::Rng::with_seed(1);
    picker.add_source(FIRST, Bitfield::all(4), ms(0));
    picker.add_source(AHEAD, Bitfield::none(4), ms(0));
    picker.split(2, ms(0));
    for (stripe, source) in [(0, AHEAD), (1, FIRST)] {
        picker.follow(stripe, Place { source: Some(source), steps: 2, ..Place::default() }, ms(0));
    }
    for index in [0, 2].map(ChunkIndex) {
        picker.source_has(AHEAD, index, ms(10));
        assert_eq!(picker.pick(AHEAD, ms(10), &mut random), Some(index));
        picker.arrived(AHEAD, index, ms(20));
    }
    let late = STRIPE_PACE_MAX * SILENT + ms(1_000);
    assert!(!picker.waits_long(0, late) && !picker.waits_long(0, late + LAG_TIME));
    assert!(
        !picker.waits_long(1, late) && picker.waits_long(1, late + LAG_TIME),
        "of this one something is missing"
    );
}

#[test]
fn what_is_late_in_one_stripe_is_not_asked_of_whoever_helps_in_another() {
    let mut picker = Picker::new(Bitfield::none(4), true);
    let mut random = fastrand::Rng::with_seed(1);
    picker.add_source(AHEAD, Bitfield::none(4), ms(0));
    picker.add_source(OTHER, Bitfield::none(4), ms(0));
    picker.split(2, ms(0));
    // Nobody is ahead in the other stripe, so that anybody may be asked for it.
    picker.follow(0, Place { source: Some(AHEAD), steps: 2, ..Place::default() }, ms(0));
    picker.upstreams.ahead[1].awaited = None;
    gets(&mut picker, AHEAD, 0..1);
    gets(&mut picker, OTHER, 0..1);
    assert_eq!(picker.pick(AHEAD, ms(0), &mut random), Some(ChunkIndex(0)));
    let patience = picker.sources[&OTHER].patience();
    assert_eq!(picker.pick(OTHER, patience, &mut random), None);
    assert_eq!(
        picker.pick(OTHER, patience * super::super::SPARED_LATE_FACTOR, &mut random),
        Some(ChunkIndex(0))
    );
}

#[test]
fn one_ahead_in_a_tree_that_gets_what_is_here_already_is_not_silent() {
    let (mut picker, mut random) = tree();
    gets(&mut picker, AHEAD, 0..2);
    for _ in 0..2 {
        let index = picker.pick(AHEAD, ms(0), &mut random).unwrap();
        picker.arrived(AHEAD, index, ms(10));
    }
    // Others have given more meanwhile.
    (2..20).map(ChunkIndex).for_each(|index| picker.have(index));
    picker.source_has(AHEAD, ChunkIndex(2), SILENT_MIN);
    let late = SILENT_MIN + ms(500);
    assert_eq!((picker.keeps_to(0, late), picker.keeps_to(1, late)), (Some(AHEAD), Some(AHEAD)));
    let later = SILENT_MIN * 2 + ms(501);
    assert_eq!((picker.keeps_to(0, later), picker.keeps_to(1, later)), (None, None), "it gets no more");
}

#[test]
fn one_ahead_that_leaves_with_next_to_everything_is_asked_as_long_as_it_is_there() {
    let asked_after_it_left = |has, left| {
        let (mut picker, mut random) = picker(None);
        gets(&mut picker, AHEAD, 0..has);
        assert!(picker.pick(AHEAD, ms(10), &mut random).is_some());
        picker.follow(0, Place { source: Some(FIRST), steps: 1, left, ..Place::default() }, ms(20));
        assert!(picker.pick(AHEAD, ms(20), &mut random).is_some() == (has == 95 && left));
        let asked = picker.pick(FIRST, ms(20), &mut random).is_some();
        picker.remove_source(AHEAD);
        picker.follow(0, Place { source: Some(FIRST), steps: 1, left, ..Place::default() }, ms(30));
        assert!(picker.pick(FIRST, ms(30), &mut random).is_some(), "it is gone");
        asked
    };
    assert!(!asked_after_it_left(95, true));
    assert!(asked_after_it_left(95, false), "others wait for it");
    assert!(asked_after_it_left(50, true), "it gets no more");
}
