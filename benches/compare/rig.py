"""Parts of all comparisons: processes that are measured and ended, tables, plots.

Invariants: only processes that were started here are ended, by process id; the cost of a program is that which the
system counted for exactly this program (wait4), without the shell that started it.
"""

import ctypes, os, platform, re, signal, socket, statistics, subprocess, sys, time
from dataclasses import dataclass, field

MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_CHILD_SUBREAPER = 36


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def adopt_orphans():
    """Makes orphaned descendants children of this process, so that wait4 accounts for them.

    A program that is started from here directly would begin its life with the memory of this interpreter, and the
    peak that the system reports would never be less than that. Started by a shell, it begins with the shell's.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def start(words, output, folder):
    """Starts a program with its output in a file; returns its process id."""
    script = 'out=$1; shift; "$@" >"$out" 2>&1 </dev/null & echo $!'
    shell = subprocess.run(["/bin/sh", "-c", script, "sh", output, *words], cwd=folder, check=True,
                           stdout=subprocess.PIPE, text=True)
    return int(shell.stdout)


def text_of(path):
    with open(path, errors="replace") as file:
        return file.read()


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Cost:
    """Cost of one run."""
    seconds: float = 0.0
    cpu: float = 0.0            # of the receiving side
    peak: int = 0               # of the receiving side, bytes resident
    cpu_servers: float = 0.0    # of all sending processes together
    peak_servers: int = 0       # of the largest of them


def run(steps, output, folder):
    """Runs programs one after the other and adds up their cost. Raises an error if one fails."""
    cost, began = Cost(), time.monotonic()
    for words in steps:
        _, status, used = os.wait4(start(words, output, folder), 0)
        if status != 0:
            code = os.waitstatus_to_exitcode(status)
            raise RuntimeError(f"{words[0]} ended with {code}: {text_of(output)[-600:]}")
        cost.cpu += used.ru_utime + used.ru_stime
        cost.peak = max(cost.peak, used.ru_maxrss * 1024)
    cost.seconds = time.monotonic() - began
    return cost


class Server:
    """A process that runs until it is stopped."""

    def __init__(self, words, output, folder):
        self.output, self.name = output, os.path.basename(words[0])
        self.pid = start(words, output, folder)

    def wait_for(self, pattern, patience=120):
        """Waits until the output has something; returns the match."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if match := re.search(pattern, text_of(self.output)):
                return match
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                self.pid = None
                break
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} did not start: {text_of(self.output)[-600:]}")

    def wait_for_port(self, port, patience=30):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"{self.name} does not listen on {port}: {text_of(self.output)[-600:]}")

    def _family(self):
        family = [self.pid]
        for pid in family:
            try:
                with open(f"/proc/{pid}/task/{pid}/children") as file:
                    family += [int(child) for child in file.read().split()]
            except OSError:
                pass
        return family

    def cpu(self):
        """Seconds so far, of the process and those that it has started."""
        ticks = 0
        for pid in self._family():
            try:
                with open(f"/proc/{pid}/stat") as file:
                    fields = file.read().rsplit(")", 1)[1].split()
                ticks += sum(int(value) for value in fields[11:15])
            except OSError:
                pass
        return ticks / TICKS

    def peak(self):
        """Most memory resident at once so far, of the largest of them, bytes."""
        peaks = [0]
        for pid in self._family():
            try:
                found = re.search(r"VmHWM:\s+(\d+)", text_of(f"/proc/{pid}/status"))
                peaks.append(int(found.group(1)) * 1024 if found else 0)
            except OSError:
                pass
        return max(peaks)

    def stop(self):
        if self.pid is None:
            return
        for sign, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            try:
                os.kill(self.pid, sign)
            except ProcessLookupError:
                break
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                if os.waitpid(self.pid, os.WNOHANG)[0]:
                    self.pid = None
                    return
                time.sleep(0.02)


@dataclass
class Results:
    """The runs of one setting: for each program, one cost for each round."""
    title: str
    size: int
    runs: dict = field(default_factory=dict)
    notes: dict = field(default_factory=dict)

    def add(self, name, cost):
        self.runs.setdefault(name, []).append(cost)

    def seconds(self, name):
        return [cost.seconds for cost in self.runs[name]]

    def median(self, name):
        return statistics.median(self.seconds(name))

    def ratio(self, name, other):
        """The median of the ratio within a round: slow phases of the machine affect both programs."""
        return statistics.median(a / b for a, b in zip(self.seconds(name), self.seconds(other)))

    def has(self, *names):
        return all(name in self.runs for name in names)

    def table(self, ours):
        small = self.size < 64 * MEBIBYTE
        unit, per = ("CPU ms", 1000) if small else ("CPU s/GiB", GIBIBYTE / self.size)
        lines = [
            f"| program | checks | seconds (least - most) | {ours} / it | {unit} receiving | {unit} sending"
            " | peak MiB receiving | peak MiB of a sender |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name in sorted(self.runs, key=self.median):
            runs, seconds = self.runs[name], self.seconds(name)

            def middle(pick):
                return statistics.median(pick(cost) for cost in runs)

            digits = 4 if small else 3
            cells = [
                f"**{name}**" if name == ours else name,
                self.notes.get(name, ""),
                f"{self.median(name):.{digits}f} ({min(seconds):.{digits}f} - {max(seconds):.{digits}f})",
                f"{self.ratio(ours, name):.2f}" if ours in self.runs and ours != name else "",
                f"{middle(lambda cost: cost.cpu) * per:.2f}",
                f"{middle(lambda cost: cost.cpu_servers) * per:.2f}",
                f"{middle(lambda cost: cost.peak) / MEBIBYTE:.1f}",
                f"{middle(lambda cost: cost.peak_servers) / MEBIBYTE:.1f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)


def capture(*words):
    try:
        return subprocess.run(words, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    except OSError:
        return ""


def machine():
    """The machine in one line: processor, cores, memory, kernel."""
    model = re.search(r"model name\s*:\s*(.*)", text_of("/proc/cpuinfo"))
    memory = int(re.search(r"MemTotal:\s+(\d+)", text_of("/proc/meminfo")).group(1)) * 1024
    instructions = "with" if re.search(r"\bsha_ni\b", text_of("/proc/cpuinfo")) else "without"
    return (f"{os.cpu_count()} cores ({model.group(1) if model else platform.machine()}, {instructions} SHA-NI), "
            f"{memory / GIBIBYTE:.0f} GiB, Linux {platform.release()}")


def commit():
    changed = capture("git", "status", "--porcelain", "--", "src", "bin", "Cargo.toml", "Cargo.lock")
    return capture("git", "rev-parse", "--short", "HEAD") + (" and what is not committed" if changed else "")


def plot(sections, ours, title):
    """Bars, one for each program, in one group for each setting: each group on a scale of its own."""
    left, right, row, gap, width = 250, 90, 22, 54, 820
    parts, y = [], 44
    for results in sections:
        parts.append(f'<text x="12" y="{y + 4}" class="group">{results.title}</text>')
        y += 14
        longest = max(max(results.seconds(name)) for name in results.runs)
        scale = (width - left - right) / longest
        for name in sorted(results.runs, key=results.median):
            middle, least, most = results.median(name), min(results.seconds(name)), max(results.seconds(name))
            label = f"{middle:.4f} s" if middle < 0.1 else f"{middle:.2f} s"
            kind = "ours" if name == ours else "other"
            parts.append(
                f'<text x="{left - 8}" y="{y + 15}" class="name">{name}</text>'
                f'<rect x="{left}" y="{y + 3}" width="{middle * scale:.1f}" height="{row - 6}" class="{kind}"/>'
                f'<line x1="{left + least * scale:.1f}" x2="{left + most * scale:.1f}" y1="{y + row / 2}"'
                f' y2="{y + row / 2}" class="range"/>'
                f'<text x="{left + most * scale + 6:.1f}" y="{y + 15}">{label}</text>'
            )
            y += row
        y += gap - 20
    style = (
        "text{font:13px sans-serif;fill:#222}.group,.title{font-weight:bold}.title{font-size:15px}"
        ".name{text-anchor:end}.ours{fill:#1f77b4}.other{fill:#b8c4ce}.range{stroke:#333;stroke-width:1.5}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="12" y="22" class="title">{title}</text>' + "\n".join(parts) + "</svg>\n"
    )
