//! Channel that never accepts a message, for a `send` arm of `select!` while there is nothing to send.

use crossbeam_channel::{Receiver, Sender, bounded};

/// Counterpart of [`crossbeam_channel::never`] for senders: never accepts a message and never disconnects.
pub struct BlockedChannel<T> {
    sender: Sender<T>,
    /// Kept, because a send to a channel without receiver would fail at once.
    _receiver: Receiver<T>,
}

impl<T> BlockedChannel<T> {
    /// The sender, valid as long as this channel exists.
    pub fn sender(&self) -> Sender<T> {
        self.sender.clone()
    }
}

impl<T> Default for BlockedChannel<T> {
    fn default() -> Self {
        let (sender, receiver) = bounded(0);
        Self { sender, _receiver: receiver }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn select_never_chooses_the_blocked_channel() {
        let blocked = BlockedChannel::default();
        let sent = crossbeam_channel::select! {
            send(blocked.sender(), 1) -> _ => true,
            default => false,
        };
        assert!(!sent);
    }
}
