//! The main job in one command: `cargo run --release --example demo`.
//!
//! It starts the real programs on free ports of this machine, and shows what each of them says as it comes:
//!
//! 1. a tracker and three clients, on copies of the sample folders, complete each other's chunks; a leecher then
//!    fetches the whole set as one file;
//! 2. two seeders offer a file of 64 MiB, a leecher fetches it from both at once, and one of the seeders is killed
//!    in the middle;
//! 3. a manager and two peers, on copies of `peer1` and `peer2`, get each other's file; then a third peer gets both
//!    from the one that is left;
//! 4. a tracker has a file of 16 MiB kept by four volunteers and deletes its own copy; one of the volunteers is
//!    killed, what it had is copied anew among the others, and a client gets the file from them.
//!
//! In the end it compares every byte itself. It exits with 0 when everything is as it should be, and otherwise
//! says what is not. Everything happens in a new folder under the system's temporary folder. That folder is kept,
//! with `logs.log` in it.
//!
//! Invariants: whatever ends the demo (an error, Ctrl-C, a panic), the programs that it started are ended and
//! waited for; every wait ends at the deadline.

mod stage;

use anyhow::{Context, Result, bail, ensure};
use crossbeam_channel::bounded;
use shoal::content::Digest;
use stage::Stage;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Longer than this, and something is wrong.
const DEADLINE: Duration = Duration::from_secs(45);

/// Where the sample folders are.
const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
/// The clients, and so many sample folders, each of which lacks another one of so many chunks.
const CLIENTS: [&str; 3] = ["client1", "client2", "client3"];

const LARGE_NAME: &str = "large.bin";
const LARGE_SIZE: usize = 64 << 20;
/// What each seeder may upload: slow enough to see something happen.
const UPLOAD_LIMIT: &str = "16MiB";
/// The first seeder is killed when it has begun to send this many of the 128 chunks.
const CHUNKS_BEFORE_THE_KILL: usize = 24;
/// What a seeder logs, with `-v`, for each chunk that it sends.
const SERVING: &str = " - DEBUG - serving chunk ";

const KEPT_NAME: &str = "kept.bin";
const KEPT_SIZE: usize = 16 << 20;
const VOLUNTEERS: [&str; 4] = ["anna", "bert", "cora", "dora"];

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say("demo", &format!("FAILED: {error:#}"));
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
    let programs = build()?;
    let started = Instant::now();
    let folder =
        tempfile::Builder::new().prefix("shoal-demo-").tempdir().context("no temporary folder")?.keep();
    say("demo", &format!("everything happens in {}", folder.display()));
    let stage = Stage::new(programs, folder.clone(), started + DEADLINE, interrupted);
    let result = play(stage);
    say("demo", &format!("logs.log is {}", folder.join("logs.log").display()));
    result?;
    say("demo", &format!("the folder is kept (190 MiB); remove it with: rm -r {}", folder.display()));
    say("demo", &format!("done in {:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

/// Builds the programs, since an example brings along only itself, and returns the folder that they are in: the one
/// above the demo's own.
fn build() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot find this program")?;
    let folder = own.parent().and_then(Path::parent).context("this program is not in a target folder")?;
    let target = folder.parent().context("this program is not in a target folder")?;
    let profile = match folder.file_name().and_then(OsStr::to_str) {
        Some("debug") => "dev",
        Some(name) => name,
        None => bail!("{} is not the folder of a profile", folder.display()),
    };
    say("demo", &format!("building the programs ({profile})"));
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // With the demo itself, which is there already, so that the library is the same and is not built once more.
    let what = ["--bins", "--example", "demo", "--profile", profile];
    command.args(["build", "--quiet"]).args(what).arg("--target-dir").arg(target);
    command.arg("--manifest-path").arg(Path::new(REPOSITORY).join("Cargo.toml"));
    let status = command.stdin(Stdio::null()).status().context("cannot start cargo")?;
    ensure!(status.success(), "cargo build has failed");
    Ok(folder.to_owned())
}

/// The whole story. The programs end with the stage.
fn play(mut stage: Stage) -> Result<()> {
    // A short lease, so that the tracker can be seen to notice a death.
    let flags = ["--listen", "127.0.0.1:0", "--heartbeat", "1", "--lease", "3"];
    stage.start("tracker", "tracker", flags)?;
    let tracker = stage.address("tracker")?.to_string();
    let mut verified = chunk_folders(&mut stage, &tracker)?;
    verified.push(large_file(&mut stage, &tracker)?);
    verified.push(peers(&mut stage)?);
    verified.push(volunteers(&mut stage)?);
    stage.end_all()?;
    title("complete and verified");
    verified.iter().for_each(|line| say("demo", line));
    Ok(())
}

/// Three clients complete each other's folders, and a leecher fetches the set. Returns what was verified.
fn chunk_folders(stage: &mut Stage, tracker: &str) -> Result<Vec<String>> {
    title("three folders that lack a chunk each");
    for (folder, client) in ["folder1", "folder2", "folder3"].into_iter().zip(CLIENTS) {
        copy_folder(&Path::new(REPOSITORY).join(folder), &stage.folder.join(folder))?;
        let flags = ["-folder", folder, "-transfer_port", "0", "-name", client, "--tracker", tracker];
        stage.start(client, "client", flags)?;
    }
    for client in CLIENTS {
        stage.until_said(client, " is complete: all 3 chunks ")?;
    }
    title("the set as one file");
    stage.start("leecher", "leecher", ["default", "--tracker", tracker])?;
    stage.until_success("leecher")?;
    let mut whole = Vec::new();
    for number in 1..=CLIENTS.len() {
        let name = format!("chunk_{number}");
        let chunk = read(&Path::new(REPOSITORY).join(format!("folder{number}")).join(&name))?;
        for folder in ["folder1", "folder2", "folder3"] {
            let copy = stage.folder.join(folder).join(&name);
            ensure!(read(&copy)? == chunk, "{} is not the chunk that it should be", copy.display());
        }
        whole.extend(chunk);
    }
    ensure!(read(&stage.folder.join("default"))? == whole, "the set was not put together as it should be");
    Ok(vec![
        "folder1, folder2, folder3: all 3 chunks in each, the same bytes as in the samples".to_owned(),
        format!("default: the set as a file, {} bytes, SHA-256 {}", whole.len(), Digest::of(&whole)),
    ])
}

/// A leecher fetches a file from two seeders, of which one is killed. Returns what was verified.
fn large_file(stage: &mut Stage, tracker: &str) -> Result<String> {
    title("64 MiB from two seeders, one of which is killed");
    let mut bytes = vec![0; LARGE_SIZE];
    fastrand::Rng::with_seed(64).fill(&mut bytes);
    let original = stage.folder.join(LARGE_NAME);
    fs::write(&original, &bytes).with_context(|| format!("cannot write {}", original.display()))?;
    for seeder in ["seeder1", "seeder2"] {
        let offer = ["-f", LARGE_NAME, "-p", "0", "--name", seeder, "--tracker", tracker];
        stage.start(seeder, "seeder", offer.into_iter().chain(["--upload-limit", UPLOAD_LIMIT, "-v"]))?;
    }
    for seeder in ["seeder1", "seeder2"] {
        stage.until_said("tracker", &format!("{seeder} has 128 of 128 chunks"))?;
    }
    let downloads = stage.folder.join("downloads");
    fs::create_dir(&downloads).context("cannot make a folder for the download")?;
    stage.start("leecher", "leecher", [LARGE_NAME, "--out", "downloads", "--tracker", tracker])?;
    stage.until("seeder1 is in the middle of it", |stage| {
        stage.program("seeder1").is_some_and(|seeder| seeder.served >= CHUNKS_BEFORE_THE_KILL)
    })?;
    stage.kill("seeder1")?;
    stage.until_success("leecher")?;
    stage.until_said("tracker", "seeder1 at ")?;
    let copy = read(&downloads.join(LARGE_NAME))?;
    ensure!(copy == bytes, "the file that was downloaded is not the one that was offered");
    Ok(format!(
        "{LARGE_NAME}: {} bytes, the same as those offered, SHA-256 {}",
        copy.len(),
        Digest::of(&copy)
    ))
}

/// Two peers get each other's file, and a third one gets both from the second. Returns what was verified.
fn peers(stage: &mut Stage) -> Result<String> {
    title("peers that ask each other");
    stage.start("manager", "manager", ["--listen", "127.0.0.1:0"])?;
    let manager = stage.address("manager")?.to_string();
    let client = |folder| ["-folder", folder, "-transfer_port", "0", "-name", folder, "--manager", &manager];
    for (peer, wanted) in [("peer1", "file2.txt"), ("peer2", "file1.txt")] {
        copy_folder(&Path::new(REPOSITORY).join(peer), &stage.folder.join(peer))?;
        stage.start(peer, "client", client(peer).into_iter().chain(["--get", wanted, "--stay"]))?;
    }
    stage.until_said("peer1", "Successfully downloaded file2.txt")?;
    stage.until_said("peer2", "Successfully downloaded file1.txt")?;
    stage.kill("peer1")?;
    stage.until_said("peer2", " disconnected")?;
    fs::create_dir(stage.folder.join("peer3")).context("cannot make a folder for the third peer")?;
    let wanted = ["--get", "file1.txt", "--get", "file2.txt", "--stay"];
    stage.start("peer3", "client", client("peer3").into_iter().chain(wanted))?;
    for file in ["file1.txt", "file2.txt"] {
        stage.until_said("peer3", &format!("Successfully downloaded {file}"))?;
    }
    for (owner, file) in [("peer1", "file1.txt"), ("peer2", "file2.txt")] {
        let original = read(&Path::new(REPOSITORY).join(owner).join(file))?;
        for peer in ["peer1", "peer2", "peer3"] {
            let copy = stage.folder.join(peer).join(file);
            ensure!(read(&copy)? == original, "{} is not what {owner} had", copy.display());
        }
    }
    Ok("peer1, peer2, peer3: file1.txt and file2.txt in each, the same bytes as in the samples".to_owned())
}

/// Four volunteers keep a file for a tracker, and one of them is killed. Returns what was verified.
fn volunteers(stage: &mut Stage) -> Result<String> {
    title("a file that volunteers keep alive");
    let (library, got) = (stage.folder.join("library"), stage.folder.join("got"));
    let mut bytes = vec![0; KEPT_SIZE];
    fastrand::Rng::with_seed(16).fill(&mut bytes);
    for folder in [&library, &got] {
        fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let original = library.join(KEPT_NAME);
    fs::write(&original, &bytes).with_context(|| format!("cannot write {}", original.display()))?;
    let keep = ["--files", "library", "--state", "state", "--offload", "--heartbeat", "0.5", "--lease", "2"];
    stage.start("keeper", "tracker", ["--listen", "127.0.0.1:0"].into_iter().chain(keep))?;
    let keeper = stage.address("keeper")?.to_string();
    let client = |folder| ["-folder", folder, "-transfer_port", "0", "-name", folder, "--tracker", &keeper];
    for volunteer in VOLUNTEERS {
        fs::create_dir(stage.folder.join(volunteer)).context("cannot make a folder for a volunteer")?;
        stage.start(volunteer, "client", client(volunteer).into_iter().chain(["--volunteer", "1GiB"]))?;
    }
    stage.until_said("keeper", " is with the volunteers, and deleted here")?;
    ensure!(!original.exists(), "{} is still there", original.display());
    status(stage, &keeper)?;
    stage.kill("bert")?;
    stage.until_said("keeper", "repair is done")?;
    status(stage, &keeper)?;
    stage.start("getter", "client", client("got").into_iter().chain(["--get", KEPT_NAME]))?;
    stage.until_success("getter")?;
    let copy = read(&got.join(KEPT_NAME))?;
    ensure!(copy == bytes, "the file that volunteers kept is not the one that was offered");
    // The tracker first: it would begin to repair what those who leave had.
    stage.end(&["keeper", "anna", "cora", "dora"])?;
    let (bytes, digest) = (copy.len(), Digest::of(&copy));
    Ok(format!("{KEPT_NAME}: {bytes} bytes, kept by volunteers of whom one was killed, SHA-256 {digest}"))
}

/// Shows how the volunteers are.
fn status(stage: &mut Stage, tracker: &str) -> Result<()> {
    stage.start("status", "tracker", ["status", "--tracker", tracker])?;
    stage.until_success("status")
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

/// A heading.
fn title(text: &str) {
    say("", "");
    say("demo", &format!("== {text}"));
}

/// One line: who says what. That nobody reads it any more is no reason to fail.
fn say(who: &str, text: &str) {
    let line = match (who, colour(who)) {
        ("", _) => text.to_owned(),
        (_, Some(colour)) => format!("\u{1b}[{colour}m{who:<8} |\u{1b}[0m {text}"),
        (_, None) => format!("{who:<8} | {text}"),
    };
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// The colour of a name, where colours are shown and wanted (<https://no-color.org>).
fn colour(who: &str) -> Option<u8> {
    let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_some_and(|value| value == "dumb");
    if unwanted || dumb || !io::stdout().is_terminal() {
        return None;
    }
    Some(match who {
        "demo" => 1,
        "tracker" | "manager" | "keeper" => 35,
        "leecher" | "getter" => 32,
        _ if who.starts_with("seeder") => 36,
        _ => 34,
    })
}
