//! Bitfields from the wire: only those of the right length and without a bit past the end are accepted, and they
//! survive another round of encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal::content::{Bitfield, ChunkIndex};

fuzz_target!(|input: (u16, bool, &[u8])| {
    let (count, near, bytes) = input;
    let most = (bytes.len() * 8) as u32;
    let count = if near { most.saturating_sub(u32::from(count) % 9) } else { count.into() };
    let Ok(mut map) = Bitfield::from_bytes(count, bytes) else { return };
    assert_eq!(map.to_bytes(), bytes);
    assert_eq!(map.held() as usize, map.iter().count());
    assert_eq!(map.count() - map.held(), map.missing().count() as u32);
    assert_eq!(map.is_complete(), map.missing().next().is_none());
    assert!(!map.has(ChunkIndex(count)) && !map.insert(ChunkIndex(count)) && !map.remove(ChunkIndex(count)));
    assert!(map.iter().all(|index| map.has(index)));
    for index in map.iter().collect::<Vec<_>>() {
        assert!(map.remove(index) && !map.has(index));
    }
    assert_eq!(map, Bitfield::none(count));
});
