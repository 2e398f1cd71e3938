//! Texts that fit a number of columns of a terminal.
//!
//! Pure. Invariant: no result is wider than the given number of columns, also with wide characters.

use unicode_width::UnicodeWidthChar;

/// Replaces the middle of a shortened text.
const ELLIPSIS: char = '…';
/// Selects the wide form of the character before it.
const WIDE_FORM: char = '\u{fe0f}';

/// Columns of a character, at most.
fn columns_of(c: char) -> usize {
    c.width().unwrap_or_default() + usize::from(c == WIDE_FORM)
}

/// Columns of a text, at most.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// The first characters of a text, in at most `width` columns.
pub(super) fn cut(text: &str, width: usize) -> String {
    let mut used = 0;
    text.chars()
        .take_while(|c| {
            used += columns_of(*c);
            used <= width
        })
        .collect()
}

/// A text cut or filled to a number of columns.
pub(super) fn fitted(text: &str, width: usize) -> String {
    let cut = cut(text, width);
    let rest = width - columns(&cut);
    cut + &" ".repeat(rest)
}

/// A text in at most `width` columns: its middle is left out if it does not fit, so that the end of a file name stays.
pub(super) fn shortened(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let Some(room) = width.checked_sub(1) else { return String::new() };
    let mut tail = Vec::new();
    let mut used = 0;
    for c in text.chars().rev() {
        used += columns_of(c);
        if used > room / 2 {
            break;
        }
        tail.push(c);
    }
    let tail: String = tail.into_iter().rev().collect();
    let head = cut(text, room - columns(&tail));
    format!("{head}{ELLIPSIS}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use unicode_width::UnicodeWidthStr;

    #[test]
    fn long_texts_lose_their_middle() {
        for (text, width, wanted) in [
            ("short.bin", 9, "short.bin"),
            ("a long name.bin", 9, "a lo….bin"),
            ("漢字漢字漢字", 6, "漢…字"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
        ] {
            assert_eq!(shortened(text, width), wanted);
        }
        assert_eq!((cut("漢字", 3), fitted("漢", 4)), ("漢".to_owned(), "漢  ".to_owned()));
    }

    proptest! {
        #[test]
        fn no_text_is_too_wide(text in "[^\\p{C}]{0,40}", width in 0usize..60) {
            for text in [cut(&text, width), shortened(&text, width), fitted(&text, width)] {
                prop_assert!(text.width() <= width && columns(&text) <= width, "{text:?}");
            }
        }
    }
}
