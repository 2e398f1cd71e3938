//! Names from the wire: an accepted name is a single line and a single plain path component on any system.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal::content::names::fold;
use shoal::content::{FileName, PeerName};
use shoal_fuzz::is_one_line;
use std::path::{Component, Path};

fuzz_target!(|text: &str| {
    if let Ok(name) = FileName::new(text) {
        is_one_line(name.as_str());
        let parts: Vec<_> = Path::new(name.as_str()).components().collect();
        assert!(matches!(parts[..], [Component::Normal(part)] if part == text));
        assert!(!text.contains(['/', '\\', ':', '\0']));
        assert_eq!(fold(&name.folded()), name.folded(), "folding twice changes nothing");
    }
    if let Ok(name) = PeerName::new(text) {
        assert!(FileName::new(text).is_ok(), "a set name is not a valid file name");
        assert!(!name.as_str().contains(|c: char| c == ',' || c.is_whitespace()));
    }
});
