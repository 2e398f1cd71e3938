//! Chunk folders that complete each other, agree on hashes, and record events in `logs.log`.

use crate::common::events::{self, Line};
use crate::common::wire::Udp;
use crate::common::*;
use shoal::content::Digest;
use std::path::Path;

/// Three chunks of unequal size, one of them empty.
fn three() -> Vec<Vec<u8>> {
    vec![random_bytes(1, 51_894), vec![], random_bytes(3, 131)]
}

/// The folders of the course, with chunks {1,2}, {2,3} and {1,3}.
fn course_folders(dir: &Path, chunks: &[Vec<u8>]) -> [std::path::PathBuf; 3] {
    let numbered = |number: usize| (number, chunks[number - 1].as_slice());
    [("f1", [1, 2]), ("f2", [2, 3]), ("f3", [1, 3])]
        .map(|(name, held)| chunk_folder(dir, name, 3, &held.map(numbered)))
}

fn is_complete(client: &Program) {
    client.wait_for_text(" is complete: all ");
}

#[test]
fn three_folders_complete_each_other() {
    let place = place();
    let dir = place.path();
    let chunks = three();
    let folders = course_folders(dir, &chunks);
    let mut tracker = tracker(dir, &[]);
    let mut clients: Vec<Program> = Vec::new();
    for (name, folder) in ["one", "two", "three"].iter().zip(&folders) {
        clients.push(client(dir, folder, name, tracker.address(), &["--exit-when-complete"]));
    }
    let addresses: Vec<_> = clients.iter().map(Program::address).collect();
    clients.iter_mut().for_each(|client| client.ends_with(0));
    for client in &clients {
        let lines = client.lines();
        let registered = lines.iter().filter(|line| line.contains("registered with the tracker on"));
        assert_eq!(registered.count(), 1, "each client registers once, over one connection");
    }
    // The third client receives the empty chunk.
    for (client, (received, before)) in clients.iter().zip([(131, 51_894), (51_894, 131)]) {
        client.wait_for("a summary", |line| {
            line.contains(&format!(": received {received} bytes in "))
                && line.ends_with(&format!(" source, {before} bytes were there before"))
        });
    }
    folders.iter().for_each(|folder| assert_complete(folder, &chunks));
    for folder in &folders {
        let names = [".shoal-written", "chunk_1", "chunk_2", "chunk_3", "local_chunks.txt"];
        assert_eq!(names_in(folder), names, "the folder has exactly these files");
    }
    tracker.interrupt();
    tracker.ends_with(0);

    // All four programs write to one log, and each line of it is complete.
    let log = events::read(&dir.join("logs.log"));
    let hashes: Vec<String> = chunks.iter().map(|chunk| Digest::of(chunk).to_string()).collect();
    let held = [[1, 2], [2, 3], [1, 3]];
    for (at, name) in ["one", "two", "three"].iter().enumerate() {
        let missing = 6 - held[at].iter().sum::<usize>();
        let local = |number: usize| {
            let (ip, port) = (addresses[at].ip(), addresses[at].port());
            format!("{name},LOCAL_CHUNKS,{number},{},{ip},{port}", hashes[number - 1])
        };
        let events: Vec<String> = events::of(&log, name).iter().map(|fields| fields.join(",")).collect();
        let [first, second, asked, requested @ .., last] = events.as_slice() else { panic!("{events:#?}") };
        assert_eq!([first.clone(), second.clone()], held[at].map(local));
        assert_eq!(asked, &format!("{name},WHERE_CHUNK,{missing}"));
        assert_eq!(last, &local(missing));
        let holders = (0..3).filter(|other| held[*other].contains(&missing));
        let requests: Vec<_> = holders
            .map(|holder| {
                let (ip, port) = (addresses[holder].ip(), addresses[holder].port());
                format!("{name},REQUEST_CHUNK,{missing},{ip},{port}")
            })
            .collect();
        // If a holder is slow, the client may also request the chunk from the other holder.
        assert!(!requested.is_empty() && requested.iter().all(|it| requests.contains(it)), "{events:#?}");
    }
    let tracker = events::of(&log, "P2PTracker");
    for (index, hash) in ["1", "2", "3"].iter().zip(&hashes) {
        let of_chunk: Vec<_> = tracker.iter().filter(|event| event[2] == *index).collect();
        let (known, unknown): (Vec<_>, Vec<_>) =
            of_chunk.into_iter().partition(|event| event[1] == "GET_CHUNK_FROM");
        assert!(!known.is_empty() && unknown.len() <= 1, "{tracker:#?}");
        for event in known {
            assert_eq!(&event[3], hash);
            let named: Vec<_> = event[4..].chunks(2).map(|pair| pair.join(":")).collect();
            assert!((1..=2).contains(&named.len()), "{event:?}");
            for address in named {
                let holder = addresses.iter().position(|known| known.to_string() == address).unwrap();
                assert!(held[holder].contains(&index.parse().unwrap()), "{event:?}");
            }
        }
    }
    let levels = log.iter().filter(|line| matches!(line, Line::Log(level, _) if level != "INFO"));
    assert_eq!(levels.count(), 0, "there are no warnings");
}

#[test]
fn the_sample_folders_complete_each_other() {
    let place = place();
    let dir = place.path();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR"));
    let chunks: Vec<_> = [("folder1", 1), ("folder1", 2), ("folder2", 3)]
        .map(|(folder, number)| std::fs::read(samples.join(folder).join(format!("chunk_{number}"))).unwrap())
        .into();
    let tracker = tracker(dir, &[]);
    let folders = ["folder1", "folder2", "folder3"].map(|name| {
        let copy = subfolder(dir, name);
        for file in names_in(&samples.join(name)) {
            std::fs::copy(samples.join(name).join(&file), copy.join(&file)).unwrap();
        }
        copy
    });
    let start = |folder: &std::path::PathBuf| {
        let name = folder.file_name().unwrap().to_str().unwrap();
        client(dir, folder, name, tracker.address(), &["--exit-when-complete"])
    };
    let mut clients: Vec<_> = folders.iter().map(start).collect();
    clients.iter_mut().for_each(|client| client.ends_with(0));
    folders.iter().for_each(|folder| assert_complete(folder, &chunks));
}

#[test]
fn variants_of_the_list_format_are_accepted() {
    let chunks: Vec<Vec<u8>> = (1..=3).map(|n| random_bytes(n, 1_000 * n as usize)).collect();
    for (from, to) in [("\n", "\r\n"), (",", ", "), ("LASTCHUNK\n", "LASTCHUNK"), ("chunk_", "a chunk, no. ")]
    {
        let place = place();
        let dir = place.path();
        let folders = course_folders(dir, &chunks);
        for folder in &folders {
            let path = folder.join("local_chunks.txt");
            let list = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, list.replace(from, to)).unwrap();
            if from == "chunk_" {
                for file in names_in(folder).iter().filter(|file| file.starts_with(from)) {
                    std::fs::rename(folder.join(file), folder.join(file.replace(from, to))).unwrap();
                }
            }
        }
        let tracker = tracker(dir, &[]);
        let start = |(at, folder): (usize, &std::path::PathBuf)| {
            client(dir, folder, &format!("client{at}"), tracker.address(), &["--exit-when-complete"])
        };
        let mut clients: Vec<_> = folders.iter().enumerate().map(start).collect();
        clients.iter_mut().for_each(|client| client.ends_with(0));
        folders.iter().for_each(|folder| assert_complete(folder, &chunks));
    }
}

#[test]
fn a_client_without_chunks_fetches_many_chunks() {
    let place = place();
    let dir = place.path();
    let chunks: Vec<Vec<u8>> = (0..60).map(|n| random_bytes(n, 100 * n as usize)).collect();
    let numbered: Vec<(usize, &[u8])> = (1..).zip(chunks.iter().map(Vec::as_slice)).collect();
    let folders = [
        chunk_folder(dir, "all", 60, &numbered),
        chunk_folder(dir, "odd", 60, &numbered.iter().copied().step_by(2).collect::<Vec<_>>()),
        chunk_folder(dir, "even", 60, &numbered.iter().copied().skip(1).step_by(2).collect::<Vec<_>>()),
        chunk_folder(dir, "none", 60, &[]),
    ];
    let tracker = tracker(dir, &[]);
    let start = |folder: &std::path::PathBuf| {
        let name = folder.file_name().unwrap().to_str().unwrap();
        client(dir, folder, name, tracker.address(), &[])
    };
    let clients: Vec<_> = folders.iter().map(start).collect();
    clients.iter().for_each(is_complete);
    folders.iter().for_each(|folder| assert_complete(folder, &chunks));
    drop(clients);
    drop(tracker);
    let log = events::read(&dir.join("logs.log"));
    let asked = events::of(&log, "none");
    let asked: Vec<_> = asked.iter().filter(|event| event[1] == "WHERE_CHUNK").collect();
    assert_eq!(asked.len(), 60, "each missing chunk is looked up once");
}

#[test]
fn a_bad_chunk_is_reported_excluded_from_lookups_and_replaced() {
    let place = place();
    let dir = place.path();
    let chunks = three();
    let folders = course_folders(dir, &chunks);
    let good = Digest::of(&chunks[0]).to_string();
    let bad_bytes = random_bytes(66, 51_894);
    let bad = chunk_folder(dir, "bad", 3, &[(1, &bad_bytes)]);
    let tracker = tracker(dir, &[]);
    // The wrong claim comes first, so that it cannot be rejected for being late.
    let liar = client(dir, &bad, "liar", tracker.address(), &[]);
    tracker.wait_for_text("liar joined the set default");
    let honest: Vec<_> = ["one", "two", "three"]
        .iter()
        .zip(&folders)
        .map(|(name, folder)| client(dir, folder, name, tracker.address(), &[]))
        .collect();
    liar.wait_for_text("chunk 1 differs from the agreed SHA-256");
    tracker.wait_for_text("liar claims another hash for chunk 1 of default than was agreed upon");
    is_complete(&liar);
    honest.iter().for_each(is_complete);
    assert_complete(&bad, &chunks);
    folders.iter().for_each(|folder| assert_complete(folder, &chunks));
    let address = liar.address();
    let corrects = |line: &Line| {
        matches!(line, Line::Event(event) if event[0] == "liar" && event[1] == "LOCAL_CHUNKS"
            && event[2] == "1" && event[3] == good)
    };
    events::wait_for(&dir.join("logs.log"), "the liar's second claim", corrects);
    drop((liar, honest, tracker));
    // Until the client claims the right hash, no lookup response contains its address.
    let log = events::read(&dir.join("logs.log"));
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let corrected = log.iter().position(corrects);
    let corrected = corrected.expect("the liar claims the right chunk in the end");
    for line in &log[..corrected] {
        if let Line::Event(event) = line
            && event[1] == "GET_CHUNK_FROM"
            && event[2] == "1"
        {
            assert_eq!(event[3], good);
            assert!(!event[4..].chunks(2).any(|pair| pair == [ip.clone(), port.clone()]), "{event:?}");
        }
    }
}

#[test]
fn a_bad_chunk_of_a_late_client_is_replaced() {
    let place = place();
    let dir = place.path();
    let chunks = three();
    let folders = course_folders(dir, &chunks);
    let tracker = tracker(dir, &[]);
    let _honest: Vec<_> = ["one", "two", "three"]
        .iter()
        .zip(&folders)
        .map(|(name, folder)| client(dir, folder, name, tracker.address(), &[]))
        .collect();
    tracker.wait_for_text("the set default is agreed upon");
    // A shorter chunk and a chunk of the same length; then a longer chunk.
    let same_length = random_bytes(7, 51_894);
    for (name, bad) in [
        ("short", [(1, b"short".as_slice()), (3, &chunks[2])]),
        ("same", [(1, &same_length), (3, &chunks[2])]),
        ("long", [(2, b"not empty"), (3, &chunks[2])]),
    ] {
        let folder = chunk_folder(dir, name, 3, &bad);
        let mut liar = client(dir, &folder, name, tracker.address(), &["--exit-when-complete"]);
        liar.ends_with(0);
        assert!(liar.has_said(&format!("chunk {} differs from the agreed SHA-256", bad[0].0)));
        assert!(!liar.has_said("another set has this name"));
        assert_complete(&folder, &chunks);
    }
}

/// The content of each file of a folder.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |name: String| (name.clone(), std::fs::read(folder.join(name)).unwrap());
    names_in(folder).into_iter().map(read).collect()
}

#[test]
fn a_folder_that_disagrees_with_every_agreed_chunk_is_left_as_it_is() {
    let place = place();
    let dir = place.path();
    let (mine, other) = (three(), [random_bytes(6, 700), random_bytes(7, 50), random_bytes(8, 9_000)]);
    let folder = |name: &str, chunks: &[Vec<u8>]| {
        let chunks: Vec<_> = (1..).zip(chunks.iter().map(Vec::as_slice)).collect();
        chunk_folder(dir, name, 3, &chunks)
    };
    // Of the third chunk only the other set is known.
    let (own, other1, other2) = (folder("own", &mine[..2]), folder("f1", &other), folder("f2", &other));
    let before = contents(&own);
    let tracker = tracker(dir, &[]);
    let start_others = || {
        [("f1", &other1), ("f2", &other2)]
            .map(|(name, folder)| client(dir, folder, name, tracker.address(), &[]))
    };
    let told = |client: &Program| {
        client.wait_for_text("no chunk of ");
        assert!(client.has_said("another set has this name") && client.has_said("--set default-2"));
    };
    // The other set is agreed after the client has joined, then before it joins.
    let mut first = client(dir, &own, "own", tracker.address(), &[]);
    tracker.wait_for_text("own joined the set default");
    let others = start_others();
    tracker.wait_for_text("own claims another hash for chunk 2 of default");
    told(&first);
    first.interrupt();
    first.ends_with(13);
    assert_eq!(contents(&own), before);
    let mut second = client(dir, &own, "own", tracker.address(), &["--exit-when-complete"]);
    second.ends_with(13);
    told(&second);
    assert!(second.has_said("chunks 1, 2 of ") && !second.has_said("is complete"));
    assert_eq!(contents(&own), before);
    drop(others);
}

#[test]
fn ctrl_c_while_a_chunk_disagrees_ends_with_code_13() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let [mut ann, bob] = [("ann", b"one"), ("bob", b"two")].map(|(name, chunk)| {
        let folder = chunk_folder(dir, name, 1, &[(1, chunk)]);
        client(dir, &folder, name, tracker.address(), &[])
    });
    ann.wait_for_text("chunk 1: 1 of 2 clients agree; the chunks of ");
    ann.interrupt();
    ann.ends_with(13);
    assert!(
        ann.has_said("1 chunk of ") && ann.has_said(" differs from that of other clients of set default")
    );
    drop(bob);
}

#[test]
fn a_quorum_of_one_accepts_the_first_claim() {
    let place = place();
    let dir = place.path();
    let chunks = three();
    let all: Vec<_> = (1..).zip(chunks.iter().map(Vec::as_slice)).collect();
    let (full, empty) = (chunk_folder(dir, "full", 3, &all), chunk_folder(dir, "empty", 3, &[]));
    let tracker = tracker(dir, &["--quorum", "1"]);
    let _full = client(dir, &full, "full", tracker.address(), &[]);
    let mut empty_client = client(dir, &empty, "empty", tracker.address(), &["--exit-when-complete"]);
    empty_client.ends_with(0);
    assert_complete(&empty, &chunks);
}

#[test]
fn one_claim_does_not_reach_a_quorum_of_two() {
    let place = place();
    let dir = place.path();
    let chunks = three();
    let all: Vec<_> = (1..).zip(chunks.iter().map(Vec::as_slice)).collect();
    let (full, empty) = (chunk_folder(dir, "full", 3, &all), chunk_folder(dir, "empty", 3, &[]));
    let tracker = tracker(dir, &[]);
    let _full = client(dir, &full, "full", tracker.address(), &[]);
    let waits = client(dir, &empty, "empty", tracker.address(), &["-v"]);
    waits.wait_for_count("has no known holder yet", 3);
    // A second client with the same chunks completes the quorum.
    let second = chunk_folder(dir, "second", 3, &all);
    let _second = client(dir, &second, "second", tracker.address(), &[]);
    is_complete(&waits);
    assert_complete(&empty, &chunks);
    drop(waits);
    let log = events::read(&dir.join("logs.log"));
    let asked: Vec<_> =
        events::of(&log, "empty").into_iter().filter(|event| event[1] == "WHERE_CHUNK").collect();
    assert_eq!(asked.len(), 3, "a waiting client repeats its lookup: {asked:?}");
}

#[test]
fn an_agreed_set_can_be_downloaded_as_a_file() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let chunks = three();
    let folders = course_folders(dir, &chunks);
    let tracker = tracker(dir, &[]);
    let clients: Vec<_> = ["one", "two", "three"]
        .iter()
        .zip(&folders)
        .map(|(name, folder)| client(dir, folder, name, tracker.address(), &["--set", "the-book"]))
        .collect();
    clients.iter().for_each(|client| drop(client.wait_for_text("serving set the-book as a file with id")));
    let mut leecher = leecher(&there, tracker.address(), &["the-book"]);
    leecher.ends_with(0);
    assert_holds(&there.join("the-book"), &chunks.concat());
    assert_eq!(leecher.stdout(), ["Successfully downloaded the-book"]);
    let found = Udp::to(tracker.address()).lookup("the-book");
    assert_eq!((found.len(), found[0].file.chunks, found[0].file.size), (1, 3, 52_025));
}

#[test]
fn sets_with_different_names_are_independent() {
    let place = place();
    let dir = place.path();
    let (ours, theirs) = (vec![random_bytes(1, 99)], vec![random_bytes(2, 99)]);
    let tracker = tracker(dir, &["--quorum", "1"]);
    let start = |name: &str, set: &str, chunks: &[(usize, &[u8])]| {
        let folder = chunk_folder(dir, name, 1, chunks);
        (client(dir, &folder, name, tracker.address(), &["--set", set]), folder)
    };
    let _holders = [start("a", "ours", &[(1, &ours[0])]), start("b", "theirs", &[(1, &theirs[0])])];
    for (name, set, chunks) in [("c", "ours", &ours), ("d", "theirs", &theirs)] {
        let (client, folder) = start(name, set, &[]);
        is_complete(&client);
        assert_complete(&folder, chunks);
    }
}

#[test]
fn ctrl_c_exits_cleanly_in_each_state() {
    let place = place();
    let dir = place.path();
    let folder = chunk_folder(dir, "f", 2, &[(1, b"first")]);
    // Without a tracker: the port was just closed, so that no program listens on it.
    let unused = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut lonely = client(dir, &folder, "lonely", unused, &[]);
    lonely.wait_for_text("retrying until it answers");
    lonely.interrupt();
    lonely.ends_with(0);
    // While the client waits for a chunk.
    let tracker = tracker(dir, &["--quorum", "1"]);
    let mut waits = client(dir, &folder, "waits", tracker.address(), &["-v"]);
    waits.wait_for_text("has no known holder yet");
    waits.interrupt();
    waits.ends_with(0);
    tracker.wait_for_text("waits at ");
    tracker.wait_for_text(" is gone: ");
    // After the client is complete.
    let full = chunk_folder(dir, "full", 1, &[(1, b"only")]);
    let mut complete = client(dir, &full, "complete", tracker.address(), &[]);
    is_complete(&complete);
    complete.interrupt();
    complete.ends_with(0);
}

/// Two slow holders of 40 chunks, and a client that is ended by `stop` after at least 10 chunks. After a restart it
/// must resume with the chunks that it has.
fn resumes_after(stop: impl Fn(&mut Program)) {
    let place = place();
    let dir = place.path();
    let chunks: Vec<Vec<u8>> = (0..40).map(|n| random_bytes(n, 16_384)).collect();
    let all: Vec<_> = (1..).zip(chunks.iter().map(Vec::as_slice)).collect();
    let tracker = tracker(dir, &[]);
    let _holders = ["a", "b"].map(|name| {
        let folder = chunk_folder(dir, name, 40, &all);
        client(dir, &folder, name, tracker.address(), &["--upload-limit", "128KiB"])
    });
    let folder = chunk_folder(dir, "late", 40, &[]);
    let mut late = client(dir, &folder, "late", tracker.address(), &[]);
    late.wait_for_count(" downloaded and verified, 16384 bytes", 10);
    stop(&mut late);
    let mut again = client(dir, &folder, "again", tracker.address(), &["--exit-when-complete"]);
    let line = again.wait_for_text(" of 40 chunks");
    let held = line.rsplit(" holds ").next().unwrap().split(' ').next().unwrap().parse::<usize>().unwrap();
    assert!((10..40).contains(&held), "the verified chunks are still there: {line}");
    again.ends_with(0);
    assert_complete(&folder, &chunks);
}

#[test]
fn a_killed_client_resumes() {
    resumes_after(Program::kill9);
}

#[test]
fn an_interrupted_client_resumes() {
    resumes_after(|client| {
        client.interrupt();
        client.ends_with(0);
    });
}

#[test]
fn missing_chunks_are_fetched_when_their_holders_return() {
    let place = place();
    let dir = place.path();
    let chunks = three();
    let folders = course_folders(dir, &chunks);
    let tracker = tracker(dir, &[]);
    let first = client(dir, &folders[0], "one", tracker.address(), &["-v"]);
    first.wait_for_text("has no known holder yet");
    // The folders hold chunks {1,2} and {2,3}: only chunk 2 reaches the quorum.
    let second = client(dir, &folders[1], "two", tracker.address(), &["-v"]);
    second.wait_for_text("chunk 1 has no known holder yet");
    drop(second);
    tracker.wait_for_text("two at ");
    let _second = client(dir, &folders[1], "two", tracker.address(), &[]);
    let _third = client(dir, &folders[2], "three", tracker.address(), &[]);
    is_complete(&first);
    assert_complete(&folders[0], &chunks);
}

#[test]
fn a_chunk_file_that_is_removed_or_changed_is_fetched_again() {
    let place = place();
    let dir = place.path();
    let chunks = three();
    let folders = course_folders(dir, &chunks);
    let tracker = tracker(dir, &[]);
    let clients: Vec<Program> = ["one", "two", "three"]
        .iter()
        .zip(&folders)
        .map(|(name, folder)| client(dir, folder, name, tracker.address(), &[]))
        .collect();
    clients.iter().for_each(is_complete);
    std::fs::remove_file(folders[0].join("chunk_1")).unwrap();
    std::fs::write(folders[1].join("chunk_3"), "something else").unwrap();
    for (client, number) in [(&clients[0], 1), (&clients[1], 3)] {
        client.wait_for_text(&format!("the file of chunk {number} was changed or removed"));
        client.wait_for_count(" is complete: all ", 2);
    }
    folders.iter().for_each(|folder| assert_complete(folder, &chunks));
}

#[test]
fn a_disagreement_is_reported_at_both_ends_and_ends_with_code_13() {
    let place = place();
    let dir = place.path();
    let chunks = three();
    let bad = random_bytes(66, 700);
    let one = chunk_folder(dir, "f1", 3, &[(1, &chunks[0]), (2, &chunks[1])]);
    let two = chunk_folder(dir, "f2", 3, &[(2, &chunks[1]), (3, &chunks[2])]);
    let three = chunk_folder(dir, "f3", 3, &[(1, &bad), (3, &chunks[2])]);
    let tracker = tracker(dir, &[]);
    let mut clients = [("one", &one), ("two", &two), ("three", &three)]
        .map(|(name, folder)| client(dir, folder, name, tracker.address(), &["--exit-when-complete"]));
    let reason = "chunk 1: 1 of 2 clients agree; the chunks of ";
    tracker.wait_for_text(reason);
    for client in &clients {
        assert!(client.wait_for_text(reason).ends_with(" differ"));
    }
    for at in [0, 2] {
        clients[at].ends_with(13);
        assert!(clients[at].has_said("1 chunk of "));
    }
    for client in &clients {
        assert!(!client.has_said("is complete"), "no folder is complete without an agreement on each chunk");
    }
    assert_holds(&three.join("chunk_1"), &bad);
}

#[test]
fn a_waiting_set_gives_the_reason_of_each_chunk_at_both_ends() {
    let place = place();
    let dir = place.path();
    let ann = chunk_folder(dir, "ann", 3, &[(1, b"one")]);
    let bob = chunk_folder(dir, "bob", 3, &[(3, b"three")]);
    let tracker = tracker(dir, &[]);
    let ann = client(dir, &ann, "ann", tracker.address(), &["-v"]);
    ann.wait_for_count("has no known holder yet", 2);
    let mut bob = client(dir, &bob, "bob", tracker.address(), &["-v"]);
    bob.wait_for_count("has no known holder yet", 2);
    bob.interrupt();
    bob.ends_with(0);
    for program in [&ann, &tracker] {
        program.wait_for_text("chunk 1: 1 of 2 clients agree");
        program.wait_for_text("chunk 2: no holder");
        program.wait_for_text("chunk 3: no holder; bob had it, disconnected ");
    }
}

#[test]
fn two_clients_of_one_name_are_warned_and_logged() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let [first, second] = ["a", "b"].map(|folder| {
        let folder = chunk_folder(dir, folder, 2, &[]);
        client(dir, &folder, "twin", tracker.address(), &[])
    });
    first.wait_for_text("another client of set default has the name twin");
    second.wait_for_text("another client of set default has the name twin");
    tracker.wait_for_text("two clients of set default have the name twin");
}

#[test]
fn timeout_ends_a_client_whose_chunk_is_missing() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    for (name, flags) in [("a", &["--timeout", "1"][..]), ("b", &["--timeout", "1", "--exit-when-complete"])]
    {
        let folder = chunk_folder(dir, name, 2, &[(1, b"one")]);
        let mut waits = client(dir, &folder, name, tracker.address(), flags);
        waits.ends_with(4);
        assert!(waits.has_said("still needs chunk 2 of set default"));
    }
}

#[test]
fn a_folder_with_every_chunk_is_complete_only_when_all_are_agreed() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let folder = chunk_folder(dir, "full", 1, &[(1, b"one")]);
    let mut full =
        client(dir, &folder, "full", tracker.address(), &["--timeout", "1", "--exit-when-complete"]);
    full.ends_with(6);
    assert!(full.has_said("has all chunks, but not all are agreed in set default"));
    assert!(!full.has_said("is complete"));
}

#[test]
fn a_split_file_is_joined_by_each_client() {
    let place = place();
    let dir = place.path();
    let bytes = random_bytes(5, 100_001);
    write(dir, "whole.bin", &bytes);
    let names = ["f1", "f2", "f3"];
    let split = [&["--split", "whole.bin", "--parts", "7"], &names[..]].concat();
    Program::start("client", &split, dir).ends_with(0);
    let mut refused = Program::start("client", &split, dir);
    refused.ends_with(17);
    assert!(refused.has_said("the folder is not empty"));
    let tracker = tracker(dir, &[]);
    write(dir, "joined-f3", b"another file");
    let mut clients = names.map(|name| {
        let path = format!("joined-{name}");
        let flags = ["--exit-when-complete", "--join", &path];
        client(dir, &dir.join(name), name, tracker.address(), &flags)
    });
    for (client, code) in clients.iter_mut().zip([0, 0, 13]) {
        client.ends_with(code);
    }
    assert_holds(&dir.join("joined-f1"), &bytes);
    assert_holds(&dir.join("joined-f2"), &bytes);
    assert_holds(&dir.join("joined-f3"), b"another file");
}
