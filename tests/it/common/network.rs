//! Network namespaces for a test: one host, or three hosts on one bridge.
//!
//! The processes of a scenario are in new user, mount, process and network namespaces. The first process in them reads
//! its standard input; when that is closed or the process is killed, the kernel ends all the others. So no process
//! outlives the test, however the test ends, and needs no name or port that another test could have.

use super::{Program, place, subfolder};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Brings the only host up.
const ONE_HOST: &str = "ip link set lo up";
/// Makes the hosts A, B and C with the addresses 10.0.0.1 to 10.0.0.3.
const THREE_HOSTS: &str = "\
mount -t tmpfs none /run
ip link add bridge0 type bridge
ip link set bridge0 up
number=1
for host in A B C; do
    ip netns add $host
    ip link add to$host type veth peer name eth0 netns $host
    ip link set to$host master bridge0 up
    ip -n $host addr add 10.0.0.$number/24 dev eth0
    ip -n $host link set eth0 up
    ip -n $host link set lo up
    number=$((number + 1))
done";
const READY: &str = "ready";

/// The namespaces of a scenario. Dropping it ends every process in them.
pub struct Network {
    /// `unshare`, the parent of the first process in the namespaces.
    holder: Child,
    /// Process id of that first process.
    first: u32,
}

impl Network {
    /// Makes the namespaces; `None`, with the reason, where the system does not allow it.
    pub fn new(has_hosts: bool) -> Option<Self> {
        let set_up = if has_hosts { THREE_HOSTS } else { ONE_HOST };
        let script = format!("set -e\n{set_up}\necho {READY}\nexec cat");
        let holder = Command::new("unshare")
            .args(["--map-root-user", "--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut holder = match holder {
            Ok(holder) => holder,
            Err(error) => {
                eprintln!("skipped: unshare cannot be started: {error}");
                return None;
            }
        };
        let mut line = String::new();
        let _ = BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line);
        let first = child_of(holder.id()).filter(|_| line.trim() == READY);
        let network = Self { holder, first: first.unwrap_or_default() };
        if first.is_none() {
            eprintln!("skipped: this user may not make namespaces and network interfaces");
        }
        first.map(|_| network)
    }

    /// A command that becomes another one on a host.
    pub fn command(&self, host: Option<char>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--preserve-credentials", "--user", "--mount", "--pid", "--net", "--target"]);
        command.arg(self.first.to_string());
        if let Some(host) = host {
            command.args(["nsenter", &format!("--net=/run/netns/{host}")]);
        }
        command
    }
}

impl Network {
    /// The beginning of a command line that becomes a program on a host, in a folder. It stays in the process namespace of
    /// the test, so that the test can end it.
    pub fn prefix(&self, host: char, folder: &std::path::Path) -> Vec<String> {
        let command = self.command(Some(host));
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words = words.filter(|word| *word != "--pid");
        let mut words: Vec<String> = words.map(|word| word.to_str().unwrap().to_owned()).collect();
        let folder = folder.to_str().unwrap();
        words.extend(["sh", "-c", "cd \"$0\" && exec \"$@\"", folder].map(str::to_owned));
        words
    }
}

/// The three hosts of a network, each with a folder of its own.
pub struct Hosts {
    pub network: Network,
    place: tempfile::TempDir,
}

impl Hosts {
    /// `None`, with a message, where the user may not make network namespaces.
    pub fn new() -> Option<Self> {
        Some(Self { network: Network::new(true)?, place: place() })
    }

    pub fn folder(&self, host: char) -> PathBuf {
        subfolder(self.place.path(), &host.to_string())
    }

    /// The beginning of a command line that becomes a program on a host, in its folder.
    pub fn prefix(&self, host: char) -> Vec<String> {
        self.network.prefix(host, &self.folder(host))
    }

    pub fn start(&self, host: char, program: &str, args: &[&str]) -> Program {
        let prefix = self.prefix(host);
        let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
        Program::start_by(&prefix, program, args, &self.folder(host))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The only child of a process.
fn child_of(process: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
