//! Number of peers that download from this peer.

use crate::sync::lock;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::{Arc, Mutex};

/// Peers that have subscribed to a file, because they are incomplete, and chunks that are being sent. Clones share it.
#[derive(Clone)]
pub struct UploadLoad(Arc<Load>);

struct Load {
    users: Mutex<usize>,
    became_idle: (Sender<()>, Receiver<()>),
}

impl Default for UploadLoad {
    fn default() -> Self {
        Self(Arc::new(Load { users: Mutex::default(), became_idle: bounded(1) }))
    }
}

impl UploadLoad {
    /// Counts a subscription, or a chunk that is being sent, until the returned value is dropped.
    pub fn begin(&self) -> UploadUse {
        *lock(&self.0.users) += 1;
        UploadUse(self.clone())
    }

    /// Number of subscriptions and of chunks that are being sent.
    pub fn users(&self) -> usize {
        *lock(&self.0.users)
    }

    /// Ready when the last user has ended.
    pub fn became_idle(&self) -> &Receiver<()> {
        &self.0.became_idle.1
    }
}

/// A counted use; ends when dropped.
pub struct UploadUse(UploadLoad);

impl Drop for UploadUse {
    fn drop(&mut self) {
        let mut users = lock(&self.0.0.users);
        *users -= 1;
        if *users == 0 {
            let _ = self.0.0.became_idle.0.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_last_use_is_signalled() {
        let load = UploadLoad::default();
        let (one, two) = (load.begin(), load.clone().begin());
        drop(one);
        assert!(load.users() == 1 && load.became_idle().try_recv().is_err());
        drop(two);
        assert!(load.users() == 0 && load.became_idle().try_recv().is_ok());
    }
}
