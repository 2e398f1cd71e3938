//! Number and size of the copies in flight into or out of a location, and their limit.

/// Copies in flight into or out of a location.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Traffic {
    pub copies: u32,
    pub bytes: u64,
}

impl Traffic {
    /// Adds a copy of `length` bytes.
    pub fn add(&mut self, length: u64) {
        self.copies += 1;
        self.bytes += length;
    }

    /// Subtracts a copy of `length` bytes.
    pub fn subtract(&mut self, length: u64) {
        self.copies = self.copies.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(length);
    }
}

/// Limit of copies and bytes in flight in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Window {
    pub copies: u32,
    pub bytes: u64,
}

impl Window {
    /// Whether a copy of `length` bytes may start. One copy is always permitted, however large.
    pub fn permits(self, traffic: Traffic, length: u64) -> bool {
        traffic.copies == 0 || (self.is_open(traffic) && traffic.bytes.saturating_add(length) <= self.bytes)
    }

    /// Whether a small copy may start.
    pub fn is_open(self, traffic: Traffic) -> bool {
        traffic.copies == 0 || (traffic.copies < self.copies && traffic.bytes < self.bytes)
    }
}
