#!/usr/bin/env python3
"""Downloads beside attackers: times with and without them, over loopback.

    cargo build --release
    benches/compare/attacks.py                         # all cases, three rounds each, results/attacks.md
    benches/compare/attacks.py dead readers --rounds 1 --dry

    advertised  one host registers 2,000 holders at addresses that do not exist, beside one seeder: at most 5 s longer
    dead        2,000 hosts that do not answer are holders, beside one honest seeder: at most 5 s longer
    readers     70 slow readers of a seeder with an upload limit, beside one honest leecher: at most twice as long
    sources     80 stalling, trickling or lying sources, beside three honest ones: at most twice as long
    announces, lists, sets, manifests
                attacks on the memory of a program in a control group of 512 MiB: it answers within 1 s (`memory_attacks`)

In each round, the script starts a tracker and honest seeders, and downloads a file once without and once with the
attackers, alternately. The attackers run in a process of their own (`attackers.py`) and begin before the leecher. The
time counts from the start of the leecher until it has ended. The received file is compared with the source. The script
ends the processes that it started and removes its files.
"""

import argparse, filecmp, os, signal, statistics, subprocess, sys, tempfile, time
sys.dont_write_bytecode = True
import attackers, memory_attacks, rig
from bad_peers import LISTENS, Swarm, spread
from rig import ROOT, say

RESULT = os.path.join(ROOT, "benches", "results", "attacks.md")
CHUNK = 512 * 1024
# Seconds after which a download counts as ended without success.
PATIENCE = 60
# Number of attackers, honest seeders, upload limit of each, bytes of the file, largest ratio, seconds that are always allowed.
CASES = {
    "advertised": (2_000, 1, "0", 8_000_000, 1.0, 5.0, "one host with 2,000 dead addresses beside one seeder"),
    "dead": (2_000, 1, "0", 8_000_000, 1.0, 5.0, "2,000 dead hosts beside one seeder"),
    "readers": (70, 1, "4MB", 16_000_000, 2.0, 0.0, "70 slow readers of a seeder that sends 4 MB/s"),
    "sources": (80, 3, "4MB", 48_000_000, 2.0, 0.0, "80 bad sources beside three seeders that send 4 MB/s each"),
}


def flags():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="names of cases (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", default="/dev/shm", help="where the files are")
    parser.add_argument("--binaries", default=os.path.join(ROOT, "target", "release"))
    parser.add_argument("--dry", action="store_true", help="print, and leave the results as they are")
    return parser.parse_args()


class Attacked(Swarm):
    """A tracker, honest seeders and perhaps attackers, for one download."""

    def seconds(self, case, is_attacked):
        count, seeders, limit, *_ = CASES[case]
        _, tracker = self.ours("tracker", "--listen", "127.0.0.1:0", waits=LISTENS)
        for number in range(seeders):
            words = ["-f", self.source, "-p", "0", "--tracker", tracker[1], "--chunk-size", str(CHUNK), "--upload-limit", limit]
            _, seeder = self.ours("seeder", *words, waits=r"(?s)" + LISTENS + r".*registered")
        if is_attacked:
            words = [sys.executable, attackers.__file__, case, str(count), tracker[1], seeder[1], self.source, str(CHUNK)]
            self.start("attackers", words, "ready")
        out = os.path.join(self.folder, "got")
        began = time.monotonic()
        leecher, _ = self.ours("leecher", os.path.basename(self.source), "--out", out, "--tracker", tracker[1], waits=None)
        try:
            code = leecher.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return float(PATIENCE)
        seconds = time.monotonic() - began
        if code != 0 or not filecmp.cmp(self.source, out, shallow=False):
            raise RuntimeError(f"{case}: the leecher ended with {code}: {rig.text_of(os.path.join(self.folder, 'leecher.out'))[-600:]}")
        return seconds


def once(options, source, folder, case, is_attacked):
    swarm = Attacked(options, source, folder)
    try:
        return swarm.seconds(case, is_attacked)
    finally:
        swarm.close()


def measure(options, folder, case):
    *_, size, ratio_max, extra_max, _ = CASES[case]
    source = os.path.join(folder, f"{case}.bin")
    with open(source, "wb") as file:
        file.write(os.urandom(size))
    times = {False: [], True: []}
    for number in range(options.rounds):
        for is_attacked in ((False, True), (True, False))[number % 2]:
            times[is_attacked].append(once(options, source, folder, case, is_attacked))
    os.remove(source)
    alone, beside = (statistics.median(times[is_attacked]) for is_attacked in (False, True))
    met = beside <= alone * ratio_max + extra_max
    say(f"{case}: {alone:.2f} s without ({spread(times[False])}), {beside:.2f} s with ({spread(times[True])}), {beside / alone:.2f}")
    target = f"at most {extra_max:.0f} s longer" if extra_max else f"at most {ratio_max:.0f} times"
    return (f"| {CASES[case][-1]} | {alone:.2f} ({spread(times[False])}) | {beside:.2f} ({spread(times[True])}) "
            f"| {beside / alone:.2f} | {target} | {'yes' if met else '**no**'} |")


def report(options, rows, load):
    command = "benches/compare/attacks.py" + "".join(" " + word for word in sys.argv[1:])
    return "\n\n".join([
        "# Downloads beside attackers",
        f"{time.strftime('%Y-%m-%d')}, {rig.machine()}. Command: `{command}`, commit {rig.commit()}. Load of the machine "
        f"before: {load:.1f}. {options.rounds} rounds with and without the attackers, in turn: medians, least and most. "
        f"A time of {PATIENCE} s means that the download had not ended by then. Every file that was received is the one that was "
        "offered.",
        "| attackers | without, s | with, s | ratio | target | met |\n|---|---|---|---|---|---|\n" + "\n".join(rows),
    ]) + "\n"


def main():
    options = flags()
    # Also when told to end, what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="shoal-attacks-", dir=options.dir) as folder:
        chosen = options.cases or [*CASES, *memory_attacks.CASES]
        rows = [measure(options, folder, case) for case in chosen if case in CASES]
        memory_rows = [memory_attacks.measure(options, folder, case) for case in chosen if case in memory_attacks.CASES]
    text = report(options, rows, load) + "\n" + memory_attacks.table(memory_rows)
    print(text)
    if not options.dry:
        with open(RESULT, "w") as file:
            file.write(text)


if __name__ == "__main__":
    main()
