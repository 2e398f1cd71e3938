//! Prompts in the foreground and in the background of an interactive shell.

use crate::common::terminal::AtTerminal;
use crate::common::*;
use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;

/// A process that is ended with the test.
struct Job(Pid);

impl Drop for Job {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

/// The job that the shell has just started with `& echo pid=$!.`
fn job(shell: &mut AtTerminal) -> Job {
    // The first one is the echo of the command.
    shell.wait_for("pid=$!.");
    shell.wait_for("pid=");
    let pid = shell.wait_for(".");
    Job(Pid::from_raw(pid.trim_end_matches('.').parse().unwrap()).unwrap())
}

#[test]
fn a_client_runs_in_the_background_and_takes_the_prompt_in_the_foreground() {
    let place = place();
    let dir = place.path();
    let theirs = subfolder(dir, "theirs");
    subfolder(dir, "ours");
    let manager = manager(dir, &[]);
    let at = manager.address().to_string();
    let mut shell = AtTerminal::shell(dir);
    shell.wait_for("$ ");
    shell.press(&format!("client -folder ours -transfer_port 0 -name me --manager {at} & echo pid=$!.\n"));
    let _job = job(&mut shell);
    shell.wait_for("registered with the manager");
    let mut other = plain(dir, &theirs, "other", &["--manager", &at]);
    // A stopped program would not write this line, and it has no prompt.
    let shown = shell.wait_for("1 other peer active");
    assert!(!shown.contains("me>"), "{shown:?}");

    shell.press("fg\n");
    shell.wait_for("type help for a list of commands");
    shell.wait_for_prompt();
    shell.press("peers\r");
    shell.wait_for("other ");
    shell.wait_for_prompt();
    shell.press("half a li");
    shell.wait_for("half a li");
    shell.press("\x1a");
    shell.wait_for("Stopped");
    shell.wait_for("$ ");
    assert!(shell.is_cooked());

    shell.press("bg\n");
    shell.wait_for(" &");
    other.interrupt();
    other.ends_with(0);
    // In the background the log line is written without the prompt, and the shell keeps its terminal.
    let shown = shell.wait_for("disconnected");
    assert!(!shown.contains("me>") && shell.is_cooked(), "{shown:?}");
    shell.press("fg\n");
    shell.wait_for("me> half a li");
    shell.press("\x03");
    shell.wait_for_prompt();
    shell.press("quit\r");
    shell.wait_for("$ ");
    shell.press("echo code=$?.\n");
    shell.wait_for("code=0.");
    shell.press("exit\n");
    assert_eq!(shell.exit_code(Duration::from_secs(60)), Some(0));
}
