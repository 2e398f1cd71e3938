//! Tests of the control socket with real sockets and a simulated machine.

use super::*;
use crate::swarm::command::Answer;
use crate::swarm::keeping::TaskOutcome;
use crossbeam_channel::unbounded;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use tempfile::TempDir;

/// A served control socket whose machine answers each command with its text.
struct Served {
    threads: Threads,
    shutdown: Shutdown,
}

impl Served {
    fn start(state: &Path) -> Self {
        let (threads, shutdown) = (Threads::new(), Shutdown::new());
        let (outcomes, machine) = unbounded();
        let commands = Commands::new(outcomes);
        let answers = commands.answers();
        serve(state, commands, &threads, &shutdown).unwrap();
        threads
            .spawn("machine", move || {
                for outcome in machine {
                    let TaskOutcome::Command(number, command) = outcome else { panic!() };
                    answers.deliver(number, Answer::done(format!("{command:?}")));
                }
            })
            .unwrap();
        Self { threads, shutdown }
    }

    fn stop(self) {
        self.shutdown.trigger();
        self.threads.join();
    }
}

fn ask(state: &Path) -> Result<Answer, ControlError> {
    send(state, &Command::Status, &Shutdown::new())
}

#[test]
fn a_command_is_answered_over_a_socket_of_the_owner() {
    let folder = TempDir::new().unwrap();
    let served = Served::start(folder.path());
    let path = folder.path().join(SOCKET);
    let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(ask(folder.path()).unwrap(), Answer::done("Status"));
    served.stop();
    assert!(!path.exists(), "the socket is removed at the end");
    assert!(matches!(ask(folder.path()), Err(ControlError::NotRunning { .. })));
}

#[test]
fn a_socket_of_a_killed_tracker_is_replaced_and_another_file_is_not() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(SOCKET);
    // As after a kill: the socket file remains, and nothing listens.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(matches!(ask(folder.path()), Err(ControlError::NotRunning { .. })));
    let served = Served::start(folder.path());
    assert!(ask(folder.path()).is_ok());
    served.stop();
    fs::write(&path, "text").unwrap();
    let refused = serve(folder.path(), Commands::new(unbounded().0), &Threads::new(), &Shutdown::new());
    assert!(refused.unwrap_err().to_string().contains("another file has this name"));
    assert_eq!(fs::read(&path).unwrap(), b"text");
}

#[test]
fn a_long_path_of_the_state_folder_is_no_obstacle() {
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("x".repeat(120));
    fs::create_dir(&state).unwrap();
    let served = Served::start(&state);
    assert_eq!(ask(&state).unwrap(), Answer::done("Status"));
    served.stop();
    assert!(!state.join(SOCKET).exists());
}

#[test]
fn bad_commands_and_too_many_connections_are_closed() {
    let folder = TempDir::new().unwrap();
    let served = Served::start(folder.path());
    let path = folder.path().join(SOCKET);
    let is_closed = |stream: &mut UnixStream| {
        // The tracker may close the connection before it has read everything.
        matches!(stream.read(&mut [0; 9]), Ok(0)) || stream.read(&mut [0; 9]).is_err()
    };
    for bad in [&b"{}\n"[..], b"no json\n", &vec![b'x'; 1 << 20]] {
        let mut stream = UnixStream::connect(&path).unwrap();
        let _ = stream.write_all(bad);
        assert!(is_closed(&mut stream));
    }
    let idle: Vec<UnixStream> =
        (0..CONTROL_CONNECTIONS_MAX).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let mut refused = UnixStream::connect(&path).unwrap();
    assert!(is_closed(&mut refused));
    drop(idle);
    served.stop();
}
