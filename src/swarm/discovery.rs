//! Answers to discovery questions, and their rate limit.
//!
//! Invariants: an answer is not longer than its question; in each interval at most `SOURCE_QUESTIONS_MAX` questions
//! of one source address are considered, and at most `QUESTIONS_MAX` of all sources together.

use super::Moment;
use crate::content::limits::{PROTOCOL_VERSION, QUESTIONS_MAX, SOURCE_QUESTIONS_MAX};
use crate::protocol::discovery::{Answer, Question, Service, Wanted};
use crate::protocol::file_summary::FileSummary;
use crate::protocol::tokens::Nonce;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Interval of the rate limit.
const INTERVAL: Duration = Duration::from_secs(1);

/// The services of a program.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// Port of its tracker.
    pub tracker: Option<u16>,
    /// Port of its manager.
    pub manager: Option<u16>,
    /// Port on which it serves files.
    pub files: Option<u16>,
}

/// Decides which questions are answered.
#[derive(Debug)]
pub struct Responder {
    program: Nonce,
    since: Moment,
    questions: u32,
    sources: HashMap<IpAddr, u32>,
}

impl Responder {
    /// A responder of a program; `program` is a random number.
    pub fn new(program: Nonce) -> Self {
        Self { program, since: Moment::ZERO, questions: 0, sources: HashMap::new() }
    }

    /// The encoded answer to a datagram of `from`; `None` if it gets none. `files` is called only for a question about
    /// files.
    pub fn answer(
        &mut self,
        now: Moment,
        from: IpAddr,
        datagram: &[u8],
        services: &Services,
        files: impl FnOnce() -> Vec<FileSummary>,
    ) -> Option<Vec<u8>> {
        let question = Question::decode(datagram)?;
        let mut service = match &question.wanted {
            Wanted::Tracker => Service::Tracker { port: services.tracker? },
            Wanted::Manager => Service::Manager { port: services.manager? },
            Wanted::Name { .. } | Wanted::Id { .. } | Wanted::Files => {
                Service::Files { port: services.files?, files: Vec::new(), truncated: false }
            }
            Wanted::Unknown => return None,
        };
        if !self.has_room(now, from) {
            return None;
        }
        if let Service::Files { files: found, .. } = &mut service {
            found.extend(files().into_iter().filter(|file| question.matches(file)));
            if found.is_empty() {
                return None;
            }
        }
        Answer { v: PROTOCOL_VERSION, tx: question.tx, program: self.program, service }.encode(datagram.len())
    }

    /// Counts a question. Whether it is within the limits.
    fn has_room(&mut self, now: Moment, from: IpAddr) -> bool {
        if now.saturating_sub(self.since) >= INTERVAL {
            (self.since, self.questions) = (now, 0);
            self.sources.clear();
        }
        if self.questions >= QUESTIONS_MAX {
            return false;
        }
        let of_source = self.sources.entry(from).or_default();
        let has_room = *of_source < SOURCE_QUESTIONS_MAX;
        *of_source += u32::from(has_room);
        self.questions += u32::from(has_room);
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{FileId, FileName};
    use crate::protocol::discovery::name_digest;

    const TX: Nonce = Nonce(9);
    const ALL: Services = Services { tracker: Some(5100), manager: None, files: Some(7000) };

    fn file(name: &str) -> FileSummary {
        FileSummary { id: FileId([7; 32]), name: FileName::new(name).unwrap(), size: 9, chunks: 1 }
    }

    fn source(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    fn ask(responder: &mut Responder, now: Moment, from: IpAddr, wanted: Wanted) -> Option<Service> {
        let question = Question::new(TX, wanted);
        let files = || vec![file("a.bin"), file("b.bin")];
        let bytes = responder.answer(now, from, &question.encode(), &ALL, files)?;
        Some(Answer::decode(&bytes, &question).unwrap().service)
    }

    #[test]
    fn a_program_answers_for_its_own_services_only() {
        let ask = |wanted| ask(&mut Responder::new(TX), Moment::ZERO, source(1), wanted);
        assert_eq!(ask(Wanted::Tracker), Some(Service::Tracker { port: 5100 }));
        assert_eq!(ask(Wanted::Manager), None);
        let name = |name| Wanted::Name { digest: name_digest(TX, &FileName::new(name).unwrap()) };
        let files = vec![file("b.bin")];
        assert_eq!(ask(name("b.bin")), Some(Service::Files { port: 7000, files, truncated: false }));
        assert_eq!(ask(name("c.bin")), None);
    }

    #[test]
    fn answers_to_one_source_and_to_all_are_limited() {
        let mut responder = Responder::new(TX);
        let mut count = |now, from, times| {
            (0..times).filter(|_| ask(&mut responder, now, from, Wanted::Tracker).is_some()).count() as u32
        };
        assert_eq!(count(Moment::ZERO, source(1), 99), SOURCE_QUESTIONS_MAX);
        let rest: u32 = (2..=255).map(|number| count(Moment::ZERO, source(number), 9)).sum();
        assert_eq!(rest, QUESTIONS_MAX - SOURCE_QUESTIONS_MAX);
        assert_eq!(count(INTERVAL, source(1), 99), SOURCE_QUESTIONS_MAX, "the next interval");
    }

    #[test]
    fn a_short_question_gets_no_longer_answer() {
        let question = serde_json::to_vec(&Question::new(TX, Wanted::Files)).unwrap();
        let files = || vec![file("a.bin")];
        assert_eq!(Responder::new(TX).answer(Moment::ZERO, source(1), &question, &ALL, files), None);
    }
}
