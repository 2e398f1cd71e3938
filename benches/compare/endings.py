#!/usr/bin/env python3
"""Time from Ctrl-C to the end of each program, at random moments of its work, over loopback.

    cargo build --release
    benches/compare/endings.py                               # every case, twelve moments each, results/endings.md
    benches/compare/endings.py --cases seeder --moments 30 --dry

Each case starts the program and the programs that it needs, waits for a random time and sends SIGINT. The time counts
from the signal until the process has ended. The script ends only processes that it started, and removes its files.
"""

import argparse, json, os, random, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time
sys.dont_write_bytecode = True
import rig
from rig import GIBIBYTE, MEBIBYTE, ROOT, say

RESULT = os.path.join(ROOT, "benches", "results", "endings.md")
WANTED, PATIENCE = 1.0, 60.0
# Done, interrupted, not over yet, and ended by a signal that came before it was caught.
FINE = (0, 7, None, -signal.SIGINT)
LISTENS = r"listening on (127\.0\.0\.1:\d+)"
ANY = "127.0.0.1:0"


def flags():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=12, help="random moments of each case")
    parser.add_argument("--longest", type=float, default=1.5, metavar="SECONDS", help="the latest moment")
    parser.add_argument("--cases", default="", metavar="WORD,...", help="only cases that begin with one of these")
    parser.add_argument("--dir", default="/var/tmp", help="where the files are")
    parser.add_argument("--binaries", default=os.path.join(ROOT, "target", "release"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="print, and leave the results as they are")
    return parser.parse_args()


class Scene:
    """One measurement: a folder, and the processes in it."""

    def __init__(self, options, folder, shared):
        self.binaries, self.shared = options.binaries, shared
        self.folder = tempfile.mkdtemp(prefix="scene", dir=folder)
        self.processes, self.sockets = [], []

    def start(self, name, *words):
        """Starts a program; returns its process and the file with its output."""
        output = os.path.join(self.folder, f"{len(self.processes)}.out")
        words = [os.path.join(self.binaries, name), *words, "--log-file", os.path.join(self.folder, "log")]
        with open(output, "wb") as out:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.folder)
        self.processes.append(process)
        return process, output

    def address(self, started, pattern=LISTENS):
        process, output = started
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None:
            if found := re.search(pattern, rig.text_of(output)):
                return found[1]
            time.sleep(0.005)
        raise RuntimeError(f"it does not say {pattern!r}: {rig.text_of(output)[-600:]}")

    def place(self, name):
        path = os.path.join(self.folder, name)
        os.makedirs(path, exist_ok=True)
        return path

    def tracker(self, *words):
        return self.address(self.start("tracker", "--listen", ANY, *words))

    def manager(self):
        return self.address(self.start("manager", "--listen", ANY))

    def seeder(self, tracker, *words):
        words = ["-f", self.shared["file"], "-p", "0", "--tracker", tracker, *words]
        return self.start("seeder", *words)

    def client(self, name, *words, folder=None):
        folder = folder or self.place(name)
        return self.start("client", "-folder", folder, "-transfer_port", "0", "-name", name, *words)

    def has_begun(self, name):
        """Waits until a folder contains a file."""
        deadline = time.monotonic() + PATIENCE
        while size_of(os.path.join(self.folder, name)) < MEBIBYTE:
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing comes into {name}")
            time.sleep(0.01)

    def interrupt(self, process):
        """Sends SIGINT; returns the seconds until the process has ended."""
        if process.poll() is not None:
            raise RuntimeError(f"it has ended before, with {process.returncode}")
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass
        if process.returncode not in FINE:
            raise RuntimeError(f"it ended with {process.returncode}")
        return time.monotonic() - began

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
        for held in self.sockets:
            held.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def size_of(folder):
    """Bytes on disk. Files that are removed meanwhile do not count."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.stat(os.path.join(place, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return size


# Each case starts what it is about and returns its process; the random pause comes after that.

def tracker(scene):
    started = scene.start("tracker", "--listen", ANY)
    scene.seeder(scene.address(started))
    return started[0]


def tracker_with_files(scene):
    files = scene.place("files")
    os.link(scene.shared["file"], os.path.join(files, "a.bin"))
    started = scene.start("tracker", "--listen", ANY, "--files", files, "--state", scene.place("state"),
                          "--upload-limit", "100MB")
    address = scene.address(started)
    for name in ("a", "b", "c"):
        scene.client(name, "--tracker", address, "--volunteer", "1GiB")
    scene.has_begun("a")
    return started[0]


def manager(scene):
    started = scene.start("manager", "--listen", ANY)
    address = scene.address(started)
    for name in ("a", "b"):
        scene.client(name, "--manager", address)
    return started[0]


def seeder(scene):
    started = scene.seeder(scene.tracker())
    scene.address(started)
    return started[0]


def seeder_hashes(scene):
    huge = os.path.join(scene.folder, "huge.bin")
    with open(huge, "wb") as file:
        file.truncate(100 * GIBIBYTE)
    return scene.start("seeder", "-f", huge, "-p", "0", "--tracker", scene.tracker())[0]


def seeder_unread(scene):
    started = scene.seeder(scene.tracker())
    file, address = scene.address(started, r"with id (\w+)"), scene.address(started)
    host, port = address.rsplit(":", 1)
    for _ in range(3):
        peer = socket.create_connection((host, int(port)))
        scene.sockets.append(peer)
        chunks = [{"type": "chunk", "file": file, "index": index} for index in range(64)]
        messages = [{"type": "hello", "version": rig.protocol_version()}, *chunks]
        peer.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
    return started[0]


def leecher(scene):
    address = scene.tracker()
    scene.address(scene.seeder(address, "--upload-limit", "50MB"), r"(registered)")
    return scene.start("leecher", "file.bin", "--out", scene.place("out"), "--tracker", address)[0]


def leecher_stays(scene):
    address = scene.tracker()
    scene.address(scene.seeder(address, "--upload-limit", "50MB"), r"(registered)")
    return scene.start("leecher", "file.bin", "--out", scene.place("out"), "--stay", "--tracker", address)[0]


def plain_client(scene):
    address = scene.manager()
    folder = scene.place("full")
    os.link(scene.shared["file"], os.path.join(folder, "file.bin"))
    scene.client("full", "--manager", address, "--upload-limit", "50MB", folder=folder)
    words = ["--manager", address, "--get", "file.bin", "--stay", "--wait", "60"]
    client = scene.client("gets", *words)[0]
    scene.has_begun("gets")
    return client


def chunk_client(scene):
    address = scene.tracker("--quorum", "1")
    scene.client("full", "--tracker", address, "--upload-limit", "20MB", folder=scene.shared["chunks"])
    folder = scene.place("empty")
    with open(os.path.join(folder, "local_chunks.txt"), "w") as file:
        file.write(f"{scene.shared['count']},LASTCHUNK\n")
    client = scene.client("empty", "--tracker", address, folder=folder)[0]
    scene.has_begun("empty")
    return client


def volunteer(scene):
    files = scene.place("files")
    os.link(scene.shared["file"], os.path.join(files, "a.bin"))
    words = ["--files", files, "--state", scene.place("state"), "--upload-limit", "100MB"]
    address = scene.tracker(*words)
    clients = [scene.client(name, "--tracker", address, "--volunteer", "1GiB") for name in ("a", "b", "c")]
    scene.has_begun("a")
    return clients[0][0]


CASES = {
    "tracker": (tracker, "with a seeder"),
    "tracker --files": (tracker_with_files, "while three volunteers copy"),
    "manager": (manager, "with two clients"),
    "seeder, idle": (seeder, "serves, nobody asks"),
    "seeder, hashing": (seeder_hashes, "a sparse file of 100 GiB"),
    "seeder, not read": (seeder_unread, "three peers ask for 64 chunks each and do not read"),
    "leecher": (leecher, "in the middle of a download"),
    "leecher --stay": (leecher_stays, "in the middle of a download"),
    "client, plain folder": (plain_client, "gets a file through a manager"),
    "client, chunk folder": (chunk_client, "gets chunks"),
    "client --volunteer": (volunteer, "while it stores copies"),
}


def make_shared(folder):
    """A file, and a chunk folder of 64 chunks."""
    file, chunks, count = os.path.join(folder, "file.bin"), os.path.join(folder, "chunks"), 64
    with open(file, "wb") as out:
        for _ in range(192):
            out.write(os.urandom(MEBIBYTE))
    os.mkdir(chunks)
    lines = []
    for number in range(1, count + 1):
        with open(os.path.join(chunks, f"chunk_{number}"), "wb") as out:
            out.write(os.urandom(MEBIBYTE))
        lines.append(f"{number},chunk_{number}\n")
    with open(os.path.join(chunks, "local_chunks.txt"), "w") as out:
        out.write("".join(lines) + f"{count},LASTCHUNK\n")
    return {"file": file, "chunks": chunks, "count": count}


def once(options, folder, shared, prepare, moment):
    scene = Scene(options, folder, shared)
    try:
        process = prepare(scene)
        time.sleep(moment)
        return scene.interrupt(process)
    finally:
        scene.close()


def measure(options, folder, shared, name):
    prepare, _ = CASES[name]
    moments = [random.uniform(0, options.longest) for _ in range(options.moments)]
    taken = sorted(once(options, folder, shared, prepare, moment) for moment in moments)
    worst = taken[min(len(taken) - 1, int(len(taken) * 0.99))]
    say(f"{name}: {statistics.median(taken):.3f} s, {worst:.3f} s, {taken[-1]:.3f} s")
    return name, len(taken), statistics.median(taken), worst, taken[-1]


def report(options, rows, load):
    command = "benches/compare/endings.py" + "".join(" " + word for word in sys.argv[1:])
    lines = ["| program | at what | times | median, s | 99 of 100, s | at most, s | under 1 s |", "|---|---|---|---|---|---|---|"]
    for name, count, median, worst, most in rows:
        met = "yes" if most < WANTED else "**no**"
        lines.append(f"| {name} | {CASES[name][1]} | {count} | {median:.3f} | {worst:.3f} | {most:.3f} | {met} |")
    return "\n\n".join([
        "# After Ctrl-C",
        f"{time.strftime('%Y-%m-%d')}, {rig.machine()}. Command: `{command}`, commit {rig.commit()}. Load of the machine "
        f"before: {load:.1f}. From the signal until the process is gone, at random moments up to {options.longest:g} s "
        "after it was started, or has begun with it.",
        "\n".join(lines),
    ]) + "\n"


def main():
    options = flags()
    # Also when told to end, what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    random.seed(options.seed)
    wanted = tuple(word for word in options.cases.split(",") if word)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="shoal-endings-", dir=options.dir) as folder:
        shared = make_shared(folder)
        rows = [measure(options, folder, shared, name) for name in CASES if not wanted or name.startswith(wanted)]
    text = report(options, rows, load)
    print(text)
    if not options.dry:
        with open(RESULT, "w") as file:
            file.write(text)


if __name__ == "__main__":
    main()
