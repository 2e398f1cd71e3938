//! Cache of the most recently used values, by number of the entry.

use std::collections::HashMap;

/// At most a fixed number of values; the least recently used one is dropped for a new one.
pub(super) struct Recent<T> {
    values: HashMap<u32, (T, u64)>,
    clock: u64,
    count_max: usize,
}

impl<T: Clone> Recent<T> {
    pub fn new(count_max: usize) -> Self {
        Self { values: HashMap::new(), clock: 0, count_max }
    }

    pub fn get(&mut self, entry: u32) -> Option<T> {
        self.clock += 1;
        let (value, used) = self.values.get_mut(&entry)?;
        *used = self.clock;
        Some(value.clone())
    }

    pub fn put(&mut self, entry: u32, value: T) {
        self.clock += 1;
        if self.values.len() >= self.count_max && !self.values.contains_key(&entry) {
            let oldest = self.values.iter().min_by_key(|(_, (_, used))| *used).map(|(entry, _)| *entry);
            oldest.into_iter().for_each(|oldest| _ = self.values.remove(&oldest));
        }
        self.values.insert(entry, (value, self.clock));
    }

    /// Forgets a value.
    pub fn remove(&mut self, entry: u32) {
        self.values.remove(&entry);
    }

    /// All values.
    pub fn values(&self) -> Vec<T> {
        self.values.values().map(|(value, _)| value.clone()).collect()
    }

    /// Forgets all values.
    pub fn clear(&mut self) {
        self.values.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_value_is_dropped() {
        let mut recent = Recent::new(2);
        recent.put(1, 'a');
        recent.put(2, 'b');
        assert_eq!(recent.get(1), Some('a'));
        recent.put(3, 'c');
        assert_eq!((recent.get(1), recent.get(2), recent.get(3)), (Some('a'), None, Some('c')));
        recent.put(3, 'd');
        assert_eq!((recent.get(1), recent.get(3), recent.values().len()), (Some('a'), Some('d'), 2));
        recent.remove(1);
        assert_eq!(recent.get(1), None);
    }
}
