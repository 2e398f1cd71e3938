//! The state machine of a volunteer under the orders of a hostile tracker, with the invariants of `volunteer::drive`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal_fuzz::instead::folder;

fuzz_target!(|bytes: &[u8]| {
    let folder = folder();
    // Storing a chunk takes about a millisecond.
    shoal::volunteer::drive(folder.path(), &bytes[..bytes.len().min(400)]);
});
