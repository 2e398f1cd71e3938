"""Attacks on the memory of a tracker or seeder in a control group of 512 MiB, for `attacks`.

An honest peer asks the program again and again while the attack runs. The case is met if the program survives, and if the
longest time to an answer is at most a second. Needs the right to create control groups (`cgroups(7)`, version 1 or 2).
"""

import contextlib, json, os, socket, statistics, sys, time
import attackers, bad_peer
from bad_peers import LISTENS, Swarm

GROUP_BYTES = 512 << 20
ATTACK_SECONDS = 30
ANSWER_SECONDS_MAX = 1.0
# Pause between two questions of the honest peer, and the time after which a question counts as one without an answer.
PAUSE, PATIENCE = 0.1, 20
# The attacked program, bytes of the honest file, its chunk size, description.
CASES = {
    "announces": ("tracker", 100_000, 65_536, "eight addresses announce files with long names"),
    "lists": ("tracker", 100_000, 65_536, "200 connections ask for a list of all files and do not read it"),
    "sets": ("tracker", 100_000, 65_536, "300,000 claims in a chunk set, and members that join and leave"),
    "manifests": ("seeder", 190_000_000, 16_384, "256 connections ask for 16 manifests each and do not read them"),
}


@contextlib.contextmanager
def control_group(name):
    """A control group with the limit; yields its folder."""
    first = "/sys/fs/cgroup/memory"
    root, limit = (first, "memory.limit_in_bytes") if os.path.isdir(first) else ("/sys/fs/cgroup", "memory.max")
    folder = os.path.join(root, f"shoal-{name}-{os.getpid()}")
    os.mkdir(folder)
    try:
        with open(os.path.join(folder, limit), "w") as file:
            file.write(str(GROUP_BYTES))
        yield folder
    finally:
        os.rmdir(folder)


def peak(folder):
    """Most memory that the group used, MiB."""
    for name in ("memory.max_usage_in_bytes", "memory.peak"):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            with open(path) as file:
                return int(file.read()) >> 20
    return 0


def lookup(host, port, name):
    """Asks a tracker for a file; whether it knows a holder."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
        stream.settimeout(PATIENCE)
        stream.connect((host, port))
        cookie, message = {}, {"type": "lookup", "name": name, "limit": 8}
        for number in range(2):
            stream.send(json.dumps({"v": bad_peer.VERSION, "tx": number, **cookie, "message": message}).encode().ljust(bad_peer.PADDED))
            answer = json.loads(stream.recv(2_000))["message"]
            if answer["type"] == "found":
                return any(found["whole"] for found in answer["files"])
            cookie = {"cookie": answer["cookie"]}


def list_files(host, port, name):
    """Asks a seeder for its files; whether it has one of this name."""
    with socket.create_connection((host, port), PATIENCE) as stream:
        lines = [{"type": "hello", "version": bad_peer.VERSION}, {"type": "files", "name": name}]
        stream.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        reader = stream.makefile("rb")
        json.loads(reader.readline())
        answer = json.loads(reader.readline())
        return answer["type"] == "files" and answer["count"] == 1


def probe(process, ask, until):
    """Times of the answers, seconds, and the number of questions without the right answer."""
    times, failures = [], 0
    while time.monotonic() < until and process.poll() is None:
        began = time.monotonic()
        try:
            failures += not ask()
        except (OSError, ValueError):
            failures += 1
        times.append(time.monotonic() - began)
        time.sleep(PAUSE)
    return times, failures


def measure(options, folder, case):
    """One row of the table."""
    victim, size, chunk, text = CASES[case]
    source = os.path.join(folder, f"{case}.bin")
    with open(source, "wb") as file:
        file.write(os.urandom(1 << 20) * (size >> 20) or os.urandom(size))
    swarm = Swarm(options, source, folder)
    with control_group(case) as group:
        join = lambda: open(os.path.join(group, "cgroup.procs"), "w").write(str(os.getpid()))
        limits = {"tracker": {}, "seeder": {}, victim: {"preexec_fn": join}}
        try:
            tracker, at = start(swarm, "tracker", ["--listen", "127.0.0.1:0"], LISTENS, limits)
            words = ["-f", source, "-p", "0", "--tracker", at, "--chunk-size", str(chunk)]
            seeder, server = start(swarm, "seeder", words, r"(?s)" + LISTENS + r".*registered", limits)
            process = {"tracker": tracker, "seeder": seeder}[victim]
            words = [sys.executable, attackers.__file__, case, "0", at, server, source, str(chunk)]
            swarm.start("attackers", words, "ready")
            host, port = attackers.endpoint(at if victim == "tracker" else server)
            ask = lookup if victim == "tracker" else list_files
            name = os.path.basename(source)
            times, failures = probe(process, lambda: ask(host, port, name), time.monotonic() + ATTACK_SECONDS)
            is_alive, used = process.poll() is None, peak(group)
        finally:
            swarm.close()
    met = is_alive and not failures and max(times) <= ANSWER_SECONDS_MAX
    return (f"| {text} ({victim}) | {'yes' if is_alive else '**no**'} | {used} | {statistics.median(times) * 1000:.0f} "
            f"| {max(times) * 1000:.0f} | {failures} of {len(times)} | {'yes' if met else '**no**'} |")


def start(swarm, name, words, waits, limits):
    path = os.path.join(swarm.options.binaries, name)
    log = os.path.join(swarm.folder, f"{name}.log")
    process, found = swarm.start(name, [path, *words, "--log-file", log], waits, **limits[name])
    return process, found[1]


def table(rows):
    return "\n\n".join([
        "# Attacks on memory",
        f"The program runs in a control group of {GROUP_BYTES >> 20} MiB. For {ATTACK_SECONDS} s an honest peer asks it every "
        f"{PAUSE * 1000:.0f} ms: a tracker for a file over UDP, a seeder for its files over a new connection. Target: it survives, "
        f"and each answer comes within {ANSWER_SECONDS_MAX:.0f} s.",
        "| attack | survives | peak of the group, MiB | median answer, ms | longest answer, ms | without answer | met |\n"
        "|---|---|---|---|---|---|---|\n" + "\n".join(rows),
    ]) + "\n"
