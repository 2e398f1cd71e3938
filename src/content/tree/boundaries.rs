//! Division of a sequence of items into groups, of which each becomes a chunk.
//!
//! A group begins at an item if the hash of its path is below a limit that grows with its size. This depends on the item
//! alone: an added item changes at most two groups, a removed one at most one. A group above the largest size is divided
//! at its item with the lowest hash, and so are its parts: like the nodes of a treap, they depend on nothing outside the
//! group.

/// Divides items into groups of a mean and a largest size.
pub(super) struct Grouping {
    mean_bytes: u64,
    bytes_max: u64,
    /// Hash and size of the items of the current group.
    group: Vec<(u64, u64)>,
    lengths: Vec<u64>,
}

impl Grouping {
    /// No items yet. No item is larger than `bytes_max`.
    pub fn new(mean_bytes: u64, bytes_max: u64) -> Self {
        Self { mean_bytes, bytes_max, group: Vec::new(), lengths: Vec::new() }
    }

    /// Adds an item of `bytes` bytes.
    pub fn push(&mut self, hash: u64, bytes: u64) {
        let limit = (u128::from(bytes) << 64) / u128::from(self.mean_bytes);
        if u128::from(hash) < limit {
            self.end_group();
        }
        self.group.push((hash, bytes));
    }

    /// Ends the current group: the next item begins another one.
    pub fn end_group(&mut self) {
        let group = std::mem::take(&mut self.group);
        divide(&group, self.bytes_max, &mut self.lengths);
        self.group = group;
        self.group.clear();
    }

    /// Takes the sizes of the groups that have ended, bytes.
    pub fn take(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.lengths)
    }
}

/// Appends the sizes of the parts of a group, each of at most `bytes_max` bytes unless it is a single item.
fn divide(group: &[(u64, u64)], bytes_max: u64, lengths: &mut Vec<u64>) {
    let mut ends = Vec::with_capacity(group.len() + 1);
    ends.push(0u64);
    ends.extend(group.iter().scan(0u64, |sum, (_, bytes)| {
        *sum += bytes;
        Some(*sum)
    }));
    let bytes = |from: usize, to: usize| ends[to] - ends[from];
    if group.is_empty() {
        return;
    }
    if bytes(0, group.len()) <= bytes_max {
        return lengths.push(bytes(0, group.len()));
    }
    let tree = children(group);
    // Ranges that remain, the first on top; the root is the item of lowest hash after the first of the range.
    let mut ranges = vec![(0, group.len(), tree.root)];
    while let Some((from, to, root)) = ranges.pop() {
        match root {
            Some(at) if bytes(from, to) > bytes_max => {
                ranges.push((at, to, tree.after[at]));
                ranges.push((from, at, tree.before[at]));
            }
            _ => lengths.push(bytes(from, to)),
        }
    }
}

/// Cartesian tree of the items after the first: each node has a lower hash than those below it; of equal hashes the first
/// one is above. Built with a stack, because hashes of hostile paths could make it as deep as it has nodes.
struct CartesianTree {
    root: Option<usize>,
    before: Vec<Option<usize>>,
    after: Vec<Option<usize>>,
}

fn children(group: &[(u64, u64)]) -> CartesianTree {
    let mut tree =
        CartesianTree { root: None, before: vec![None; group.len()], after: vec![None; group.len()] };
    // The nodes from the root along the last branches.
    let mut spine: Vec<usize> = Vec::new();
    for (at, (hash, _)) in group.iter().enumerate().skip(1) {
        let mut below = None;
        while let Some(last) = spine.pop_if(|last| group[*last].0 > *hash) {
            below = Some(last);
        }
        tree.before[at] = below;
        match spine.last() {
            Some(above) => tree.after[*above] = Some(at),
            None => tree.root = Some(at),
        }
        spine.push(at);
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn groups(items: &[(u64, u64)], mean: u64, max: u64) -> Vec<u64> {
        let mut grouping = Grouping::new(mean, max);
        items.iter().for_each(|(hash, bytes)| grouping.push(*hash, *bytes));
        grouping.end_group();
        grouping.take()
    }

    /// Divides at the item of lowest hash, as the definition says.
    fn divided(group: &[(u64, u64)], max: u64) -> Vec<u64> {
        let sum: u64 = group.iter().map(|(_, bytes)| bytes).sum();
        if group.len() < 2 || sum <= max {
            return vec![sum];
        }
        let lowest = (1..group.len()).min_by_key(|at| group[*at].0).unwrap();
        [divided(&group[..lowest], max), divided(&group[lowest..], max)].concat()
    }

    #[test]
    fn a_group_begins_at_a_low_hash_and_at_each_item_of_the_mean_size() {
        let half = 1 << 63;
        assert_eq!(groups(&[(half, 10), (half, 10), (half, 10)], 100, 400), [30]);
        assert_eq!(groups(&[(half, 10), (half / 10, 10), (half, 10)], 100, 400), [10, 20]);
        assert_eq!(groups(&[(half, 10), (u64::MAX, 100), (half, 10)], 100, 400), [10, 110]);
        assert_eq!(groups(&[], 100, 400), [0; 0]);
    }

    #[test]
    fn a_million_items_in_the_order_of_their_hashes_are_divided() {
        let items: Vec<(u64, u64)> = (0..1_000_000).map(|number| (u64::MAX / 2 + number, 1)).collect();
        assert_eq!(groups(&items, 1 << 30, 4).iter().sum::<u64>(), 1_000_000);
        let falling: Vec<(u64, u64)> = items.into_iter().rev().collect();
        assert_eq!(groups(&falling, 1 << 30, 4).len(), 999_997, "from the last item on");
    }

    proptest! {
        #[test]
        fn groups_are_divided_at_their_lowest_hashes(
            items in prop::collection::vec((1u64 << 60.., 1u64..50), 1..60), max in 50u64..200,
        ) {
            prop_assert_eq!(groups(&items, 1 << 40, max), divided(&items, max));
        }
    }
}
