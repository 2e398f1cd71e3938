#!/usr/bin/env python3
"""Folders: many small files, and few large ones, against one file of the same size and against other programs.

    cargo build --release
    benches/compare/folders.py publish   # from the start of `seeder PATH` to its line "serving": folder against one file
    benches/compare/folders.py receive   # from the start of the receiver to its end: leecher, rsync -a, tar | tee | nc

The programs of one round run one after the other, in alternating order. `receive` compares the received folder with the
source: names, kinds, content, permissions and modification times. Its contender tar hashes the stream while it extracts it.
Prints the median and the range of each program, the ratio to the first one, and the peak memory of ours. Ends only the
processes that it started.
"""

import argparse, os, shutil, statistics, subprocess, sys, tempfile, time
from rig import ROOT, Server, adopt_orphans, free_port, machine

MEBIBYTE = 1 << 20


def make(folder, count, size):
    """A folder with `count` files of `size` bytes in subfolders of 1,000, and one file with all bytes."""
    tree = os.path.join(folder, "tree")
    os.mkdir(tree)
    with open(os.path.join(folder, "file.bin"), "wb") as whole:
        for number in range(count):
            below = os.path.join(tree, f"{number // 1000:04}")
            if number % 1000 == 0:
                os.mkdir(below)
            content = os.urandom(size)
            with open(os.path.join(below, f"file-{number:06}"), "wb") as file:
                file.write(content)
            whole.write(content)
    past = time.time() - 60
    os.utime(os.path.join(folder, "file.bin"), (past, past))
    return tree


def different(one, other):
    """Compares two folders in full; returns the first difference."""
    words = ["rsync", "-a", "--checksum", "--delete", "--dry-run", "--itemize-changes", one + "/", other + "/"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\n")[0]


class Programs:
    def __init__(self, options, folder):
        self.binaries, self.folder, self.tree = options.binaries, folder, os.path.join(folder, "tree")
        self.peak = {}

    def program(self, name):
        return os.path.join(self.binaries, name)

    def seeder(self, what):
        """Starts a seeder; returns it and the seconds until it serves."""
        place = tempfile.mkdtemp(dir=self.folder)
        words = [self.program("seeder"), os.path.join(self.folder, what), "--listen", "127.0.0.1", "-p", "0", "--no-discovery"]
        began = time.monotonic()
        server = Server(words, os.path.join(place, "output"), place)
        address = server.wait_for(r"serving [^\n]*\n[^\n]*listening on (\S+)").group(1)
        return server, time.monotonic() - began, address

    def publish(self, what):
        server, seconds, _ = self.seeder(what)
        self.peak[what] = max(self.peak.get(what, 0), server.peak())
        server.stop()
        return seconds

    def timed(self, words, check):
        place = tempfile.mkdtemp(dir=self.folder)
        try:
            began = time.monotonic()
            done = subprocess.run(words, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            seconds = time.monotonic() - began
            if done.returncode != 0:
                raise RuntimeError(f"{words[0]}: {done.stdout[-600:]}")
            if check and (found := different(self.tree, os.path.join(place, "tree"))):
                raise RuntimeError(f"{words[0]} has received something else: {found}")
            return seconds
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def leecher(self, address, what):
        words = [self.program("leecher"), what, "--tracker", address, "--no-serve", "--no-discovery"]
        return self.timed(words, what == "tree")


def report(title, runs):
    first = next(iter(runs))
    for name, seconds in runs.items():
        ratio = statistics.median(runs[first]) / statistics.median(seconds)
        print(f"{title}: {name} {statistics.median(seconds):.3f} ({min(seconds):.3f} - {max(seconds):.3f}) s; "
              f"{first} takes {ratio:.2f} times as long", flush=True)


def interleaved(rounds, programs):
    runs = {name: [] for name, _ in programs}
    for number in range(rounds):
        for name, run in programs if number % 2 == 0 else reversed(programs):
            runs[name].append(run())
    return runs


def receive(options, programs, title):
    servers = []
    try:
        folder, _, address = programs.seeder("tree")
        servers.append(folder)
        whole, _, whole_address = programs.seeder("file.bin")
        servers.append(whole)
        port = free_port()
        config = os.path.join(programs.folder, "rsyncd.conf")
        with open(config, "w") as file:
            # A daemon of root would read as nobody.
            user = "uid = root\ngid = root\n" if os.geteuid() == 0 else ""
            file.write(f"use chroot = no\naddress = 127.0.0.1\nport = {port}\nlog file = /dev/null\n{user}"
                       f"[data]\npath = {programs.folder}\n")
        rsync = Server(["rsync", "--daemon", "--no-detach", f"--config={config}"],
                       os.path.join(programs.folder, "rsync.out"), programs.folder)
        servers.append(rsync)
        rsync.wait_for_port(port)
        cases = [("folder", lambda: programs.leecher(address, "tree")),
                 ("one file", lambda: programs.leecher(whole_address, "file.bin")),
                 ("rsync -a", lambda: programs.timed(["rsync", "-a", f"rsync://127.0.0.1:{port}/data/tree", "."], True))]
        if shutil.which("nc") and shutil.which("openssl"):
            def tar():
                port = free_port()
                send = f"tar cf - -C {programs.folder} tree | nc -l 127.0.0.1 {port} -N"
                sender = subprocess.Popen(["/bin/bash", "-c", send])
                try:
                    ready = f"until ss -Hltn 'sport = :{port}' | grep -q .; do sleep 0.01; done"
                    get = f"nc -d 127.0.0.1 {port} | tee >(openssl sha256 > sum) | tar xf -"
                    script = f"set -e -o pipefail; {ready}; {get}; rm -f sum"
                    return programs.timed(["/bin/bash", "-c", script], True)
                finally:
                    sender.wait()

            cases.append(("tar, nc, sha256", tar))
        report(title, interleaved(options.rounds, cases))
    finally:
        for server in servers:
            server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["publish", "receive"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=100_000, help="number of files")
    parser.add_argument("--size", type=int, default=4096, help="size of each file, bytes")
    parser.add_argument("--folder", default="/dev/shm", help="where the files go; on tmpfs by default")
    parser.add_argument("--binaries", default=os.path.join(ROOT, "target", "release"), help="where the programs are")
    options = parser.parse_args()
    options.binaries = os.path.abspath(options.binaries)
    if not shutil.which("rsync"):
        sys.exit("rsync is not installed: apt-get install rsync")
    adopt_orphans()
    print(machine(), flush=True)
    folder = tempfile.mkdtemp(prefix="folders-", dir=options.folder)
    try:
        make(folder, options.files, options.size)
        programs = Programs(options, folder)
        title = f"{options.files} files of {options.size} bytes"
        if options.case == "receive":
            receive(options, programs, title)
        else:
            runs = interleaved(options.rounds, [("folder", lambda: programs.publish("tree")),
                                                ("one file", lambda: programs.publish("file.bin"))])
            report(title, runs)
            for what, peak in programs.peak.items():
                print(f"peak memory of the seeder of {what}: {peak / MEBIBYTE:.0f} MiB")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
