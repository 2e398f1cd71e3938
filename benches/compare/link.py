#!/usr/bin/env python3
"""One leecher, one seeder or three: shoal compared with other programs, over loopback.

    benches/compare/link.py                          # everything that is installed, five rounds, results/link.{md,svg}
    benches/compare/link.py --rounds 3 --only shoal,rsync --sections one,small --dry

Builds the release binaries, makes a file of random bytes, starts the senders, and then in each round lets every
program download the file once, so that slow phases of the machine affect all programs alike. Whole processes are
timed, from start to exit. Each received file is compared with the source by its SHA-256 and removed. Everything that
was started is ended, and all files that it made are removed.
"""

import argparse, hashlib, os, shutil, signal, subprocess, sys, tempfile, time
sys.dont_write_bytecode = True
import contenders, rig
from rig import GIBIBYTE, MEBIBYTE, ROOT, Results, Server, say

RESULTS = os.path.join(ROOT, "benches", "results")
SECTIONS = ["one", "small", "three", "publish", "large"]
OURS = contenders.Shoal.name
BARE = os.path.join(ROOT, "target", "release", "examples", "bare")


def flags():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024, metavar="MiB", help="size of the large file")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="which of " + ",".join(SECTIONS))
    parser.add_argument("--only", default="", metavar="NAME,...", help="only programs whose name contains one of these")
    parser.add_argument("--dir", default="/dev/shm", help="where the source and all received files are")
    parser.add_argument("--large-dir", default="/var/tmp", help="where the file of 10 GiB is received")
    parser.add_argument("--no-build", action="store_true", help="the release binaries are there")
    parser.add_argument("--dry", action="store_true", help="print, and leave the results as they are")
    return parser.parse_args()


def build():
    words = ["cargo", "build", "--release", "--quiet", "--bins", "--example", "bare"]
    subprocess.run(words, cwd=ROOT, check=True)


def make_random(path, size):
    with open(path, "wb") as file:
        for _ in range(size // MEBIBYTE):
            file.write(os.urandom(MEBIBYTE))


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def chosen(options, folder, many):
    """The installed programs among those that the options select."""
    wanted = [word for word in options.only.split(",") if word]
    taken, left = [], {}
    for kind in contenders.ALL:
        contender = kind(folder)
        if (many and not kind.many) or (wanted and not any(word in kind.name for word in wanted)):
            continue
        missing = contender.lacks()
        if missing:
            left[kind.name] = f"{missing} is not installed"
        else:
            taken.append(contender)
    return taken, left


def compare(title, options, folder, source, seeders, rounds, left_out):
    """Runs rounds in which every program downloads the file once."""
    results = Results(title, os.path.getsize(source))
    expected = digest(source)
    taken, left = chosen(options, os.path.join(folder, f"run{time.monotonic_ns()}"), seeders > 1)
    left_out.update(left)
    started = []
    try:
        for contender in taken:
            try:
                started.append(contender)
                contender.start(source, seeders)
                results.notes[contender.name] = contender.checks
            except RuntimeError as error:
                say(f"{contender.name} is left out: {error}")
                left_out[contender.name] = "it did not start"
                contender.stop()
                started.remove(contender)
        for number in range(rounds):
            turn = started[number % len(started):] + started[:number % len(started)]
            for contender in turn:
                out = os.path.join(folder, "received")
                cost, path = contender.fetch(out)
                if digest(path) != expected:
                    raise RuntimeError(f"{contender.name} received something else")
                shutil.rmtree(out) if os.path.isdir(out) else os.remove(out)
                results.add(contender.name, cost)
                say(f"{title}, round {number + 1}: {contender.name} {cost.seconds:.4f} s, CPU {cost.cpu:.2f} "
                    f"+ {cost.cpu_servers:.2f} s, peak {cost.peak / MEBIBYTE:.1f} MiB")
    finally:
        for contender in started:
            contender.stop()
    return results


def publish(options, folder, source):
    """Time to hash a file before it is published, over the SHA-256 rate of all cores."""
    size = os.path.getsize(source)
    lines = ["| file in | SHA-256 on all cores, from their caches | the same, as many at once as we do | publishing, from the "
             "page cache | / the first (aim: at least 0.90) | / the second | a seeder from its start until it serves | "
             "CPU s/GiB | peak MiB |", "|---|---|---|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory(prefix="shoal-link-", dir=options.large_dir) as disk:
        copy = shutil.copy(source, disk)
        digest(copy)
        for place, file in ((options.dir, source), (options.large_dir, copy)):
            rounds = [publish_once(folder, file, size) for _ in range(options.rounds * 2)]
            one, many, hashed, share, share_many, whole, cpu, peak = (rig.statistics.median(column)
                                                                      for column in zip(*rounds))
            say(f"publish from {place}: {share:.2f}, {share_many:.2f}")
            lines.append(f"| `{place}` | {one:.2f} GB/s | {many:.2f} GB/s | {hashed:.2f} GB/s | {share:.2f} | "
                         f"{share_many:.2f} | {whole:.2f} s | {cpu:.2f} | {peak:.1f} |")
    return f"{size / GIBIBYTE:.2g} GiB, medians of {options.rounds * 2} rounds.\n\n" + "\n".join(lines)


def publish_once(folder, source, size):
    def words_of(*words):
        return subprocess.run([BARE, *words], check=True, capture_output=True, text=True).stdout.split()

    one, many = (float(word) for word in words_of("rate", str(size)))
    hashed = float(words_of("publish", source)[0])
    words = [os.path.join(ROOT, "target", "release", "seeder"), "-f", source, "-p", "0", "--tracker", "127.0.0.1:9",
             "--log-file", os.path.join(folder, "publish.log")]
    began = time.monotonic()
    seeder = Server(words, os.path.join(folder, "publish.out"), folder)
    try:
        seeder.wait_for("serving ")
        whole = time.monotonic() - began
        rates = (size / seconds / 1e9 for seconds in (one, many, hashed))
        return *rates, one / hashed, many / hashed, whole, seeder.cpu() * GIBIBYTE / size, seeder.peak() / MEBIBYTE
    finally:
        seeder.stop()


def large(options, folder):
    """The memory of a leecher of 10 GiB. Each chunk of the source has bytes at its beginning and is a hole otherwise, so
    that the source takes no room; what is received is written whole."""
    size, piece = 10 * GIBIBYTE, 512 * 1024
    source = os.path.join(folder, "large.bin")
    with open(source, "wb") as file:
        file.truncate(size)
        for at in range(0, size, piece):
            file.seek(at)
            file.write(os.urandom(64))
    shoal = contenders.Shoal(os.path.join(folder, "large"))
    place = tempfile.mkdtemp(prefix="shoal-link-", dir=options.large_dir)
    try:
        shoal.start(source, 3)
        cost, path = shoal.fetch(os.path.join(place, "received"))
        same = digest(path) == digest(source)
    finally:
        shoal.stop()
        shutil.rmtree(place, ignore_errors=True)
        os.remove(source)
    if not same:
        raise RuntimeError("the 10 GiB differ")
    return ("A file of 10 GiB from three seeders, received on a disk, once: "
            f"{cost.seconds:.1f} s, {cost.cpu / 10:.2f} CPU s/GiB receiving, peak of the leecher "
            f"{cost.peak / MEBIBYTE:.1f} MiB (aim: under 64), of a seeder {cost.peak_servers / MEBIBYTE:.1f} MiB.")


def verdicts(sections):
    """Targets and results: medians over the rounds of the ratio within a round."""
    lines = []

    def aim(key, other, what, most=None, least=None, digits=2):
        results = sections.get(key)
        if results and results.has(OURS, other):
            value = results.ratio(OURS, other) if most else results.ratio(other, OURS)
            bound = f"at most {most}" if most else f"at least {least}"
            met = value <= most if most else value >= least
            lines.append(f"| {what} | {bound} | {value:.{digits}f} | {'yes' if met else '**no**'} |")

    aim("one", "nginx + curl + openssl", "one seeder: time / nginx + curl + openssl", most=0.55)
    aim("one", "rsync daemon", "one seeder: time / rsync daemon", most=1.0)
    aim("small", "nginx + curl", "1 MiB: time / curl", most=2.0)
    aim("three", "rqbit", "three seeders: time / rqbit", most=0.5)
    aim("three", "libtorrent", "three seeders: time / libtorrent", most=0.5)
    aim("three", "aria2", "three seeders: time / aria2", most=0.5)
    aim("three", "bare loop", "three seeders: rate / the bare loop's", least=0.8)
    return "\n".join(["| what | aim | measured | met |", "|---|---|---|---|", *lines]) if lines else ""


def measure(options, folder):
    wanted, sections, texts, left_out = options.sections.split(","), {}, {}, {}
    source, small = os.path.join(folder, "source.bin"), os.path.join(folder, "small.bin")
    make_random(source, options.size * MEBIBYTE)
    make_random(small, MEBIBYTE)
    size = f"{options.size / 1024:g} GiB" if options.size % 1024 == 0 else f"{options.size} MiB"
    for key, title, file, seeders, rounds in (
        ("one", f"{size}, one seeder", source, 1, options.rounds),
        ("small", "1 MiB, one seeder", small, 1, options.rounds * 4),
        ("three", f"{size}, three seeders", source, 3, options.rounds),
    ):
        if key in wanted:
            sections[key] = compare(title, options, folder, file, seeders, rounds, left_out)
    if "publish" in wanted:
        texts["Publishing"] = publish(options, folder, source)
    if "large" in wanted:
        texts["Memory with a large file"] = large(options, folder)
    return sections, texts, left_out


def report(options, sections, texts, left_out, load):
    command = "benches/compare/link.py" + "".join(" " + word for word in sys.argv[1:])
    parts = [
        "# One link",
        f"{time.strftime('%Y-%m-%d')}, {rig.machine()}. Command: `{command}`, commit {rig.commit()}. "
        f"Load of the machine before: {load:.1f}. {options.rounds} interleaved rounds ({options.rounds * 4} of the small "
        f"file), medians. The source and what is received are in `{options.dir}` for every program. Whole processes "
        "from start to exit; CPU and peak memory of the receiving side from wait4, of the sending side from /proc. "
        "With one sender the bare loop uses two connections. Ratios compare runs of the same round.",
    ]
    if aims := verdicts(sections):
        parts.append(aims)
    for results in sections.values():
        parts += [f"## {results.title}", results.table(OURS)]
    for title, text in texts.items():
        parts += [f"## {title}", text]
    if left_out:
        parts.append("Left out: " + "; ".join(f"{name} ({why})" for name, why in left_out.items()) + ".")
    return "\n\n".join(parts) + "\n"


def main():
    options = flags()
    # Also when told to end, what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    rig.adopt_orphans()
    if not options.no_build:
        build()
    load = os.getloadavg()[0]
    folder = tempfile.mkdtemp(prefix="shoal-link-", dir=options.dir)
    try:
        sections, texts, left_out = measure(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = report(options, sections, texts, left_out, load)
    print(text)
    if not options.dry:
        os.makedirs(RESULTS, exist_ok=True)
        with open(os.path.join(RESULTS, "link.md"), "w") as file:
            file.write(text)
        if sections:
            with open(os.path.join(RESULTS, "link.svg"), "w") as file:
                title = "Time to fetch a file over loopback: medians, and least to most"
                file.write(rig.plot(sections.values(), OURS, title))


if __name__ == "__main__":
    main()
