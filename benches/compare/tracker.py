#!/usr/bin/env python3
"""A tracker on one core under load from the other core: shoal compared with opentracker, over loopback.

    benches/compare/tracker.py                           # 10^3 to 10^6 peers, five rounds, results/tracker.{md,svg}
    benches/compare/tracker.py --peers 10000 --rounds 2 --dry

Builds the release binaries, starts each tracker on the first core, and `tools/load` on the second. The load fills
both with the same number of peers and files, and then asks them in turns, with the same number of datagrams in flight:
heartbeats, lookups with 30 addresses in the answer, and announcements to opentracker with 30 addresses wanted (BEP 15,
its only way to ask). Every answer is checked. A third program, which only echoes datagrams, shows the cost of the
system calls alone. Everything that was started is ended, by its process id, and everything that was made is removed.

Answers are counted per second, and per second of the tracker's processor time: the second number stays valid while
other programs use the core.
"""

import argparse, datetime, json, os, platform, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RESULTS = os.path.join(ROOT, "benches", "results")
SHARE = 100  # Peers to a file.
MEBIBYTE = 1 << 20


def flags():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="1000,10000,100000,1000000", metavar="N,...")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each kind in each round")
    parser.add_argument("--depth", type=int, default=8, help="datagrams in flight from each of 16 sockets")
    parser.add_argument("--no-build", action="store_true", help="the release binaries are there")
    parser.add_argument("--dry", action="store_true", help="print, and leave the results as they are")
    return parser.parse_args()


def free_port():
    """A port that is free for both TCP and UDP."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            try:
                two.bind(one.getsockname())
                return one.getsockname()[1]
            except OSError:
                continue


def torrents(path, count):
    """Hashes that opentracker accepts: the same as `tools/load/theirs.rs` makes."""
    with open(path, "w") as file:
        for number in range(count):
            file.write((number * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big").hex() + "ab" * 12 + "\n")


class Started:
    """Programs on the first core, each with its address."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []

    def start(self, words, **more):
        log = open(os.path.join(self.folder, f"output-{len(self.processes)}"), "w+")
        words = ["taskset", "-c", "0", *words]
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=self.folder, **more)
        self.processes.append(process)
        time.sleep(0.5)
        if process.poll() is not None:
            log.seek(0)
            raise RuntimeError(f"{words[3]} has ended: {log.read()}")
        return str(process.pid)

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()


def measure(options, peers, release):
    """The lines of one run of the load."""
    files = max(1, peers // SHARE)
    folder = tempfile.mkdtemp(prefix="shoal-tracker-")
    started = Started(folder)
    try:
        ours, echo = (f"127.0.0.1:{free_port()}" for _ in range(2))
        # Nobody's lease ends meanwhile, and a line for each peer that joins is not what is measured.
        words = [f"{release}/tracker", "--listen", ours, "--heartbeat", "1200", "--lease", "3600", "-qq"]
        quiet = dict(os.environ, RUST_LOG="warn")
        load = [f"{release}/examples/load", "--ours", ours, "--ours-pid", started.start(words, env=quiet)]
        load += ["--echo", echo, "--echo-pid", started.start([f"{release}/examples/load", "--serve-echo", echo])]
        if shutil.which("opentracker"):
            torrents(os.path.join(folder, "torrents"), files)
            os.chmod(folder, 0o755)
            port = str(free_port())
            words = ["opentracker", "-i", "127.0.0.1", "-p", port, "-P", port, "-d", folder, "-w", "torrents"]
            load += ["--theirs", f"127.0.0.1:{port}", "--theirs-pid", started.start(words)]
        load += ["--peers", str(peers), "--files", str(files), "--rounds", str(options.rounds)]
        load += ["--seconds", str(options.seconds), "--depth", str(options.depth)]
        lines = []
        process = subprocess.Popen(["taskset", "-c", "1", *load], stdout=subprocess.PIPE, text=True)
        started.processes.append(process)
        for line in process.stdout:
            lines.append(json.loads(line))
            print(line, end="", file=sys.stderr)
        if process.wait() != 0:
            raise RuntimeError("the load has failed")
        return lines
    finally:
        started.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Run:
    """Results for one number of peers."""

    def __init__(self, peers, lines):
        self.peers, self.lines = peers, lines

    def all(self, system, kind, what):
        return [line[what] for line in self.lines if (line["system"], line["kind"]) == (system, kind)]

    def middle(self, system, kind, what):
        values = self.all(system, kind, what)
        return statistics.median(values) if values else None

    def ratio(self, one, other, what):
        """The median over the rounds of the ratio within a round."""
        pairs = list(zip(self.all(*one, what), self.all(*other, what)))
        return statistics.median(a / b for a, b in pairs) if pairs else None

    def memory(self, system):
        values = [line["resident_kib"] for line in self.lines if line["system"] == system]
        return max(values) / 1024 if values else None


BEAT, BY_ID, BY_NAME = ("shoal", "heartbeat"), ("shoal", "lookup by id"), ("shoal", "lookup by name")
THEIRS, ECHO = ("other", "announce"), ("echo", "echo")


def number(value, digits=0):
    return "-" if value is None else f"{value:,.{digits}f}"


def rates(runs, what):
    lines = ["| peers | files | heartbeats | lookups by id | lookups by name | opentracker, announces | bare echo "
             "| lookups by id / opentracker | heartbeats / echo |", "|---" * 9 + "|"]
    for run in runs:
        cells = [number(run.peers), number(run.lines[0]["files"])]
        cells += [number(run.middle(*which, what)) for which in (BEAT, BY_ID, BY_NAME, THEIRS, ECHO)]
        cells += [number(run.ratio(BY_ID, THEIRS, what), 2), number(run.ratio(BEAT, ECHO, what), 2)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def space(runs):
    lines = ["| peers | shoal, MiB resident | bytes a peer | opentracker, MiB resident | registrations/s | first announces/s "
             "| lost of all datagrams |", "|---" * 7 + "|"]
    for run in runs:
        empty = run.all("shoal", "cookies", "resident_kib")[0] * 1024
        ours = run.memory("shoal")
        lost = sum(line["lost"] for line in run.lines) / sum(line["answered"] for line in run.lines)
        cells = [number(run.peers), number(ours, 1), number((ours * MEBIBYTE - empty) / run.peers),
                 number(run.memory("other"), 1)]
        cells += [number(run.middle("shoal", kind, "per_cpu_second")) for kind in ("register", "first announce")]
        lines.append("| " + " | ".join([*cells, f"{100 * lost:.3f} %"]) + " |")
    return "\n".join(lines)


def verdicts(runs):
    most = runs[-1]
    beats = [max(run.middle(*BEAT, what) for run in runs) for what in ("per_second", "per_cpu_second")]
    lines = ["| what | aim | measured | met |", "|---|---|---|---|"]

    def aim(what, bound, shown, met):
        lines.append(f"| {what} | {bound} | {shown} | {'yes' if met else '**no**'} |")

    aim("heartbeats/s on one core, best number of peers", "300,000", number(beats[0]), beats[0] >= 300_000)
    aim("heartbeats a second of processor time, the same", "300,000", number(beats[1]), beats[1] >= 300_000)
    for what, unit in (("per_second", "by the second"), ("per_cpu_second", "by processor time")):
        shares = [run.ratio(BY_ID, THEIRS, what) for run in runs]
        if None not in shares:
            aim(f"lookups / opentracker's announces, {unit}, worst", "0.50", f"{min(shares):.2f}", min(shares) >= 0.5)
    if most.peers >= 1_000_000:
        aim(f"memory for {most.peers:,} peers", "200 MiB", f"{most.memory('shoal'):.0f} MiB", most.memory("shoal") <= 200)
    return "\n".join(lines)


def processor():
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores, Linux {platform.release()}"


def panel(left, title, unit, curves):
    """One diagram: lines over the number of peers, both axes by powers of ten."""
    import math
    width, height, top = 340, 240, 40
    points = [point for _, _, curve in curves for point in curve]
    low, high = (f(math.log10(y) for _, y in points) for f in (min, max))
    low, high = math.floor(low), math.ceil(high + 1e-9)
    first, last = (f(math.log10(x) for x, _ in points) for f in (min, max))

    def at(x, y):
        across = (math.log10(x) - first) / max(last - first, 1e-9)
        return left + across * width, top + height * (1 - (math.log10(y) - low) / (high - low))

    out = [f'<text x="{left}" y="20" font-weight="bold">{title}</text>']
    for power in range(low, high + 1):
        y = at(10**first, 10.0**power)[1]
        out.append(f'<path d="M{left} {y:.1f}h{width}" stroke="#ddd"/>'
                   f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:,.0f} {unit}</text>')
    for x in sorted({x for x, _ in points}):
        out.append(f'<text x="{at(x, 10.0**low)[0]:.1f}" y="{top + height + 18}" text-anchor="middle">{x:,}</text>')
    for row, (name, colour, curve) in enumerate(curves):
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in curve))
        out.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{left}" y="{top + height + 42 + 16 * row}" fill="{colour}">{name}</text>')
    return "\n".join(out)


def plot(runs):
    def curve(name, colour, of):
        points = [(run.peers, of(run)) for run in runs]
        return (name, colour, [point for point in points if point[1]])

    def rate(which):
        return lambda run: run.middle(*which, "per_cpu_second")

    speeds = [curve("heartbeats", "#0a7", rate(BEAT)), curve("lookups by id", "#06c", rate(BY_ID)),
              curve("lookups by name", "#69c", rate(BY_NAME)), curve("opentracker, announces", "#c40", rate(THEIRS)),
              curve("bare echo", "#888", rate(ECHO))]
    sizes = [curve("shoal, resident", "#06c", lambda run: run.memory("shoal")),
             curve("opentracker, resident", "#c40", lambda run: run.memory("other"))]
    panels = [panel(80, "Answers a second of processor time, by peers", "", [c for c in speeds if c[2]]),
              panel(520, "Memory, by peers", "MiB", [c for c in sizes if c[2]])]
    return ('<svg xmlns="http://www.w3.org/2000/svg" width="900" height="400" font-family="sans-serif" font-size="11">'
            '\n<rect width="900" height="400" fill="white"/>\n' + "\n".join(panels) + "\n</svg>\n")


def main():
    options = flags()
    # What was started is ended, and what was made removed, also then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not options.no_build:
        words = ["cargo", "build", "--release", "--quiet", "--bin", "tracker", "--example", "load"]
        subprocess.run(words, cwd=ROOT, check=True)
    release = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release")
    before = os.getloadavg()[0]
    runs = [Run(peers, measure(options, peers, release)) for peers in map(int, options.peers.split(","))]
    command = " ".join(["benches/compare/tracker.py", *sys.argv[1:]])
    text = f"""# The tracker under load

`{command}`, {datetime.date.today()}, on {processor()}. The trackers had one core and the load the other;
{options.rounds} interleaved rounds of {options.seconds:g} s each, medians; 16 sockets with {options.depth} datagrams in flight each.
Other programs wanted the machine as well: the load average was {before:.1f} before and {os.getloadavg()[0]:.1f} after.
All answers were checked: {WANTED_NOTE}

{verdicts(runs)}

Answers a second:

{rates(runs, "per_second")}

Answers a second of processor time that the tracker has had, which other programs disturb less:

{rates(runs, "per_cpu_second")}

Filling, by processor time, and memory:

{space(runs)}

![curves](tracker.svg)
"""
    print(text)
    if not options.dry:
        os.makedirs(RESULTS, exist_ok=True)
        for name, content in (("tracker.md", text), ("tracker.svg", plot(runs))):
            with open(os.path.join(RESULTS, name), "w") as file:
                file.write(content)


WANTED_NOTE = "a lookup's holds exactly 30 addresses of the file that was asked for, an announce's exactly 30."

if __name__ == "__main__":
    main()
