//! Questions of a prompt to a running chunk client, and their answers.
//!
//! Invariant: each question gets one answer, or its channel closes: the client has ended, or the tracker is not connected.

use crate::protocol::set_status::SetStatus;
use crate::storage::HeldChunk;
use crossbeam_channel::{Receiver, Sender, bounded};

/// A question about the folder or its set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// The chunks that the folder holds.
    Mine,
    /// The state of the set at the tracker.
    Set,
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The chunks, and their number in the whole set.
    Mine {
        /// Chunks that the folder holds.
        held: Vec<HeldChunk>,
        /// Number of chunks in the whole set.
        count: u32,
    },
    /// The state of the set.
    Set(Box<SetStatus>),
    /// There is no answer now; the reason.
    None(String),
}

/// A question and the channel of its answer.
pub(super) struct Asked {
    pub question: Question,
    pub answer: Sender<Answer>,
}

/// Asks questions of one client. Clones are for the same client.
#[derive(Clone)]
pub struct Asker(Sender<Asked>);

/// The client's end: its questions, and the sender of the message that it has started.
pub struct Questions {
    pub(super) asked: Receiver<Asked>,
    pub(super) started: Sender<()>,
}

/// Questions of a queue, for [`run`](super::run). The last receiver gets a message when the client has started.
pub fn questions() -> (Asker, Questions, Receiver<()>) {
    let (sender, asked) = bounded(1);
    let (started, has_started) = bounded(1);
    (Asker(sender), Questions { asked, started }, has_started)
}

impl Questions {
    /// No questions.
    pub fn none() -> Self {
        questions().1
    }
}

impl Asker {
    /// Asks a question. The channel receives its answer.
    pub fn ask(&self, question: Question) -> Receiver<Answer> {
        let (answer, receiver) = bounded(1);
        // Fails only if the client has ended; then the channel of the answer closes.
        let _ = self.0.send(Asked { question, answer });
        receiver
    }
}
