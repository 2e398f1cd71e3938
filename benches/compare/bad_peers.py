#!/usr/bin/env python3
"""Cost of a hostile peer: download times with and without it, from one honest seeder over loopback.

    cargo build --release
    benches/compare/bad_peers.py                             # every kind, three rounds each, results/bad_peers.md
    benches/compare/bad_peers.py --kinds silent,1 --rounds 5 --dry

For each kind of hostile peer and in each round, the script starts a tracker and an honest seeder with a limited rate,
and downloads a file once without and once with the hostile peer, alternately. The hostile peer is a separate process
(`bad_peer.py`) that announces the file before the honest seeder does. The time counts from the start of the leecher
until it logs that the download is complete. The received file is compared with the source. The script ends the
processes that it started and removes its files.
"""

import argparse, filecmp, os, re, shutil, signal, statistics, subprocess, sys, tempfile, time
sys.dont_write_bytecode = True
import bad_peer, rig
from rig import MEBIBYTE, ROOT, say

RESULT = os.path.join(ROOT, "benches", "results", "bad_peers.md")
CHUNK = 512 * 1024
MOST = 1.5
DONE = "Download complete"
LISTENS = r"listening on (127\.0\.0\.1:\d+)"


def flags():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=192, metavar="MiB")
    parser.add_argument("--rate", default="64MiB", help="of the honest seeder, a second")
    parser.add_argument("--kinds", default="", metavar="WORD,...", help="only kinds that begin with one of these")
    parser.add_argument("--dir", default="/dev/shm", help="where the files are")
    parser.add_argument("--binaries", default=os.path.join(ROOT, "target", "release"))
    parser.add_argument("--dry", action="store_true", help="print, and leave the results as they are")
    return parser.parse_args()


class Swarm:
    """A tracker, an honest seeder and perhaps a bad peer, for one download."""

    def __init__(self, options, source, folder):
        self.options, self.source = options, source
        self.folder = tempfile.mkdtemp(prefix="round", dir=folder)
        self.processes = []

    def start(self, name, words, waits, **options):
        output = os.path.join(self.folder, f"{name}.out")
        with open(output, "wb") as out:
            process = subprocess.Popen(words, stdout=out, stderr=out, cwd=self.folder, **options)
        self.processes.append(process)
        return process, waits and self.wait(output, waits, process)

    def ours(self, name, *words, waits):
        path = os.path.join(self.options.binaries, name)
        log = os.path.join(self.folder, f"{name}.log")
        return self.start(name, [path, *words, "--log-file", log], waits, stdin=subprocess.DEVNULL)

    def wait(self, output, pattern, process, patience=180):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if found := re.search(pattern, rig.text_of(output)):
                return found
            if process.poll() is not None:
                break
            time.sleep(0.005)
        raise RuntimeError(f"{os.path.basename(output)} has no {pattern!r}: {rig.text_of(output)[-600:]}")

    def bad(self, kind, tracker):
        words = [sys.executable, bad_peer.__file__, kind, tracker, self.source, str(CHUNK)]
        process, found = self.start("bad", words, r"ready (\S+)", stdin=subprocess.PIPE, text=True)
        return process, found[1]

    def download(self, kind):
        """Duration in seconds, and the lines about the hostile peer in the leecher's log."""
        _, tracker = self.ours("tracker", "--listen", "127.0.0.1:0", waits=LISTENS)
        address = kind and kind != bad_peer.FLOOD and self.bad(kind, tracker[1])[1]
        words = ["-f", self.source, "-p", "0", "--tracker", tracker[1], "--chunk-size", "512KiB", "--upload-limit",
                 self.options.rate]
        _, seeder = self.ours("seeder", *words, waits=r"(?s)" + LISTENS + r".*registered")
        flood = self.flooded(tracker[1], seeder[1]) if kind == bad_peer.FLOOD else None
        seconds = self.fetch(tracker[1], flood)
        if not filecmp.cmp(self.source, os.path.join(self.folder, "got"), shallow=False):
            raise RuntimeError(f"beside the bad peer {kind!r} something else was received")
        return seconds, self.said(kind, address)

    def said(self, kind, address):
        """Log lines about the hostile peer. A peer that only connects is never named to a leecher."""
        names, word = (["leecher"], address) if kind != bad_peer.FLOOD else (["seeder", "tracker", "leecher"], "connections")
        heard = [said_of(word, os.path.join(self.folder, f"{name}.log")) for name in names]
        return [line for lines, _ in heard for line in lines], sum(bad for _, bad in heard)

    def flooded(self, *addresses):
        """A hostile peer that has opened its connections to these addresses."""
        process, _ = self.bad(bad_peer.FLOOD, addresses[0])
        for address in addresses:
            print(address, file=process.stdin, flush=True)
        for address in addresses:
            self.wait(os.path.join(self.folder, "bad.out"), rf"opened \d+ to {address}\b", process)
        return process

    def fetch(self, tracker, flood):
        out = os.path.join(self.folder, "got")
        words = [os.path.basename(self.source), "--out", out, "--stay", "--tracker", tracker]
        began = time.monotonic()
        leecher, found = self.ours("leecher", *words, waits=LISTENS)
        if flood:
            print(found[1], file=flood.stdin, flush=True)
        self.wait(os.path.join(self.folder, "leecher.out"), DONE, leecher)
        return time.monotonic() - began

    def close(self):
        for process in reversed(self.processes):
            process.kill()
        for process in self.processes:
            process.wait()
            if process.stdin:
                process.stdin.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def said_of(address, log):
    """Log lines about an address (or all lines), without times and chunk indices; corrupt bytes are summed."""
    lines = [line for line in rig.text_of(log).splitlines() if address and address in line]
    plain = [re.sub(r"^\S+ \S+ - \w+ - ", "", line) for line in lines]
    if ":" in (address or ""):
        plain = [line.replace(address, "ADDRESS") for line in plain]
    plain = [re.sub(r"in \d+ s|\d+ s ago", lambda found: re.sub(r"\d+", "N", found[0]), line) for line in plain]
    bad = sum(int(number) for line in plain for number in re.findall(r"(\d+) bad bytes", line))
    return list(dict.fromkeys(re.sub(r"chunk \d+", "chunk N", line) for line in plain)), bad


def once(options, source, folder, kind):
    swarm = Swarm(options, source, folder)
    try:
        return swarm.download(kind)
    finally:
        swarm.close()


def measure(options, source, folder, kind):
    without, beside, said, bad = [], [], [], []
    for number in range(options.rounds):
        for other in ((None, kind), (kind, None))[number % 2]:
            seconds, heard = once(options, source, folder, other)
            (beside if other else without).append(seconds)
            if other:
                said, bad = list(dict.fromkeys(said + heard[0])), bad + [heard[1]]
    alone, both = statistics.median(without), statistics.median(beside)
    say(f"{kind}: {alone:.2f} s without ({spread(without)}), {both:.2f} s with ({spread(beside)}), "
        f"{both / alone:.2f}; {'; '.join(said) or 'nothing said'}")
    return kind, alone, spread(without), both, spread(beside), both / alone, said, bad


def spread(values):
    return f"{min(values):.2f} - {max(values):.2f}"


def row(kind, alone, alone_spread, both, both_spread, ratio, said, bad):
    met = "yes" if ratio <= MOST else "**no**"
    heard = "<br>".join(said).replace("|", "\\|") or "nothing"
    counted = ", ".join(map(str, bad))
    return (f"| {kind}: {bad_peer.KINDS[kind]} | {alone:.2f} ({alone_spread}) | {both:.2f} ({both_spread}) | {ratio:.2f} "
            f"| {met} | {heard} | {counted} |")


def report(options, rows, load):
    command = "benches/compare/bad_peers.py" + "".join(" " + word for word in sys.argv[1:])
    return "\n\n".join([
        "# Beside a bad peer",
        f"{time.strftime('%Y-%m-%d')}, {rig.machine()}. Command: `{command}`, commit {rig.commit()}. Load of the machine "
        f"before: {load:.1f}. {options.size} MiB in chunks of 512 KiB from one honest seeder at {options.rate}/s, and one "
        f"bad peer that is announced before it. {options.rounds} rounds with and without it, in turn: medians, least and "
        "most. Every file that was received is the one that was offered. The last two columns are what the leecher's "
        "log file says of the bad peer's address (of connections, the seeder's and the tracker's as well), and the bad "
        "bytes that it counts, in each round.",
        "| bad peer | without, s | with, s | ratio | at most 1.5 | the log | bad bytes |\n"
        "|---|---|---|---|---|---|---|\n" + "\n".join(row(*cells) for cells in rows),
    ]) + "\n"


def main():
    options = flags()
    # Also when told to end, what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    wanted = tuple(word for word in options.kinds.split(",") if word)
    kinds = [kind for kind in bad_peer.KINDS if not wanted or kind.startswith(wanted)]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="shoal-bad-", dir=options.dir) as folder:
        source = os.path.join(folder, "source.bin")
        with open(source, "wb") as file:
            for _ in range(options.size):
                file.write(os.urandom(MEBIBYTE))
        rows = [measure(options, source, folder, kind) for kind in kinds]
    text = report(options, rows, load)
    print(text)
    if not options.dry:
        with open(RESULT, "w") as file:
            file.write(text)


if __name__ == "__main__":
    main()
