//! Names that resemble a name that was mistyped.

/// Largest number of names in an answer.
const SIMILAR_MAX: usize = 3;
/// Largest number of edits (insert, delete, replace a character) between similar names.
const EDITS_MAX: usize = 3;
/// Characters that similar names share at the start if they differ in more edits, at least.
const PREFIX_MIN: usize = 4;

/// The offered names that resemble `wanted`, the most similar first; at most three.
///
/// Two names are similar if few edits lead from one to the other, ignoring case, or if they share more than half of
/// their characters at the start.
pub fn similar<'a>(wanted: &str, offered: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = characters(wanted);
    let scored = offered.filter_map(|name| Some((distance(&wanted, &characters(name))?, name)));
    let mut scored: Vec<(usize, &str)> = scored.collect();
    scored.sort_unstable();
    scored.dedup();
    scored.into_iter().take(SIMILAR_MAX).map(|(_, name)| name).collect()
}

fn characters(name: &str) -> Vec<char> {
    name.to_lowercase().chars().collect()
}

/// Rank of a similar name; `None` if the names are not similar.
fn distance(wanted: &[char], name: &[char]) -> Option<usize> {
    let edits_max = EDITS_MAX.min(wanted.len() / 3).max(1);
    if let Some(edits) = edits(wanted, name, edits_max) {
        return Some(edits);
    }
    let shared = wanted.iter().zip(name).take_while(|(one, other)| one == other).count();
    let is_similar = shared >= PREFIX_MIN && shared * 2 > wanted.len().min(name.len());
    is_similar.then(|| EDITS_MAX + 1 + wanted.len().max(name.len()) - shared)
}

/// Number of edits between two names, if at most `most`. The time is proportional to the length.
fn edits(one: &[char], other: &[char], most: usize) -> Option<usize> {
    if one.len().abs_diff(other.len()) > most {
        return None;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, character) in one.iter().enumerate() {
        // Cells farther from the diagonal need more than `most` edits.
        let (start, end) = ((at + 1).saturating_sub(most), (at + 2 + most).min(other.len() + 1));
        let mut diagonal = if start == 0 { at } else { row[start - 1] };
        let mut left = usize::MAX - 1;
        for (column, slot) in row.iter_mut().enumerate().take(end).skip(start) {
            let above = *slot;
            let cell = match column.checked_sub(1) {
                None => at + 1,
                Some(before) => {
                    let replaced = diagonal + usize::from(other[before] != *character);
                    replaced.min(above.saturating_add(1)).min(left + 1)
                }
            };
            if column > 0 {
                diagonal = above;
            }
            *slot = cell;
            left = cell;
        }
        if end <= other.len() {
            row[end] = usize::MAX - 1;
        }
    }
    Some(row[other.len()]).filter(|edits| *edits <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted_up_to_the_limit() {
        let edits = |one: &str, other: &str, most| edits(&characters(one), &characters(other), most);
        for (one, other, wanted) in [
            ("kitten", "sitting", 3),
            ("a.txt", "a.txt", 0),
            ("a.txt", "b.txt", 1),
            ("a.txt", "a.tx", 1),
            ("xa.txt", "a.txt", 1),
            ("", "abc", 3),
            ("abcdef", "bcdefg", 2),
        ] {
            assert_eq!(edits(one, other, 3), Some(wanted), "{one} {other}");
            assert_eq!(edits(other, one, 3), Some(wanted), "{other} {one}");
            assert_eq!(edits(one, other, 7), Some(wanted));
            assert_eq!(edits(one, other, wanted.max(1) - 1).is_some(), wanted == 0);
        }
    }

    #[test]
    fn the_most_similar_names_come_first() {
        let offered = ["report-2.pdf", "notes.txt", "Report-1.pdf", "report-1.pdf.old", "x", "reports"];
        let found = |wanted| similar(wanted, offered.into_iter());
        assert_eq!(found("report-1.pdf"), ["Report-1.pdf", "report-2.pdf", "report-1.pdf.old"]);
        assert_eq!(found("notes.tx"), ["notes.txt"]);
        assert!(found("holiday.jpg").is_empty() && found("").len() <= 1);
    }
}
