//! Manifests: a manifest that does not have the requested id is rejected; one that has it survives another round of
//! encoding, and its chunks cover the file without gap or overlap.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal::content::manifest::ManifestError;
use shoal::content::{FileId, Manifest, ManifestSizes};

fuzz_target!(|input: (u64, u8, bool, Option<u16>, &[u8])| {
    let (size, power, odd, index, payload) = input;
    let chunk_size = match power % 34 {
        33 => 0,
        power => (1u64 << power) as u32,
    };
    let chunk_size = chunk_size.wrapping_add(u32::from(odd));
    // Among arbitrary numbers, sizes that fit the payload are rare, so that some are derived from it.
    let chunks = (payload.len() / 32) as u64;
    for size in
        [size, size % 4_096, u64::from(chunk_size).saturating_mul(chunks).saturating_sub(size % 16_384)]
    {
        let sizes = ManifestSizes { size, chunk_size, index: index.map(u64::from) };
        let id = match Manifest::decode(FileId([0; 32]), sizes, payload) {
            Err(ManifestError::OtherFile { got, .. }) => got,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                continue;
            }
            Ok(_) => panic!("a file of the id 0"),
        };
        let manifest = Manifest::decode(id, sizes, payload).expect("it has that id");
        assert_eq!(manifest.payload(), payload);
        let layout = manifest.layout();
        assert_eq!(manifest.sizes(), sizes);
        let mut end = 0;
        for index in layout.indices() {
            let span = layout.span(index).expect("every chunk has a span");
            assert_eq!(span.offset, end);
            assert!(span.length <= layout.longest() && manifest.digest(index).is_some());
            end += span.length;
        }
        assert_eq!(end, size);
    }
});
