//! Commands from a pipe or file: executed in their order, each to its end before the next.
//!
//! Thread `prompt-input` reads standard input, and the calling thread executes the commands. The end of the input ends
//! the program, with the fault of the first failed command. Invariant: an input without a command (such as `/dev/null`)
//! does not end the program, so that a service manager can start it.

use super::handler::{CommandHandler, LoopEnd};
use crate::net::{Shutdown, Threads};
use crate::report::{Fault, RoleError, events};
use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io::{self, PipeReader};
use std::ops::ControlFlow;
use std::os::fd::AsFd;

/// Longest line, bytes: longer than a command with several tickets.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes that are read at once.
const READ_BYTES: usize = 4096;

/// Executes the lines of standard input until its end, `quit`, or a shutdown.
///
/// # Errors
/// The first failed command, or the failure of the daemon that `failed` reports.
pub(super) fn run(
    handler: &mut dyn CommandHandler,
    failed: &Receiver<RoleError>,
    shutdown: &Shutdown,
) -> Result<LoopEnd, RoleError> {
    let stop = shutdown.child();
    let (stopped, stopping) = io::pipe()?;
    // The closed pipe wakes the reader.
    stop.on_trigger(move || drop(stopping));
    let (lines, read) = bounded(1);
    let threads = Threads::new();
    threads.spawn("prompt-input", move || read_lines(&io::stdin(), &stopped, &lines))?;
    let end = execute(read, handler, failed, shutdown);
    stop.trigger();
    threads.join();
    end
}

/// Executes lines until their channel is closed.
fn execute(
    lines: Receiver<Result<String, String>>,
    handler: &mut dyn CommandHandler,
    failed: &Receiver<RoleError>,
    shutdown: &Shutdown,
) -> Result<LoopEnd, RoleError> {
    let mut first_fault = None;
    let mut is_begun = false;
    for number in 1_u64.. {
        let line = crossbeam_channel::select! {
            recv(lines) -> line => line,
            recv(shutdown.signal()) -> _ => break,
            recv(failed) -> failure => return failure.map_or(Ok(LoopEnd::Quit), Err),
        };
        let result = match line {
            Ok(Ok(line)) if line.trim().is_empty() => continue,
            Ok(Ok(line)) => {
                is_begun = true;
                handler.refresh();
                match handler.execute(&line) {
                    ControlFlow::Continue(result) => result,
                    ControlFlow::Break(()) => break,
                }
            }
            // For example a terminal that nohup has replaced by a file that cannot be read.
            Ok(Err(reason)) if !is_begun => {
                log::debug!("no commands are read from standard input: {reason}");
                return Ok(LoopEnd::InputLost);
            }
            Ok(Err(reason)) => Err(RoleError::new(Fault::Usage, reason)),
            Err(_) if !is_begun => return Ok(LoopEnd::InputLost),
            Err(_) => break,
        };
        if let Err(error) = result {
            error.text.lines().for_each(|text| log::error!("line {number} of standard input: {text}"));
            events::failed(&error);
            first_fault.get_or_insert(error.fault);
        }
    }
    match first_fault {
        // Its text is in the log.
        Some(fault) => Err(RoleError::new(fault, "")),
        None => Ok(LoopEnd::Quit),
    }
}

/// Sends each line of the input, without its end, then closes the channel. Ends early when `stopped` is closed.
fn read_lines(input: &impl AsFd, stopped: &PipeReader, lines: &Sender<Result<String, String>>) {
    let mut pending = Vec::new();
    let mut piece = [0; READ_BYTES];
    loop {
        let mut ready = [PollFd::new(input, PollFlags::IN), PollFd::new(stopped, PollFlags::empty())];
        match poll(&mut ready, None) {
            Err(Errno::INTR) => continue,
            Err(error) => return drop(lines.send(Err(error.to_string()))),
            Ok(_) if !ready[1].revents().is_empty() => return,
            Ok(_) => {}
        }
        let count = match rustix::io::read(input, &mut piece) {
            Err(Errno::INTR | Errno::AGAIN) => continue,
            Err(error) => return drop(lines.send(Err(error.to_string()))),
            Ok(0) => break,
            Ok(count) => count,
        };
        pending.extend(&piece[..count]);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let rest = pending.split_off(end + 1);
            if lines.send(Ok(text(&std::mem::replace(&mut pending, rest)))).is_err() {
                return;
            }
        }
        if pending.len() > LINE_BYTES_MAX {
            let reason = format!("a line is longer than {LINE_BYTES_MAX} bytes; no further line is read");
            return drop(lines.send(Err(reason)));
        }
    }
    if !pending.is_empty() {
        let _ = lines.send(Ok(text(&pending)));
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches(['\n', '\r']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{never, unbounded};
    use std::io::Write as _;

    /// Fails each line that begins with a number, with the fault of that number.
    #[derive(Default)]
    struct Recorder(Vec<String>);

    impl CommandHandler for Recorder {
        fn handle(&mut self, _: &str) -> ControlFlow<()> {
            unreachable!()
        }

        fn execute(&mut self, line: &str) -> ControlFlow<(), Result<(), RoleError>> {
            self.0.push(line.to_owned());
            let fault = |fault| Err(RoleError::new(fault, "it failed"));
            match line {
                "quit" => ControlFlow::Break(()),
                "not found" => ControlFlow::Continue(fault(Fault::NotFound)),
                "wrong" => ControlFlow::Continue(fault(Fault::Usage)),
                _ => ControlFlow::Continue(Ok(())),
            }
        }
    }

    /// The executed lines and the result of an input.
    fn executed(input: &[Result<&str, &str>]) -> (Vec<String>, Result<LoopEnd, Fault>) {
        let (sender, lines) = unbounded();
        let owned = |line: &Result<&str, &str>| line.map(str::to_owned).map_err(str::to_owned);
        input.iter().for_each(|line| sender.send(owned(line)).unwrap());
        drop(sender);
        let mut recorder = Recorder::default();
        let end = execute(lines, &mut recorder, &never(), &Shutdown::new());
        (recorder.0, end.map_err(|error| error.fault))
    }

    #[test]
    fn all_commands_are_executed_and_the_first_failure_is_the_result() {
        let (lines, end) = executed(&[Ok("one"), Ok(" "), Ok("not found"), Ok("wrong"), Ok("two")]);
        assert_eq!(lines, ["one", "not found", "wrong", "two"]);
        assert_eq!(end, Err(Fault::NotFound));
        let (lines, end) = executed(&[Ok("one"), Ok("quit"), Ok("two")]);
        assert_eq!((lines.len(), end), (2, Ok(LoopEnd::Quit)));
        assert_eq!(executed(&[Ok("wrong"), Ok("quit")]).1, Err(Fault::Usage));
        assert_eq!(executed(&[Ok("one"), Err("bad disk")]).1, Err(Fault::Usage));
    }

    #[test]
    fn an_input_without_a_command_does_not_end_the_program() {
        for input in [&[][..], &[Ok(""), Ok("  ")], &[Err("not readable")]] {
            assert_eq!(executed(input), (vec![], Ok(LoopEnd::InputLost)));
        }
    }

    #[test]
    fn lines_are_read_to_the_end_of_the_input() {
        let read = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            std::io::Seek::rewind(&mut file).unwrap();
            let (sender, lines) = unbounded();
            let (stopped, _stopping) = io::pipe().unwrap();
            read_lines(&file, &stopped, &sender);
            drop(sender);
            lines.iter().collect::<Vec<_>>()
        };
        let line = |text: &str| Ok(text.to_owned());
        assert_eq!(read(b""), []);
        assert_eq!(read(b"get a\r\n\nquit"), [line("get a"), line(""), line("quit")]);
        assert_eq!(read(b"\xff\n"), [line("\u{fffd}")]);
        let long = read(&vec![b'x'; 10 * LINE_BYTES_MAX]);
        assert!(long.len() == 1 && long[0].as_ref().is_err_and(|reason| reason.contains("longer than")));
    }

    #[test]
    fn a_reader_that_waits_for_input_is_woken() {
        let (input, _open) = io::pipe().unwrap();
        let (stopped, stopping) = io::pipe().unwrap();
        let (sender, lines) = unbounded();
        let reader = std::thread::spawn(move || read_lines(&input, &stopped, &sender));
        drop(stopping);
        reader.join().unwrap();
        assert!(lines.recv().is_err());
    }
}
