//! Cost of the choice of the next chunk for a source, with 65,536 chunks and 64 sources.

use shoal::content::{Bitfield, ChunkIndex};
use shoal::swarm::Moment;
use shoal::swarm::picker::{Picker, SourceId};

fn main() {
    divan::main();
}

const CHUNKS: u32 = 65_536;
const SOURCES: u32 = 64;
const NOW: Moment = Moment::from_secs(1);

/// A download without chunks, and sources that each have about `percent` percent of the chunks.
fn picker(percent: u32) -> Picker {
    let mut random = fastrand::Rng::with_seed(1);
    let mut picker = Picker::new(Bitfield::none(CHUNKS), true);
    for source in 0..SOURCES {
        let mut have = Bitfield::none(CHUNKS);
        (0..CHUNKS).filter(|_| random.u32(..100) < percent).for_each(|index| {
            have.insert(ChunkIndex(index));
        });
        picker.add_source(SourceId(source), have, NOW);
    }
    picker
}

/// A chunk is picked, arrives and is verified, from each source in turn.
#[divan::bench(args = [1, 50, 100], sample_count = 50, sample_size = 100)]
fn pick_and_arrive(bencher: divan::Bencher, percent: u32) {
    let mut picker = picker(percent);
    let mut random = fastrand::Rng::with_seed(2);
    let mut turn = 0;
    bencher.bench_local(|| {
        turn = (turn + 1) % SOURCES;
        if let Some(index) = picker.pick(SourceId(turn), NOW, &mut random) {
            picker.arrived(SourceId(turn), index, NOW);
            picker.have(index);
        }
    });
}

/// A source announces one more chunk.
#[divan::bench]
fn a_source_has_more(bencher: divan::Bencher) {
    let mut picker = picker(1);
    let mut random = fastrand::Rng::with_seed(2);
    bencher.bench_local(|| {
        picker.source_has(SourceId(random.u32(..SOURCES)), ChunkIndex(random.u32(..CHUNKS)));
    });
}
