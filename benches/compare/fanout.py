#!/usr/bin/env python3
"""Distribution of a file to all hosts of a small network: last finish over the fluid bound.

Every host is a network namespace of its own, on one bridge; `tbf` shapes its link both ways. Release binaries run
in them: a tracker (its link is not shaped), seeders, leechers. The time ends with the line of the result; each
received file is compared.
Needs root, `ip` and `tc`. Removes what it made, and ends only the processes that it started.

    cargo build --release
    benches/compare/fanout.py equal8 wide8 equal16        # cases, see --list
    benches/compare/fanout.py equal8 --repeat 5 --against OTHER_BINARIES       # in turns with older programs
    benches/compare/fanout.py equal8 --tickets               # without a tracker: the leechers get the seeder's ticket
    benches/compare/fanout.py --hosts 4 --up 20 --down 40 --size 16

Prints: the time of the last counted leecher, its ratio to the fluid bound
max(F/u_seed, F/d_min, N*F/(u_seed + sum u_i)) with the uplink of each host, the ratio of the mean of the leechers, and
the bytes that the seeders sent (headers included) over the size of the file; with --repeat then the median and the
maximum of the first ratio and the median of the second one.
"""

import argparse, os, selectors, shutil, signal, statistics, sys, tempfile, time
from shaped import Network, Processes, digest, say
from dataclasses import dataclass, replace

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MEBIBYTE = 1 << 20


@dataclass
class Case:
    hosts: int = 8          # leechers
    up: float = 100         # Mbit/s of each leecher
    down: float = 100
    size: int = 64          # MiB
    seeders: int = 1
    seeder_up: float = 0    # 0: like the leechers
    seeder_down: float = 0
    mixed: float = 0        # the uplink of every second leecher
    slow_up: float = 0      # the uplink of the last leecher, which counts
    slow: float = 0         # the last leecher's link is so many Mbit/s, both ways; it does not count
    kill: float = 0         # the last leecher is killed after so many seconds; it does not count
    split: tuple = ()       # hosts in each site; the tracker and the seeders are in the first one
    thin: float = 0         # Mbit/s between the sites
    labels: int = 0         # hosts of one network are told in turn that they are in one of so many sites
    apart: float = 0        # seconds between two leechers' starts
    most: float = 1.10      # what the last leecher should need at most, over the bound


CASES = {
    "equal8": Case(most=1.09),
    "wide8": Case(up=50, down=200, most=1.09),
    "equal16": Case(hosts=16, most=1.11),
    "large8": Case(size=256, most=1.08),
    "killed8": Case(kill=2.15, most=1.13),
    "narrow-seeder": Case(seeder_up=40, seeder_down=40, up=80, down=80, most=1.12),
    "slow1": Case(slow=10, most=1.13),
    "apart2": Case(apart=2, most=1.12),
    "seeders3": Case(seeders=3, most=1.10),
    "one": Case(hosts=1, most=1.10),
    "seeders3-one": Case(hosts=1, seeders=3, up=50, down=150, most=1.15),
    "mixed8": Case(mixed=25, most=1.30),
    "mixed16": Case(hosts=16, mixed=25, most=1.30),
    "slowup1": Case(slow_up=10, most=1.24),
    "weak3": Case(seeders=3, seeder_up=25, seeder_down=100, most=1.25),
    "hosts40": Case(hosts=40, up=20, down=20, most=1.20),
    "equal8-20": Case(up=20, down=20, size=16, most=1.12),
    "slow1-20": Case(up=20, down=20, size=16, slow=2, most=1.15),
    "labels8": Case(labels=2, most=1.12),
    "labels8-mixed": Case(labels=2, mixed=25, most=1.50),
    "killed8-20": Case(up=20, down=20, size=16, kill=2.7, most=1.15),
    **{name: Case(hosts=sum(split), split=split, up=rate, down=rate, thin=thin, size=32, most=most)
       for name, split, rate, thin, most in [
           ("sites4+4", (4, 4), 100, 25, 1.15), ("sites4+4-50", (4, 4), 100, 50, 1.17), ("sites8+8", (8, 8), 50, 25, 1.17),
           ("sites2+6", (2, 6), 100, 25, 1.17), ("sites4+4+4", (4, 4, 4), 100, 25, 1.27), ("sites6+2", (6, 2), 100, 25, 1.28)]},
}


def links(case, number):
    """The rates of a leecher's link, up and down, Mbit/s."""
    last = number == case.hosts - 1
    if case.slow and last:
        return case.slow, case.slow
    if case.slow_up and last:
        return case.slow_up, case.down
    return case.mixed if case.mixed and number % 2 == 0 else case.up, case.down


def bound(case):
    """The fluid bound of the last counted leecher in seconds."""
    bits = case.size * MEBIBYTE * 8 / 1e6
    seed = case.seeders * (case.seeder_up or case.up)
    counted = range(case.hosts - (1 if case.slow else 0))
    uplinks = sum(links(case, number)[0] for number in counted)
    between = bits / case.thin if case.thin else 0
    return max(bits / seed, bits / case.down, len(counted) * bits / (seed + uplinks), between)


def site_of(case, number):
    """The site of a leecher, if there are several."""
    return next((site for site in range(len(case.split)) if number < sum(case.split[:site + 1])), None)


def measure(case, options, binaries):
    binaries = os.path.abspath(binaries)
    folder = tempfile.mkdtemp(prefix="fanout-", dir=options.folder)
    network, processes = Network("fanout", options.burst, options.latency, options.congestion), Processes()
    try:
        network.open()
        if case.split:
            network.sites(len(case.split), case.thin)
        first = 0 if case.split else None
        tracker_space, tracker = network.host(0, site=first)
        source = os.path.join(folder, "file.bin")
        with open(source, "wb") as file:
            for _ in range(case.size):
                file.write(os.urandom(MEBIBYTE))

        def place(name):
            path = os.path.join(folder, name)
            os.mkdir(path)
            return path

        def log(path):
            return os.path.join(options.logs, os.path.basename(path)) if options.logs else None

        level = ["-vv"] if options.logs else []
        path = place("tracker")
        processes.start(tracker_space, path, [f"{binaries}/tracker", "--listen", f"{tracker}:5100", *level], log=log(path))
        time.sleep(0.5)
        common = [*level] if options.tickets else ["--tracker", f"{tracker}:5100", *level]
        seeders, wanted = [], ["file.bin"]
        for number in range(case.seeders):
            up, down = case.seeder_up or case.up, case.seeder_down or case.down
            space, address = network.host(1 + number, up, down, first)
            seeders.append(space)
            path = place(f"seeder{number}")
            words = [f"{binaries}/seeder", *([] if options.tickets else ["-f"]), source, "-p", "7000", "--listen", address, *common]
            if options.chunk:
                words += ["--chunk-size", options.chunk]
            seeder = processes.start(space, path, words, log=log(path))
            if options.tickets and number == 0:
                wanted = [seeder.stdout.readline().decode().split()[1]]
        leechers = []
        for number in range(case.hosts):
            last = number == case.hosts - 1
            up, down = links(case, number)
            space, address = network.host(1 + case.seeders + number, up, down, site_of(case, number))
            path = place(f"leecher{number}")
            words = [f"{binaries}/leecher", *wanted, "--port", "7000", "--listen", address, *common]
            if case.labels:
                words += ["--site", f"site{number % case.labels}"]
            counts = not (last and (case.slow or case.kill))
            leechers.append((processes.start(space, path, words, waits=True, log=log(path)), path, counts))
        time.sleep(1.0 + case.size / 256)
        far = range(1, len(case.split))
        before = sum(network.sent(space) for space in seeders)
        crossed = [network.crossed(site, len(case.split)) for site in far]
        times = follow(case, leechers)
        sent = sum(network.sent(space) for space in seeders) - before
        crossed = [network.crossed(site, len(case.split)) - start for site, start in zip(far, crossed)]
        if crossed:
            say("copies that crossed into each remote site:", *(f"{bytes / case.size / MEBIBYTE:.2f}" for bytes in crossed))
        expected = digest(source)
        for number in times:
            if digest(os.path.join(leechers[number][1], "file.bin")) != expected:
                raise RuntimeError(f"leecher {number} has received something else")
        return times, sent
    finally:
        processes.close()
        network.close()
        shutil.rmtree(folder, ignore_errors=True)


def follow(case, leechers):
    """Starts the leechers; returns the seconds of each counted leecher, by number."""
    waiting = {number for number, (_, _, counts) in enumerate(leechers) if counts}
    selector = selectors.DefaultSelector()
    for number, (process, _, _) in enumerate(leechers):
        selector.register(process.stdout, selectors.EVENT_READ, number)
    began, times, text = time.monotonic(), {}, {}
    start = [began + case.apart * number for number in range(len(leechers))]
    unborn = list(range(len(leechers)))
    kill_at = began + case.kill if case.kill else None
    deadline = began + start[-1] - began + 60 + 12 * bound(case)
    while waiting:
        now = time.monotonic()
        if now > deadline:
            raise RuntimeError(f"leechers {sorted(waiting)} do not end")
        while unborn and start[unborn[0]] <= now:
            process = leechers[unborn.pop(0)][0]
            process.stdin.write(b"\n")
            process.stdin.flush()
        if kill_at and now >= kill_at:
            leechers[-1][0].kill()
            kill_at = None
        for key, _ in selector.select(0.01):
            piece = os.read(key.fileobj.fileno(), 4096)
            number = key.data
            if not piece:
                selector.unregister(key.fileobj)
                if number in waiting:
                    raise RuntimeError(f"leecher {number} has ended too early")
                continue
            text[number] = text.get(number, b"") + piece
            if b"Successfully downloaded" in text[number] and number in waiting:
                waiting.discard(number)
                times[number] = time.monotonic() - start[number]
    return times


def stop(*_):
    # `timeout` signals twice; the second must not cut the cleaning up short.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="see --list")
    parser.add_argument("--list", action="store_true", help="name the cases, and exit")
    for name in ("hosts", "up", "down", "size", "seeders", "seeder-up", "slow", "kill", "apart", "mixed", "slow-up"):
        parser.add_argument(f"--{name}", type=float, help="of a case of your own, or in place of what a case says")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--burst", default="80kb", help="tbf's burst: more than the largest packet that TCP makes, 68 kb with its headers, or each is cut into 45, with a timer for each")
    parser.add_argument("--latency", default="50ms", help="the longest that tbf queues a packet")
    parser.add_argument("--congestion", help="the congestion control; the system's own by default")
    parser.add_argument("--chunk", help="chunk size; the seeder's own choice by default")
    parser.add_argument("--tickets", action="store_true", help="no tracker: the leechers get the ticket of the first seeder")
    parser.add_argument("--folder", help="where the files go; the system's temporary folder by default")
    parser.add_argument("--logs", help="a folder that keeps what the programs say")
    parser.add_argument("--binaries", default=os.path.join(ROOT, "target", "release"), help="where the programs are")
    parser.add_argument("--against", metavar="FOLDER", help="other programs, which run in turns with these")
    options = parser.parse_args()
    if options.list:
        for name, case in CASES.items():
            print(name, case)
        return
    if os.geteuid() != 0:
        sys.exit("namespaces need root")
    signal.signal(signal.SIGTERM, stop)
    changes = {key: getattr(options, key) for key in ("hosts", "up", "down", "size", "seeders", "seeder_up", "slow", "kill", "apart", "mixed", "slow_up")}
    changes = {key: int(value) if key in ("hosts", "size", "seeders") else value for key, value in changes.items() if value is not None}
    print(f"{'case':14} {'programs':8} {'last s':>7} {'/bound':>7} {'wanted':>7} {'mean':>7} {'seeders sent':>12}", flush=True)
    failed = False
    programs = {"new": options.binaries, **({"old": options.against} if options.against else {})}
    for name in options.cases or ["equal8"]:
        case = replace(CASES[name], **changes)
        ratios = {label: [] for label in programs}
        for turn in range(options.repeat):
            # The first one of a turn may find other conditions than the second one.
            for label in sorted(programs, reverse=turn % 2 == 1):
                try:
                    times, sent = measure(case, options, programs[label])
                except RuntimeError as error:
                    say(f"{name} {label}: {error}")
                    failed = True
                    continue
                least, last, mean = bound(case), max(times.values()), statistics.mean(times.values())
                ratios[label].append((last / least, mean / least))
                print(f"{name:14} {label:8} {last:7.2f} {last / least:7.3f} {case.most:7.2f} {mean / least:7.3f} "
                      f"{sent / (case.size * MEBIBYTE):12.3f}", flush=True)
        for label, all in ratios.items():
            if options.repeat > 1 and all:
                lasts, means = zip(*all)
                print(f"{name:14} {label:8} median {statistics.median(lasts):.3f} (max {max(lasts):.3f}), "
                      f"mean {statistics.median(means):.3f}, {len(all)} runs", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
