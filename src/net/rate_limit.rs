//! Rate limit shared by several connections.

use super::Shutdown;
use crate::swarm::token_bucket::TokenBucket;
use crate::sync::lock;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Rate limit of all transfers in one direction. Clones share it.
#[derive(Debug, Clone)]
pub struct RateLimit {
    rate: u64,
    bucket: Arc<Mutex<TokenBucket>>,
    started: Instant,
}

impl RateLimit {
    /// A limit of `rate` bytes per second, at least 1.
    pub fn new(rate: u64) -> Self {
        let bucket = Arc::new(Mutex::new(TokenBucket::new(rate, Duration::ZERO)));
        Self { rate, bucket, started: Instant::now() }
    }

    /// The limit for the value of a flag, bytes per second; `None` for 0.
    pub fn from_flag(rate: u64) -> Option<Self> {
        (rate > 0).then(|| Self::new(rate))
    }

    /// Bytes per second.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Waits until `bytes` may be transferred, or for the shutdown.
    pub fn throttle(&self, bytes: u64, shutdown: &Shutdown) {
        let wait = lock(&self.bucket).take(bytes, self.started.elapsed());
        if !wait.is_zero() {
            shutdown.wait(wait);
        }
    }
}
