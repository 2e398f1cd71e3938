#!/usr/bin/env python3
"""Download over a link with a long round-trip time: one seeder, one leecher, compared with curl.

Two network namespaces are joined by a `tun` device. This script forwards its packets with a limited rate, a queue of
one bandwidth-delay product, and a delay of half the round-trip time. Whole processes are timed, from start to exit;
each received file is compared. Needs root, `ip`, `curl` and /dev/net/tun. Removes what it made, and ends only the
processes that it started.

    cargo build --release
    benches/compare/far.py                               # a few links, some minutes
    benches/compare/far.py --rate 200 --rtt 50 --size 64 --repeat 3

Prints the time of each program over the transmission time of the file.
"""

import argparse, collections, fcntl, filecmp, multiprocessing, os, select, shutil, signal, statistics, struct
import subprocess, sys, tempfile, time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
HERE = os.path.dirname(os.path.abspath(__file__))
# Mbit/s, milliseconds there and back, MiB.
LINKS = [(200, 10, 64), (200, 50, 64), (500, 100, 128), (200, 200, 64)]
SERVER, CLIENT, TRACKER_PORT, SEEDER_PORT, HTTP_PORT = "10.79.0.1", "10.79.0.2", "7000", "7001", "8000"


def run(*command):
    subprocess.run(command, check=True)


def carry(source, target, rate, rtt):
    """Forwards packets from one device to the other like a link. Ends with its devices."""
    queue, free = collections.deque(), 0.0
    room = max(rtt, 0.02)
    poll = select.poll()
    poll.register(source, select.POLLIN)
    while True:
        now = time.monotonic()
        while queue and queue[0][0] <= now:
            packet = queue.popleft()[1]
            try:
                os.write(target, packet)
            except BlockingIOError:
                pass
            except OSError:
                return
        wait = (queue[0][0] - now) * 1000 if queue else 1000
        if wait < 1:
            time.sleep(wait / 1000)
        elif not poll.poll(wait):
            continue
        try:
            while True:
                packet = os.read(source, 65536)
                now = time.monotonic()
                if free - now <= room:
                    free = max(now, free) + len(packet) / rate
                    queue.append((free + rtt / 2, packet))
        except BlockingIOError:
            pass
        except OSError:
            return


class Link:
    """Two namespaces and the link between them."""

    def __init__(self, rate, rtt):
        self.names = [f"shoal-far-{os.getpid()}-{end}" for end in "ab"]
        self.started, self.carriers, self.devices, self.made = [], [], [], []
        try:
            for name, address in zip(self.names, (SERVER, CLIENT)):
                run("ip", "netns", "add", name)
                self.made.append(name)
                device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
                self.devices.append(device)
                call = f"far{len(self.devices)}p{os.getpid()}"
                fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH14s", call.encode(), IFF_TUN | IFF_NO_PI, b""))
                run("ip", "link", "set", call, "netns", name)
                inside = ["ip", "-n", name]
                run(*inside, "link", "set", "lo", "up")
                run(*inside, "link", "set", call, "mtu", "9000", "txqueuelen", "10000", "up")
                run(*inside, "addr", "add", f"{address}/24", "dev", call)
            for source, target in (self.devices, self.devices[::-1]):
                carrier = multiprocessing.Process(target=carry, args=(source, target, rate, rtt), daemon=True)
                carrier.start()
                self.carriers.append(carrier)
        except BaseException:
            self.close()
            raise

    def inside(self, end, *command):
        return ["ip", "netns", "exec", self.names[end], *command]

    def start(self, *command):
        # `ip netns exec` becomes the command itself, so that ending this process ends that.
        process = subprocess.Popen(self.inside(0, *command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.started.append(process)

    def time(self, *command):
        began = time.monotonic()
        subprocess.run(self.inside(1, *command), check=True, timeout=300, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        return time.monotonic() - began

    def close(self):
        for process in self.started:
            process.send_signal(signal.SIGTERM)
        for process in self.started:
            process.wait()
        for carrier in self.carriers:
            carrier.terminate()
            carrier.join()
        for device in self.devices:
            os.close(device)
        for name in self.made:
            subprocess.run(["ip", "netns", "del", name])


def measure(binaries, rate, rtt, size, repeat, folder):
    """Times of shoal and of curl over a link, seconds."""
    source, received = os.path.join(folder, "far.bin"), os.path.join(folder, "received")
    with open(source, "wb") as file:
        for _ in range(size):
            file.write(os.urandom(1 << 20))
    binary = lambda name: os.path.join(binaries, name)
    tracker = f"{SERVER}:{TRACKER_PORT}"
    link = Link(rate * 1e6 / 8, rtt / 1e3)
    try:
        link.start(binary("tracker"), "--listen", tracker)
        link.start(binary("seeder"), "--file", source, "--tracker", tracker, "--listen", SERVER, "--port", SEEDER_PORT)
        link.start(sys.executable, "-m", "http.server", "-d", folder, HTTP_PORT)
        # Before anything is timed, both have served it once.
        shoal = [binary("leecher"), "far.bin", "-o", received, "--tracker", tracker, "--wait", "10"]
        curl = ["curl", "-sf", "--retry", "9", "--retry-connrefused", "-o", received,
                f"http://{SERVER}:{HTTP_PORT}/far.bin"]
        times = {"shoal": [], "curl": []}
        for turn in range(repeat + 1):
            for name, command in (("shoal", shoal), ("curl", curl)):
                took = link.time(*command)
                if not filecmp.cmp(source, received, shallow=False):
                    sys.exit(f"{name} received something else")
                os.remove(received)
                if turn > 0:
                    times[name].append(took)
        return times
    finally:
        link.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, help="Mbit/s, each way")
    parser.add_argument("--rtt", type=float, default=50, help="milliseconds, there and back")
    parser.add_argument("--size", type=int, default=64, help="MiB")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--binaries", default=os.path.join(HERE, "../../target/release"))
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("network namespaces need root")
    links = [(options.rate, options.rtt, options.size)] if options.rate else LINKS
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print("| link | file | shoal / link | curl / link | shoal / curl |\n|---|---|---|---|---|", flush=True)
    for rate, rtt, size in links:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            times = measure(options.binaries, rate, rtt, size, options.repeat, folder)
        least = size * (1 << 20) * 8 / (rate * 1e6)
        median = lambda name: statistics.median(times[name]) / least
        ratio = statistics.median(one / other for one, other in zip(times["shoal"], times["curl"]))
        print(f"| {rate:g} Mbit/s, {rtt:g} ms | {size} MiB | {median('shoal'):.2f} | {median('curl'):.2f} | {ratio:.2f} |",
              flush=True)


if __name__ == "__main__":
    main()
