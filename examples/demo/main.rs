//! Demo of all programs in one terminal: `cargo run --release --example demo`.
//!
//! It starts the real programs on free ports of this host and shows their output:
//!
//! 1. A tracker and three clients, on copies of the sample folders, exchange missing chunks. A leecher then downloads
//!    the whole set as one file.
//! 2. Two seeders offer a file of 64 MiB. A leecher downloads it from both at the same time, and one seeder is killed
//!    during the download.
//! 3. A manager and two peers, on copies of `peer1` and `peer2`: each downloads the file of the other. Then the first
//!    peer is killed, and a third peer downloads both files from the second.
//! 4. A tracker replicates a file of 16 MiB at four volunteers and deletes its own copy. One volunteer is killed, its
//!    replicas are copied among the others, and a client downloads the file from them.
//!
//! At the end the demo compares every byte. It exits with 0 if all files are correct, and otherwise prints the error.
//! It works in a new folder in the temporary folder of the system, and keeps that folder with its `logs.log`.
//!
//! Invariants: at each end of the demo (success, error, Ctrl-C, panic) the programs that it started are ended and
//! waited for; each wait ends at the deadline.

mod program_set;

use anyhow::{Context, Result, bail, ensure};
use crossbeam_channel::bounded;
use program_set::ProgramSet;
use shoal::content::Digest;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Maximum time for the whole demo; after it the demo fails.
const DEMO_TIMEOUT: Duration = Duration::from_secs(45);

/// The folder that contains the sample folders.
const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
/// The clients, one for each sample folder. The set has as many chunks as clients, and each folder lacks one of them.
const CLIENTS: [&str; 3] = ["client1", "client2", "client3"];

const LARGE_NAME: &str = "large.bin";
const LARGE_SIZE: usize = 64 << 20;
/// Upload limit of each seeder, per second: low enough that a seeder can be killed during the download.
const UPLOAD_LIMIT: &str = "16MiB";
/// Number of chunks of the large file.
const LARGE_CHUNKS: usize = 1_024;
/// The first seeder is killed after it has started to send this number of chunks.
const CHUNKS_BEFORE_KILL_COUNT: usize = LARGE_CHUNKS / 5;
/// Part of the log line that a seeder with `-v` writes for each chunk that it sends.
const SERVING: &str = " - DEBUG - serving chunk ";

const REPLICATED_NAME: &str = "replicated.bin";
const REPLICATED_SIZE: usize = 16 << 20;
const VOLUNTEERS: [&str; 4] = ["anna", "bert", "cora", "dora"];

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_line("demo", &format!("FAILED: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let (interrupt, interrupted) = bounded(1);
    ctrlc::set_handler(move || {
        let _ = interrupt.try_send(());
    })
    .context("cannot catch Ctrl-C")?;
    let binaries = build()?;
    let started = Instant::now();
    let folder =
        tempfile::Builder::new().prefix("shoal-demo-").tempdir().context("no temporary folder")?.keep();
    print_line("demo", &format!("working in {}", folder.display()));
    let programs = ProgramSet::new(binaries, folder.clone(), started + DEMO_TIMEOUT, interrupted);
    let result = run_all(programs);
    print_line("demo", &format!("log file: {}", folder.join("logs.log").display()));
    result?;
    print_line("demo", &format!("the folder (190 MiB) was kept; remove it with: rm -r {}", folder.display()));
    print_line("demo", &format!("done in {:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

/// Builds the programs, because cargo builds only the example itself. Returns their folder, which is the parent of the
/// folder of the example.
fn build() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot find the path of this program")?;
    let folder = own.parent().and_then(Path::parent).context("this program is not in a target folder")?;
    let target = folder.parent().context("this program is not in a target folder")?;
    let profile = match folder.file_name().and_then(OsStr::to_str) {
        Some("debug") => "dev",
        Some(name) => name,
        None => bail!("{} is not the folder of a cargo profile", folder.display()),
    };
    print_line("demo", &format!("building the programs ({profile})"));
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // With the demo among the targets, cargo uses the same features, so the library is not built again.
    let targets = ["--bins", "--example", "demo", "--profile", profile];
    command.args(["build", "--quiet"]).args(targets).arg("--target-dir").arg(target);
    command.arg("--manifest-path").arg(Path::new(REPOSITORY).join("Cargo.toml"));
    let status = command.stdin(Stdio::null()).status().context("cannot start cargo")?;
    ensure!(status.success(), "cargo build failed");
    Ok(folder.to_owned())
}

/// Runs all parts of the demo. Dropping the set ends the programs.
fn run_all(mut programs: ProgramSet) -> Result<()> {
    // With a short lease the tracker notices a killed peer within 3 s.
    let flags = ["--listen", "127.0.0.1:0", "--heartbeat", "1", "--lease", "3"];
    programs.start("tracker", "tracker", flags)?;
    let tracker = programs.address("tracker")?.to_string();
    let mut verified = chunk_folders(&mut programs, &tracker)?;
    verified.push(large_file(&mut programs, &tracker)?);
    verified.push(peers(&mut programs)?);
    verified.push(volunteers(&mut programs)?);
    programs.end_all()?;
    title("all files are complete and verified");
    verified.iter().for_each(|line| print_line("demo", line));
    Ok(())
}

/// Three clients exchange missing chunks, and a leecher downloads the set. Returns the lines of the summary.
fn chunk_folders(programs: &mut ProgramSet, tracker: &str) -> Result<Vec<String>> {
    title("three chunk folders, each with one missing chunk");
    for (folder, client) in ["folder1", "folder2", "folder3"].into_iter().zip(CLIENTS) {
        copy_folder(&Path::new(REPOSITORY).join(folder), &programs.folder.join(folder))?;
        let flags = ["-folder", folder, "-transfer_port", "0", "-name", client, "--tracker", tracker];
        programs.start(client, "client", flags)?;
    }
    for client in CLIENTS {
        programs.until_written(client, " is complete: all 3 chunks ")?;
    }
    title("download of the set as one file");
    programs.start("leecher", "leecher", ["default", "--tracker", tracker])?;
    programs.until_success("leecher")?;
    let mut whole = Vec::new();
    for number in 1..=CLIENTS.len() {
        let name = format!("chunk_{number}");
        let chunk = read(&Path::new(REPOSITORY).join(format!("folder{number}")).join(&name))?;
        for folder in ["folder1", "folder2", "folder3"] {
            let copy = programs.folder.join(folder).join(&name);
            ensure!(read(&copy)? == chunk, "{} differs from the sample", copy.display());
        }
        whole.extend(chunk);
    }
    ensure!(read(&programs.folder.join("default"))? == whole, "the downloaded set differs from the samples");
    Ok(vec![
        "folder1, folder2, folder3: all 3 chunks in each, identical to the samples".to_owned(),
        format!("default: the set as a file, {} bytes, SHA-256 {}", whole.len(), Digest::of(&whole)),
    ])
}

/// A leecher downloads a file from two seeders, one of which is killed. Returns the line of the summary.
fn large_file(programs: &mut ProgramSet, tracker: &str) -> Result<String> {
    title("64 MiB from two seeders; one of them is killed");
    let mut bytes = vec![0; LARGE_SIZE];
    fastrand::Rng::with_seed(64).fill(&mut bytes);
    let original = programs.folder.join(LARGE_NAME);
    fs::write(&original, &bytes).with_context(|| format!("cannot write {}", original.display()))?;
    for seeder in ["seeder1", "seeder2"] {
        let offer = ["-f", LARGE_NAME, "-p", "0", "--name", seeder, "--tracker", tracker];
        programs.start(seeder, "seeder", offer.into_iter().chain(["--upload-limit", UPLOAD_LIMIT, "-v"]))?;
    }
    for seeder in ["seeder1", "seeder2"] {
        programs
            .until_written("tracker", &format!("{seeder} has {LARGE_CHUNKS} of {LARGE_CHUNKS} chunks"))?;
    }
    let downloads = programs.folder.join("downloads");
    fs::create_dir(&downloads).context("cannot create the download folder")?;
    programs.start("leecher", "leecher", [LARGE_NAME, "--out", "downloads", "--tracker", tracker])?;
    programs.until("seeder1 to send chunks", |programs| {
        programs.program("seeder1").is_some_and(|seeder| seeder.served >= CHUNKS_BEFORE_KILL_COUNT)
    })?;
    programs.kill("seeder1")?;
    programs.until_success("leecher")?;
    programs.until_written("tracker", "seeder1 at ")?;
    let copy = read(&downloads.join(LARGE_NAME))?;
    ensure!(copy == bytes, "the downloaded file differs from the original");
    Ok(format!(
        "{LARGE_NAME}: {} bytes, identical to the original, SHA-256 {}",
        copy.len(),
        Digest::of(&copy)
    ))
}

/// Two peers exchange files, and a third peer downloads both from the second. Returns the line of the summary.
fn peers(programs: &mut ProgramSet) -> Result<String> {
    title("peers that exchange files");
    programs.start("manager", "manager", ["--listen", "127.0.0.1:0"])?;
    let manager = programs.address("manager")?.to_string();
    let client = |folder| ["-folder", folder, "-transfer_port", "0", "-name", folder, "--manager", &manager];
    for (peer, wanted) in [("peer1", "file2.txt"), ("peer2", "file1.txt")] {
        copy_folder(&Path::new(REPOSITORY).join(peer), &programs.folder.join(peer))?;
        programs.start(peer, "client", client(peer).into_iter().chain(["--get", wanted, "--stay"]))?;
    }
    programs.until_written("peer1", "Successfully downloaded file2.txt")?;
    programs.until_written("peer2", "Successfully downloaded file1.txt")?;
    programs.kill("peer1")?;
    programs.until_written("peer2", " disconnected")?;
    fs::create_dir(programs.folder.join("peer3")).context("cannot create the folder of the third peer")?;
    let wanted = ["--get", "file1.txt", "--get", "file2.txt", "--stay"];
    programs.start("peer3", "client", client("peer3").into_iter().chain(wanted))?;
    for file in ["file1.txt", "file2.txt"] {
        programs.until_written("peer3", &format!("Successfully downloaded {file}"))?;
    }
    for (owner, file) in [("peer1", "file1.txt"), ("peer2", "file2.txt")] {
        let original = read(&Path::new(REPOSITORY).join(owner).join(file))?;
        for peer in ["peer1", "peer2", "peer3"] {
            let copy = programs.folder.join(peer).join(file);
            ensure!(read(&copy)? == original, "{} differs from the file of {owner}", copy.display());
        }
    }
    Ok("peer1, peer2, peer3: file1.txt and file2.txt in each, identical to the samples".to_owned())
}

/// Four volunteers store replicas for a tracker, and one of them is killed. Returns the line of the summary.
fn volunteers(programs: &mut ProgramSet) -> Result<String> {
    title("a file replicated at volunteers; one of them is killed");
    let (library, received) = (programs.folder.join("library"), programs.folder.join("received"));
    let mut bytes = vec![0; REPLICATED_SIZE];
    fastrand::Rng::with_seed(16).fill(&mut bytes);
    for folder in [&library, &received] {
        fs::create_dir(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let original = library.join(REPLICATED_NAME);
    fs::write(&original, &bytes).with_context(|| format!("cannot write {}", original.display()))?;
    let flags = ["--files", "library", "--state", "state", "--offload", "--heartbeat", "0.5", "--lease", "2"];
    programs.start("tracker2", "tracker", ["--listen", "127.0.0.1:0"].into_iter().chain(flags))?;
    let tracker = programs.address("tracker2")?.to_string();
    let client = |folder| ["-folder", folder, "-transfer_port", "0", "-name", folder, "--tracker", &tracker];
    for volunteer in VOLUNTEERS {
        fs::create_dir(programs.folder.join(volunteer)).context("cannot create the folder of a volunteer")?;
        programs.start(volunteer, "client", client(volunteer).into_iter().chain(["--volunteer", "1GiB"]))?;
    }
    programs.until_written("tracker2", " volunteers store it, the tracker's copy was deleted")?;
    ensure!(!original.exists(), "{} was not deleted", original.display());
    status(programs, &tracker)?;
    programs.kill("bert")?;
    programs.until_written("tracker2", "repair is done")?;
    status(programs, &tracker)?;
    programs.start("receiver", "client", client("received").into_iter().chain(["--get", REPLICATED_NAME]))?;
    programs.until_success("receiver")?;
    let copy = read(&received.join(REPLICATED_NAME))?;
    ensure!(copy == bytes, "the file downloaded from volunteers differs from the original");
    // The tracker ends first, otherwise it would repair the replicas of the volunteers that end.
    programs.end(&["tracker2", "anna", "cora", "dora"])?;
    let (bytes, digest) = (copy.len(), Digest::of(&copy));
    Ok(format!(
        "{REPLICATED_NAME}: {bytes} bytes, identical to the original after a volunteer was killed, SHA-256 {digest}"
    ))
}

/// Shows the volunteers and files of a tracker.
fn status(programs: &mut ProgramSet, tracker: &str) -> Result<()> {
    programs.start("status", "tracker", ["status", "--tracker", tracker])?;
    programs.until_success("status")
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let copy = || -> io::Result<()> {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
        Ok(())
    };
    copy().with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Prints a heading.
fn title(text: &str) {
    print_line("", "");
    print_line("demo", &format!("== {text}"));
}

/// Prints a line with the name of its program. A closed standard output is not an error.
fn print_line(name: &str, text: &str) {
    let line = match (name, colour(name)) {
        ("", _) => text.to_owned(),
        (_, Some(colour)) => format!("\u{1b}[{colour}m{name:<8} |\u{1b}[0m {text}"),
        (_, None) => format!("{name:<8} | {text}"),
    };
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// The ANSI colour of a program name, if standard output shows colours and `NO_COLOR` is not set
/// (<https://no-color.org>).
fn colour(name: &str) -> Option<u8> {
    let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_some_and(|value| value == "dumb");
    if unwanted || dumb || !io::stdout().is_terminal() {
        return None;
    }
    Some(match name {
        "demo" => 1,
        "tracker" | "manager" | "tracker2" => 35,
        "leecher" | "receiver" => 32,
        _ if name.starts_with("seeder") => 36,
        _ => 34,
    })
}
