#!/usr/bin/env python3
"""Small downloads over loopback: time from the start of the programs to the result line.

    cargo build --release
    benches/compare/small.py holders     # 3 MB and 60 MB from two holders: a leecher that serves against --no-serve
    benches/compare/small.py together    # 20 MB to 1, 4 and 20 leechers, started together, against curl + openssl from nginx

The programs of one round run one after the other. Prints the median and the range of each program, the ratio of the
medians, and the ratio of the worst runs. Ends only the processes that it started.
"""

import argparse, hashlib, os, selectors, shutil, statistics, subprocess, sys, tempfile, time
from rig import ROOT, Server, adopt_orphans, free_port, machine

MEGABYTE = 1_000_000
RESULT = b"Successfully downloaded"
PATIENCE = 60


class Swarm:
    """A tracker and seeders of one file."""

    def __init__(self, binaries, folder, source, seeders):
        self.binaries, self.servers = binaries, []
        try:
            self.tracker = f"127.0.0.1:{free_port()}"
            self.serve(["tracker", "--listen", self.tracker], folder, "tracker", r"listening on")
            for number in range(seeders):
                words = ["seeder", "-f", source, "-p", "0", "--tracker", self.tracker]
                self.serve(words, folder, f"seeder{number}", r"registered with")
        except BaseException:
            self.stop()
            raise

    def serve(self, words, folder, name, pattern):
        path = os.path.join(folder, name)
        os.mkdir(path)
        words = [os.path.join(self.binaries, words[0]), *words[1:]]
        server = Server(words, os.path.join(path, "output"), path)
        self.servers.append(server)
        server.wait_for(pattern)

    def leecher(self, *flags):
        return [os.path.join(self.binaries, "leecher"), "file.bin", "--tracker", self.tracker, *flags]

    def stop(self):
        for server in reversed(self.servers):
            server.stop()


def measure(words, count, folder, until_exit, digest):
    """Starts `count` programs together; returns the seconds until the last has printed its result, or has ended."""
    root = tempfile.mkdtemp(dir=folder)
    processes, selector = [], selectors.DefaultSelector()
    try:
        folders = [os.path.join(root, str(number)) for number in range(count)]
        for path in folders:
            os.mkdir(path)
        began = time.monotonic()
        for path in folders:
            process = subprocess.Popen(words, cwd=path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.DEVNULL)
            processes.append(process)
            selector.register(process.stdout, selectors.EVENT_READ, process)
        waiting, last, text = {process.pid for process in processes}, began, {}
        while waiting:
            ready = selector.select(began + PATIENCE - time.monotonic())
            if not ready:
                raise RuntimeError(f"{words[0]}: {len(waiting)} of {count} do not end")
            for key, _ in ready:
                process, piece = key.data, os.read(key.fileobj.fileno(), 4096)
                text[process.pid] = text.get(process.pid, b"") + piece
                if not piece:
                    selector.unregister(key.fileobj)
                if process.pid in waiting and (not piece if until_exit else RESULT in text[process.pid]):
                    waiting.discard(process.pid)
                    last = time.monotonic()
                elif not piece and process.pid in waiting:
                    raise RuntimeError(f"{words[0]} has failed")
        for path in folders:
            with open(os.path.join(path, "file.bin"), "rb") as file:
                if hashlib.sha256(file.read()).hexdigest() != digest:
                    raise RuntimeError(f"{words[0]} has received something else")
        return last - began
    finally:
        for process in processes:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        selector.close()
        shutil.rmtree(root, ignore_errors=True)


def report(title, runs, first, second):
    def shown(name):
        seconds = runs[name]
        return f"{name} {statistics.median(seconds):.4f} ({min(seconds):.4f} - {max(seconds):.4f})"

    medians = statistics.median(runs[first]) / statistics.median(runs[second])
    pairs = sorted(a / b for a, b in zip(runs[first], runs[second]))
    quarter = len(pairs) // 4
    print(f"{title}: {shown(first)}, {shown(second)} s; ratio of medians {medians:.2f}, of worst runs "
          f"{max(runs[first]) / max(runs[second]):.2f}; ratio in a round {pairs[len(pairs) // 2]:.2f} "
          f"({pairs[quarter]:.2f} - {pairs[-1 - quarter]:.2f})", flush=True)


def interleaved(rounds, programs):
    """Measures each program once per round, in alternating order."""
    runs = {name: [] for name, _ in programs}
    for number in range(rounds):
        for name, run in programs if number % 2 == 0 else reversed(programs):
            runs[name].append(run())
    return runs


def make(folder, megabytes):
    source = os.path.join(folder, "file.bin")
    content = os.urandom(megabytes * MEGABYTE)
    with open(source, "wb") as file:
        file.write(content)
    # A seeder waits until a file that was just written no longer changes.
    os.utime(source, (time.time() - 60, time.time() - 60))
    return source, hashlib.sha256(content).hexdigest()


def holders(options, folder):
    for megabytes in options.size or [3, 60]:
        place = tempfile.mkdtemp(dir=folder)
        source, digest = make(place, megabytes)
        swarm = Swarm(options.binaries, place, source, 2)
        try:
            def run(*flags):
                return measure(swarm.leecher(*flags), 1, place, False, digest)

            runs = interleaved(options.rounds or 21, [("serving", run), ("--no-serve", lambda: run("--no-serve"))])
            report(f"{megabytes} MB from two holders", runs, "serving", "--no-serve")
        finally:
            swarm.stop()
            shutil.rmtree(place, ignore_errors=True)


def together(options, folder):
    for tool in ("nginx", "curl", "openssl"):
        if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin"):
            sys.exit(f"{tool} is not installed: apt-get install nginx-light curl openssl")
    source, digest = make(folder, (options.size or [20])[0])
    port = free_port()
    config = os.path.join(folder, "nginx.conf")
    with open(config, "w") as file:
        file.write(f"""
            daemon off; {"user root;" if os.geteuid() == 0 else ""} worker_processes auto; pid {folder}/nginx.pid;
            error_log stderr; events {{ worker_connections 64; }}
            http {{ access_log off; sendfile on; tcp_nopush on;
              server {{ listen 127.0.0.1:{port}; root {folder}; }} }}
        """)
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    server = Server([nginx, "-p", folder, "-c", config, "-e", "stderr"], os.path.join(folder, "nginx.out"), folder)
    swarm = None
    try:
        server.wait_for_port(port)
        swarm = Swarm(options.binaries, folder, source, 1)
        curl = ["/bin/sh", "-c", f"curl -sSf -o file.bin http://127.0.0.1:{port}/file.bin && openssl dgst -sha256 file.bin"]
        for count in options.leechers:
            def shoal():
                return measure(swarm.leecher(), count, folder, False, digest)

            def other():
                return measure(curl, count, folder, True, digest)

            runs = interleaved(options.rounds or 11, [("leecher", shoal), ("curl + openssl", other)])
            report(f"20 MB to {count} together", runs, "leecher", "curl + openssl")
    finally:
        if swarm:
            swarm.stop()
        server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["holders", "together"])
    parser.add_argument("--rounds", type=int, help="default: 21 with two holders, 11 together")
    parser.add_argument("--size", type=int, nargs="+", help="MB; default: 3 and 60 with two holders, 20 together")
    parser.add_argument("--leechers", type=int, nargs="+", default=[1, 4, 20])
    parser.add_argument("--folder", help="where the files go; the system's temporary folder by default")
    parser.add_argument("--binaries", default=os.path.join(ROOT, "target", "release"), help="where the programs are")
    options = parser.parse_args()
    options.binaries = os.path.abspath(options.binaries)
    adopt_orphans()
    print(machine(), flush=True)
    folder = tempfile.mkdtemp(prefix="small-", dir=options.folder)
    try:
        (holders if options.case == "holders" else together)(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
