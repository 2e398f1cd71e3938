//! Progress on terminals: it fits them, and nothing of it stays.

use crate::common::terminal::AtTerminal;
use crate::common::*;
use crate::transcripts::screen::Screen;

/// Downloads a file of this name on a terminal of `columns` columns. Returns all drawings of its progress, and the lines
/// that are left at the end.
fn download(name: &str, columns: u16) -> (Vec<String>, Vec<String>) {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let file = write(dir, name, &random_bytes(1, 512 << 10));
    let tracker = tracker(dir, &[]);
    let _seeder = seeder(dir, &file, &tracker, &["--chunk-size", "16KiB", "--upload-limit", "512KiB"]);
    let at = tracker.address().to_string();
    let mut leecher = AtTerminal::start_sized(&there, "leecher", &[name, "--tracker", &at], (columns, 24));
    assert_eq!(leecher.exit_code(PATIENCE), Some(0));
    // The whole output is read before the terminal is closed.
    leecher.wait_for("Successfully downloaded ");
    let output = leecher.output();
    let drawings = output
        .split(['\r', '\n'])
        .filter(|drawing| drawing.contains(" %"))
        .map(|drawing| drawing.trim_start_matches("\u{1b}[J").to_owned());
    let mut screen = Screen::with_columns(columns.into());
    screen.feed(output.as_bytes());
    (drawings.collect(), screen.lines())
}

#[test]
fn progress_fits_a_terminal_of_20_columns() {
    let (drawings, left) = download("a long name of a file.bin", 20);
    assert!(drawings.len() > 1, "{left:?}");
    for drawing in drawings {
        assert!(drawing.starts_with("a lon….bin  ") && drawing.chars().count() < 18, "{drawing:?}");
    }
    assert!(!left.iter().any(|line| line.contains(" %")), "{left:?}");
}

#[test]
fn progress_shows_name_percentage_rate_eta_and_sources() {
    let (drawings, left) = download("a.bin", 80);
    let last = drawings.last().unwrap();
    for part in ["a.bin  ", " %  ", " KiB/s  ", "ETA ", "1 source"] {
        assert!(last.contains(part), "{last:?}");
    }
    assert!(!left.iter().any(|line| line.contains(" %")), "{left:?}");
}

#[test]
fn a_download_is_summarised_at_both_ends() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let file = write(dir, "a.bin", &random_bytes(1, 49_152));
    let tracker = tracker(dir, &[]);
    let seeder = seeder(dir, &file, &tracker, &["--chunk-size", "16KiB"]);
    let mut leecher = leecher(&there, tracker.address(), &["a.bin", "-vv"]);
    leecher.ends_with(0);
    leecher.wait_for("a summary", |line| {
        line.contains("INFO - a.bin: received 49152 bytes in ") && line.ends_with("/s from 1 source")
    });
    for index in 1..=3 {
        leecher.wait_for("chunk and source", |line| {
            line.contains(&format!("DEBUG - received chunk {index} of ")) && line.contains(" from 127.0.0.1:")
        });
    }
    assert!(leecher.has_said("requested chunk 1 of "), "-vv shows more than -v");
    seeder.wait_for("the download that it served", |line| {
        line.contains("INFO - sent 49152 bytes of a.bin to 127.0.0.1:")
            && (line.ends_with(" ms") || line.ends_with(" s"))
    });
}
