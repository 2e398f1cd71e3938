#!/usr/bin/env python3
"""One leecher, one seeder or three: shoal compared with other programs, on tmpfs and on ext4.

    benches/compare/link.py                          # one and three seeders on both file systems, seven rounds
    benches/compare/link.py --case all               # all cases
    benches/compare/link.py --case one,chunk-4m --file-system ext4 --only shoal,rsync --rounds 3 --dry
    benches/compare/link.py --case link --before /tmp/old    # also the programs of another version

Builds the release binaries (unless --binaries names them), and for each case and file system makes a file of random
bytes, starts the senders, and lets every program download the file once in each round, in rotating order. Before each
run, memory is written and freed, so that all programs get memory that the host has already provided. Each received
file is compared with the source by its SHA-256 and removed. All started programs are ended, and all files removed.
Case link needs root, `ip` and `tc`.
"""

import argparse, functools, hashlib, os, re, shutil, signal, subprocess, sys, tempfile, time
sys.dont_write_bytecode = True
import contenders, link_single, rig, shaped
from contenders import FAST, PLAIN, SMALL, TORRENT, Setting
from dataclasses import dataclass, field
from link_results import Results, merged, size_of
from rig import GIBIBYTE, MEBIBYTE, ROOT, say

RESULTS = os.path.join(ROOT, "benches", "results", "link.md")
RELEASE = os.path.join(ROOT, "target", "release")
FILE_SYSTEMS = ["tmpfs", "ext4"]
# More than the largest packet that TCP makes, as in fanout.py.
TBF_BURST = "80kb"


@dataclass(frozen=True)
class Case:
    title: str
    programs: list = field(default_factory=lambda: PLAIN)
    seeders: int = 1
    divisor: int = 1        # the file has --size divided by this
    size: int = 0           # bytes of the file, in place of --size
    rounds: int = 1         # factor of --rounds
    chunk: str = ""
    upload_bytes_s: int = 0
    link_mbit_s: int = 0
    exists: bool = False    # another file of the same size is at the target path

    def bytes(self, options):
        return self.size or options.size * MEBIBYTE // self.divisor

    def least(self, size):
        """The time in seconds that the limit or the link leaves possible; 0 without."""
        rate = self.upload_bytes_s or self.link_mbit_s * 1e6 / 8
        return size / rate if rate else 0.0


CASES = {
    "one": Case("one seeder", FAST),
    "three": Case("three seeders, of nginx and rsync one server", FAST, seeders=3),
    "overwrite": Case("one seeder, an existing file is replaced", exists=True),
    "chunk-64k": Case("one seeder, chunks of 64 KiB", chunk="64KiB"),
    "chunk-512k": Case("one seeder, chunks of 512 KiB", chunk="512KiB"),
    "chunk-4m": Case("one seeder, chunks of 4 MiB", chunk="4MiB"),
    "upload-limit": Case("one seeder with an upload limit of 100 MB/s", divisor=4, upload_bytes_s=100_000_000),
    "link": Case("one seeder, a link of 100 Mbit/s", divisor=16, link_mbit_s=100),
    "small": Case("one seeder", SMALL, size=MEBIBYTE, rounds=4),
    "torrent": Case("three seeders, BitTorrent programs", TORRENT, seeders=3),
}
SINGLE = {"publish": "publishing", "large": "10 GiB from three seeders"}
MAIN = ["one", "three"]


def listed(choices):
    """Parses a list with commas of some of these words; `all` is all of them."""
    def parse(text):
        words = list(choices) if text == "all" else text.split(",")
        if wrong := [word for word in words if word not in choices]:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(choices)}, all")
        return words
    return parse


def flags():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = [*CASES, *SINGLE]
    parser.add_argument("--case", type=listed(cases), default=MAIN, metavar="CASE,...",
                        help=f"cases: {', '.join(cases)}, all (default: {','.join(MAIN)})")
    parser.add_argument("--file-system", type=listed(FILE_SYSTEMS), default=FILE_SYSTEMS, metavar="TYPE,...",
                        help="tmpfs, ext4 (default: both)")
    parser.add_argument("--tmpfs", default="/dev/shm", metavar="DIR", help="folder on tmpfs (default: /dev/shm)")
    parser.add_argument("--ext4", default="/var/tmp", metavar="DIR", help="folder on ext4 (default: /var/tmp)")
    parser.add_argument("--only", default="", metavar="NAME,...", help="only programs whose name contains one of these")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each case (default: 7)")
    parser.add_argument("--size", type=int, default=1024, metavar="MiB", help="size of the file (default: 1024)")
    parser.add_argument("--warm", type=float, default=6, metavar="GiB",
                        help="memory that is written and freed before each run (default: 6)")
    parser.add_argument("--binaries", metavar="DIR", help="folder of the release binaries; they are not built")
    parser.add_argument("--before", default="", metavar="DIR", help="release binaries of another version, to compare")
    parser.add_argument("--results", default=RESULTS, metavar="FILE", help="page of the results")
    parser.add_argument("--dry", action="store_true", help="print the results without writing them")
    return parser.parse_args()


def build():
    words = ["cargo", "build", "--release", "--quiet", "--bins", "--example", "bare"]
    subprocess.run(words, cwd=ROOT, check=True)


def file_system_of(path):
    """The type of the file system that has this path."""
    path, found = os.path.realpath(path), ("", "")
    for line in rig.text_of("/proc/self/mounts").splitlines():
        _, point, kind = line.split()[:3]
        if os.path.commonpath([path, point]) == point and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]


def make_random(path, size):
    with open(path, "wb") as file:
        for _ in range(size // MEBIBYTE):
            file.write(os.urandom(MEBIBYTE))
    # A seeder waits until a file that was just written no longer changes.
    os.utime(path, (time.time() - 60, time.time() - 60))
    return path


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)


def warm(gibibytes):
    """Writes and frees memory: a virtual machine pays for memory that its host has not yet provided."""
    size = int(gibibytes * GIBIBYTE)
    available = int(re.search(r"MemAvailable:\s+(\d+)", rig.text_of("/proc/meminfo")).group(1)) * 1024
    if size > available:
        raise RuntimeError(f"--warm {gibibytes:g} needs more than the available {available / GIBIBYTE:.1f} GiB")
    share = size // os.cpu_count()
    code = f"import mmap; mmap.mmap(-1, {share}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)"
    writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(os.cpu_count() if share else 0)]
    if any([writer.wait() for writer in writers]):
        raise RuntimeError(f"{gibibytes:g} GiB of memory cannot be written: --warm has another amount")


@functools.cache
def sha256_rate():
    """SHA-256 of one core in GB/s, one message at a time, by OpenSSL."""
    text = rig.capture("openssl", "speed", "-seconds", "2", "-bytes", str(512 * 1024), "-mr", "-evp", "sha256")
    found = re.search(r"^\+F:\d+:sha256:([\d.]+)", text, re.MULTILINE)
    return f"{float(found.group(1)) / 1e9:.2f} GB/s" if found else "not measured"


def shape(case, setting):
    """Puts servers and receivers of a case with a link into two namespaces; returns the network, or `None`."""
    if not case.link_mbit_s:
        return None
    network = shaped.Network("link", burst=TBF_BURST)
    try:
        network.open()
        server, setting.address = network.host(0, case.link_mbit_s, case.link_mbit_s)
        client, _ = network.host(1, case.link_mbit_s, case.link_mbit_s)
    except BaseException:
        network.close()
        raise
    setting.at_server, setting.at_client = (["ip", "netns", "exec", name] for name in (server, client))
    return network


def start(case, setting, options, started, left):
    """Starts the senders of the selected programs; adds those to `started`, and the reasons of the others to `left`."""
    wanted = [word for word in options.only.split(",") if word]
    for kind in case.programs:
        if wanted and not any(word in kind.name for word in wanted):
            continue
        if kind is contenders.ShoalBefore and not options.before:
            continue
        contender = kind(setting)
        if reason := contender.lacks():
            if isinstance(contender, contenders.Shoal):
                sys.exit(f"{kind.name}: {reason}")
            left[kind.name] = reason
            continue
        started.append(contender)
        try:
            contender.start()
        except RuntimeError as error:
            started.pop().stop()
            if isinstance(contender, contenders.Shoal):
                raise
            left[kind.name] = str(error).splitlines()[0]
    for name, reason in left.items():
        say(f"{name} is left out: {reason}")


def run_once(contender, results, options, out, previous, expected):
    """One measured download, after the same preparation for all programs."""
    if previous:
        shutil.copy(previous, out)
    if results.file_system == "ext4":
        os.sync()
    warm(options.warm)
    cost, path = contender.fetch(out)
    if digest(path) != expected:
        raise RuntimeError(f"{contender.name} received other bytes than those of the source")
    remove(out)
    results.add(contender, cost)
    say(f"{results.heading()}: {contender.name} {cost.seconds:.4f} s, to the exit {cost.seconds_exit:.4f} s, CPU "
        f"{cost.cpu:.2f} + {cost.cpu_servers:.2f} s, peak {cost.peak / MEBIBYTE:.1f} MiB")


def compare(key, file_system, folder, options):
    """Runs rounds in which every program downloads the file once; returns the results and the programs left out."""
    case = CASES[key]
    size = case.bytes(options)
    os.mkdir(os.path.join(folder, "source"))
    source = make_random(os.path.join(folder, "source", "source.bin"), size)
    previous = make_random(os.path.join(folder, "previous.bin"), size) if case.exists else None
    setting = Setting(folder, source, options.binaries, options.before, case.seeders, case.chunk, case.upload_bytes_s,
                      case.exists)
    results = Results(key, file_system, f"{size_of(size)}, {case.title}", case.least(size))
    expected, started, left = digest(source), [], {}
    network = shape(case, setting)
    try:
        start(case, setting, options, started, left)
        for number in range(options.rounds * case.rounds):
            first = number % max(1, len(started))
            for contender in started[first:] + started[:first]:
                run_once(contender, results, options, os.path.join(folder, "received"), previous, expected)
    finally:
        for contender in started:
            contender.stop()
        if network:
            network.close()
    return results, left


def conditions(options, file_system, load, method):
    """The machine and the conditions of one section."""
    command = "benches/compare/link.py" + "".join(" " + word for word in sys.argv[1:])
    control = rig.text_of("/proc/sys/net/ipv4/tcp_congestion_control").strip()
    binaries = "" if options.binaries == RELEASE else f" (programs of `{options.binaries}`)"
    return (f"{time.strftime('%Y-%m-%d')}, {rig.machine()}, {control}. File system {file_system}. SHA-256 of one core by "
            f"OpenSSL: {sha256_rate()}. {method}. Load of the machine before: {load:.1f}. Command: `{command}`, commit "
            f"{rig.commit()}{binaries}.")


def section(key, file_system, root, options):
    """Measures one case on one file system; returns its text."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="shoal-link-", dir=root) as folder:
        if key in CASES:
            results, left = compare(key, file_system, folder, options)
            omitted = "; ".join(f"{name} ({reason})" for name, reason in left.items())
            heading = results.heading()
            method = f"Rounds: {options.rounds * CASES[key].rounds}; {options.warm:g} GiB written before each run"
            parts = [results.table(), results.targets(), f"Left out: {omitted}." if omitted else ""]
        elif key == "publish":
            source = make_random(os.path.join(folder, "source.bin"), options.size * MEBIBYTE)
            digest(source)
            heading = f"{key}, {file_system}: {size_of(os.path.getsize(source))}, {SINGLE[key]}"
            method, parts = f"Rounds: {options.rounds * 2}", [link_single.publish(folder, source, options)]
        else:
            heading = f"{key}, {file_system}: {SINGLE[key]}"
            method, parts = "Rounds: 1", [link_single.large(folder, options, digest)]
    return "\n\n".join([f"## {heading}", conditions(options, file_system, load, method), *filter(None, parts)])


def skip(key, file_system, root):
    """The reason why a case cannot be measured on this file system; `None` if it can."""
    actual = file_system_of(root)
    if actual != file_system:
        return f"{root} is on {actual}; name a folder with --{file_system}"
    if key == "link" and os.geteuid() != 0:
        return "network namespaces need root"
    if key == "large" and file_system == "tmpfs":
        return "10 GiB are received on a disk only"
    return None


def main():
    options = flags()
    # SIGTERM also ends the started programs and removes the files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    rig.adopt_orphans()
    if not options.binaries:
        build()
    options.binaries = os.path.abspath(options.binaries or RELEASE)
    options.before = options.before and os.path.abspath(options.before)
    measured = 0
    for key in options.case:
        for file_system in options.file_system:
            root = getattr(options, file_system)
            if reason := skip(key, file_system, root):
                say(f"{key} on {file_system} is left out: {reason}")
                continue
            text = section(key, file_system, root, options)
            print(text + "\n", flush=True)
            measured += 1
            if not options.dry:
                page = merged(options.results, [text])
                with open(options.results, "w") as file:
                    file.write(page)
    sys.exit(0 if measured else "no case was measured")


if __name__ == "__main__":
    main()
