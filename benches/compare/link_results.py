"""Results of `link`: the table of one case on one file system, its targets, and the page that keeps all tables."""

import os, statistics
from dataclasses import dataclass, field
from rig import GIBIBYTE, MEBIBYTE

OURS = "shoal"
# Case, other program, largest ratio of times on a machine with SHA-NI and AVX-512.
TARGETS = [
    ("one", "nginx + curl + openssl", 0.45),
    ("one", "nginx + curl, tee, openssl", 0.60),
    ("one", "rsync daemon", 0.90),
    ("three", "nginx + curl + openssl", 0.40),
    ("three", "rqbit", 0.50),
    ("three", "bare loop", 1.25),
    ("torrent", "libtorrent", 0.50),
    ("torrent", "aria2", 0.50),
    ("small", "nginx + curl", 2.0),
]
INTRODUCTION = """# One link

Written by `benches/compare/link.py`; a run replaces the tables of the cases that it measures. Source and targets of all
programs are on the same file system. Before each run the script writes and frees the given amount of memory, on ext4
after a `sync`. The order of the programs rotates. Times are medians, with the least and the most. The time of shoal
ends with its result line, that of other programs with the exit of the last one; "exit" is the time to the exit for
all. CPU seconds are user and system time of all processes, servers and tracker included; divided by the time to the
exit they give "cores busy". Ratios are medians of the ratios within a round. The targets are for machines with SHA-NI
and AVX-512."""


def spread(values, digits=2):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


@dataclass
class Results:
    """The runs of one case on one file system: for each program, one cost for each round."""
    key: str                # of the case
    file_system: str
    title: str
    least: float = 0.0      # seconds that a limit or a link leaves possible
    runs: dict = field(default_factory=dict)
    checks: dict = field(default_factory=dict)

    def add(self, contender, cost):
        self.runs.setdefault(contender.name, []).append(cost)
        self.checks[contender.name] = contender.checks

    def of(self, name, pick):
        return [pick(cost) for cost in self.runs[name]]

    def seconds(self, name):
        return self.of(name, lambda cost: cost.seconds)

    def ratios(self, name, other):
        """The ratios within each round: slow phases of the machine affect both programs."""
        return [a / b for a, b in zip(self.seconds(name), self.seconds(other))]

    def heading(self):
        return f"{self.key}, {self.file_system}: {self.title}"

    def row(self, name):
        def middle(pick):
            return statistics.median(self.of(name, pick))

        digits = 4 if middle(lambda cost: cost.seconds) < 0.1 else 3
        cells = [
            f"**{name}**" if name == OURS else name,
            self.checks[name],
            spread(self.seconds(name), digits),
            f"{middle(lambda cost: cost.seconds_exit):.{digits}f}",
            spread(self.ratios(OURS, name)) if OURS in self.runs and name != OURS else "",
            f"{middle(lambda cost: cost.cpu_all()):.2f}",
            f"{middle(lambda cost: cost.cpu_servers):.2f}",
            f"{middle(lambda cost: cost.cores()):.2f}",
            f"{middle(lambda cost: cost.peak) / MEBIBYTE:.1f}",
            f"{middle(lambda cost: cost.peak_servers) / MEBIBYTE:.1f}",
        ]
        return "| " + " | ".join(cells) + " |"

    def table(self):
        lines = [f"| program | verifies | time, s | exit, s | {OURS} / program | CPU s | of servers | cores busy "
                 "| peak MiB, receiver | peak MiB, sender |", "|" + "---|" * 10]
        names = sorted(self.runs, key=lambda name: statistics.median(self.seconds(name)))
        return "\n".join(lines + [self.row(name) for name in names])

    def targets(self):
        """Lines about the targets of this case, and about the least time."""
        lines = []
        for key, other, most in TARGETS:
            if key == self.key and OURS in self.runs and other in self.runs:
                value = statistics.median(self.ratios(OURS, other))
                lines.append(f"- {OURS} / {other}: {value:.2f}; target at most {most:.2f}: "
                             f"{'met' if value <= most else '**missed**'}")
        if self.least and OURS in self.runs:
            over = [seconds / self.least for seconds in self.seconds(OURS)]
            lines.append(f"- {OURS} / least time at this rate ({self.least:.2f} s): {spread(over, 3)}")
        return "\n".join(lines)


def sections_of(text):
    """The sections of a page, by the key at the beginning of each heading."""
    sections = {}
    for part in text.split("\n## ")[1:]:
        sections[part.split(":", 1)[0]] = "## " + part.strip()
    return sections


def merged(path, sections):
    """The text of the page with these sections in place of the older ones with the same keys."""
    kept = {}
    if os.path.exists(path):
        with open(path) as file:
            kept = sections_of(file.read())
    kept.update(sections_of("\n" + "\n\n".join(sections)))
    return "\n\n".join([INTRODUCTION, *kept.values()]) + "\n"


def size_of(size):
    return f"{size / GIBIBYTE:g} GiB" if size >= GIBIBYTE else f"{size // MEBIBYTE} MiB"
