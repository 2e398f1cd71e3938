//! How a daemon tells whoever looks on how far it is.

/// Somebody who looks on: a progress bar, or nobody. Called from any thread, and never for long.
pub trait Watch: Send + Sync {
    /// Something of `total` bytes begins, of which `done` are done already.
    fn begin(&self, title: &str, total: u64, done: u64);
    /// So many bytes more are done.
    fn advance(&self, bytes: u64);
    /// A word on what is going on.
    fn note(&self, text: &str);
    /// What is missing, and why, when nothing comes; empty when it goes on.
    fn trouble(&self, _text: &str) {}
    /// It has ended, well or not.
    fn end(&self);
}

/// Nobody looks on.
pub struct Unwatched;

impl Watch for Unwatched {
    fn begin(&self, _: &str, _: u64, _: u64) {}
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn end(&self) {}
}
