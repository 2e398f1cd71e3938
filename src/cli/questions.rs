//! Questions of a client that was started without flags: port, number or name, and folder of the peer.
//!
//! Invariant: an answer that cannot be used is refused with the reason and asked for again; the answers become the
//! arguments that a user would have typed.

use super::console::print_error;
use super::environment;
use super::folder::{self, FolderKind};
use super::memory::share_memory_area;
use crate::content::PeerName;
use crate::content::limits::MANAGER_ADDRESS;
use crate::report::next_step::quoted;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, IsTerminal as _, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

/// First port that is suggested.
const FIRST_PORT: u16 = 9001;
/// Ports that are tried for a suggestion.
const SUGGESTED_PORTS_MAX: u16 = 100;
/// Flags that select how a plain folder is shared, so that no manager is added.
const SHARING_FLAGS: [&str; 7] = ["manager", "tracker", "plain", "volunteer", "get", "all", "set"];

/// The complete arguments of a client, the first of which is the program. `PORT NUMBER` at their begin stands for the
/// port and the name `peerNUMBER` in the folder of that name. Missing answers are asked for at a terminal; without a
/// terminal, incomplete arguments are returned as they are. `None` if the user ends the questions.
pub fn client_arguments(arguments: Vec<OsString>) -> Option<Vec<OsString>> {
    share_memory_area();
    let is_number = |text: &OsStr| text.to_str().is_some_and(|text| text.parse::<u32>().is_ok());
    let given: Vec<String> = arguments
        .iter()
        .skip(1)
        .take(2)
        .map_while(|argument| is_number(argument).then(|| argument.to_string_lossy().into_owned()))
        .collect();
    let rest = &arguments[(1 + given.len()).min(arguments.len())..];
    let has_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    // A client with a service file has its settings in the environment.
    let is_set = |flag| std::env::var_os(environment::variable("client", flag)).is_some();
    let is_asked =
        has_terminal && rest.is_empty() && !is_set("folder") && !is_set("split") && !is_set("json");
    if (given.is_empty() && !rest.is_empty()) || (given.len() < 2 && !is_asked) {
        return Some(arguments);
    }
    let asked = if is_asked { Some(&mut io::stdin().lock() as &mut dyn BufRead) } else { None };
    let own = answers(&given, asked, &mut io::stderr(), is_free)?;
    let mut complete: Vec<OsString> = arguments.iter().take(1).cloned().collect();
    complete.extend(own.arguments(rest).into_iter().map(OsString::from));
    complete.extend(rest.iter().cloned());
    if is_asked {
        let words: Vec<String> = complete[1..].iter().map(|word| quoted(&word.to_string_lossy())).collect();
        print_error(&format!("the same without questions: client {}", words.join(" ")));
    }
    Some(complete)
}

/// Port, name and folder of a peer.
#[derive(Debug, PartialEq, Eq)]
struct Own {
    port: String,
    name: String,
    folder: String,
}

impl Own {
    /// The flags. A plain folder is shared through the manager on this host, unless `rest` has a flag for it.
    fn arguments(&self, rest: &[OsString]) -> Vec<String> {
        let mut flags = vec!["-folder", &self.folder, "-transfer_port", &self.port, "-name", &self.name];
        let manager = MANAGER_ADDRESS.to_string();
        let is_chosen = rest.iter().filter_map(|argument| argument.to_str()?.strip_prefix('-')).any(|flag| {
            let flag = flag.trim_start_matches('-').split('=').next().unwrap_or_default();
            SHARING_FLAGS.contains(&flag)
        });
        let is_plain = !folder::kind(Path::new(&self.folder)).is_ok_and(|kind| kind == FolderKind::Chunks);
        if is_plain && !is_chosen {
            flags.extend(["--manager", &manager]);
        }
        flags.into_iter().map(str::to_owned).collect()
    }
}

/// The given answers, and those that are asked for. `None` at the end of the input.
fn answers(
    given: &[String],
    mut input: Option<&mut dyn BufRead>,
    output: &mut dyn Write,
    is_free: impl Fn(u16) -> bool,
) -> Option<Own> {
    let port = match given.first() {
        Some(port) => port.clone(),
        None => {
            let free = (FIRST_PORT..).take(SUGGESTED_PORTS_MAX.into()).find(|port| is_free(*port));
            let default = free.unwrap_or(FIRST_PORT).to_string();
            ask("port", &default, &mut input, output, |text| match text.parse() {
                Err(_) | Ok(0) => Err(format!("{text} is not a port: a number from 1 to 65535")),
                Ok(port) if !is_free(port) => Err(format!("port {port} is in use")),
                Ok(_) => Ok(()),
            })?
        }
    };
    let number = match given.get(1) {
        Some(number) => number.clone(),
        None => {
            let number = port.parse::<u16>().unwrap_or(0).saturating_sub(FIRST_PORT - 1);
            let default = if (1..=SUGGESTED_PORTS_MAX).contains(&number) { number } else { 1 };
            ask("peer number or name", &default.to_string(), &mut input, output, |text| {
                PeerName::new(text).map(drop).map_err(|error| error.to_string())
            })?
        }
    };
    let name =
        if number.bytes().all(|byte| byte.is_ascii_digit()) { format!("peer{number}") } else { number };
    if input.is_none() || (given.len() == 2 && Path::new(&name).is_dir()) {
        return Some(Own { port, folder: name.clone(), name });
    }
    loop {
        let folder = ask("folder", &name, &mut input, output, |_| Ok(()))?;
        let path = Path::new(&folder);
        if !path.exists() {
            let create = ask(
                &format!("{folder} does not exist; create it?"),
                "y",
                &mut input,
                output,
                |text| match ["y", "yes", "n", "no"].contains(&text.to_lowercase().as_str()) {
                    true => Ok(()),
                    false => Err("answer y or n".to_owned()),
                },
            )?;
            if create.to_lowercase().starts_with('n') {
                continue;
            }
            if let Err(error) = std::fs::create_dir_all(path) {
                let _ = writeln!(output, "cannot create {folder}: {error}");
                continue;
            }
        }
        match folder::kind(path) {
            Ok(_) => return Some(Own { port, name, folder }),
            Err(error) => _ = writeln!(output, "{}", error.text),
        }
    }
}

/// Asks until the answer can be used; an empty answer is the default. `None` at the end of the input.
fn ask(
    question: &str,
    default: &str,
    input: &mut Option<&mut dyn BufRead>,
    output: &mut dyn Write,
    check: impl Fn(&str) -> Result<(), String>,
) -> Option<String> {
    loop {
        let _ = write!(output, "{question} [{default}]: ").and_then(|()| output.flush());
        let mut line = String::new();
        match input.as_mut()?.read_line(&mut line) {
            Ok(1..) => {}
            _ => {
                let _ = writeln!(output);
                return None;
            }
        }
        let answer = Some(line.trim()).filter(|answer| !answer.is_empty()).unwrap_or(default);
        match check(answer) {
            Ok(()) => return Some(answer.to_owned()),
            Err(reason) => _ = writeln!(output, "{reason}"),
        }
    }
}

/// Whether a program can listen on a port of this host.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers to an input, and the output.
    fn asked(given: &[&str], input: &str) -> (Option<Own>, String) {
        let (given, mut output) =
            (given.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(), Vec::new());
        let own = answers(&given, Some(&mut input.as_bytes()), &mut output, |port| port != FIRST_PORT);
        (own, String::from_utf8(output).unwrap())
    }

    #[test]
    fn empty_answers_are_the_defaults_and_wrong_answers_are_asked_again() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("new").display().to_string();
        let (own, output) = asked(&[], &format!("\n\n{folder}\n\n"));
        let expected = Own { port: "9002".into(), name: "peer2".into(), folder: folder.clone() };
        assert_eq!(own, Some(expected));
        assert!(output.starts_with("port [9002]: peer number or name [2]: folder [peer2]: "), "{output}");
        assert!(output.ends_with("does not exist; create it? [y]: ") && Path::new(&folder).is_dir());

        let (own, output) = asked(&[], &format!("x\n0\n9001\n9005\na/b\nann\n{folder}\n"));
        assert_eq!(own, Some(Own { port: "9005".into(), name: "ann".into(), folder: folder.clone() }));
        for reason in ["x is not a port", "0 is not a port", "port 9001 is in use", "'/'"] {
            assert!(output.contains(reason), "{reason}: {output}");
        }
        let none = format!("{folder}/none");
        let (own, output) = asked(&["9003", "3"], &format!("{none}\nperhaps\nn\n{folder}\n"));
        assert_eq!(own, Some(Own { port: "9003".into(), name: "peer3".into(), folder }));
        assert!(output.contains("answer y or n") && !Path::new(&none).exists());
        assert_eq!(asked(&[], "9004\n").0, None);
    }

    #[test]
    fn a_manager_is_added_for_a_plain_folder_unless_a_flag_says_how_to_share_it() {
        let place = tempfile::tempdir().unwrap();
        let own =
            |folder: &Path| Own { port: "1".into(), name: "n".into(), folder: folder.display().to_string() };
        let last = |rest: &[&str]| {
            let rest: Vec<OsString> = rest.iter().map(OsString::from).collect();
            own(place.path()).arguments(&rest).pop().unwrap()
        };
        assert_eq!(last(&[]), MANAGER_ADDRESS.to_string());
        assert_eq!(last(&["-v"]), MANAGER_ADDRESS.to_string());
        for flag in ["--plain", "-manager", "--tracker=x"] {
            assert_eq!(last(&[flag]), "n", "{flag}");
        }
        std::fs::write(place.path().join(crate::content::local_chunks::FILE), "1,LASTCHUNK\n").unwrap();
        assert_eq!(last(&[]), "n");
    }
}
