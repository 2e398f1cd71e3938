"""A small network of shaped links, and programs in it; shared by the benchmarks of this folder."""

import hashlib, os, re, signal, subprocess, sys, time


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def run(*words, check=True):
    done = subprocess.run(words, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


# The largest first, as the system wants them in order.
NEIGHBOURS = [f"/proc/sys/net/ipv4/neigh/default/gc_thresh{number}" for number in (3, 2)]
NEIGHBOURS_LEAST = 65536


def write(path, number):
    with open(path, "w") as file:
        file.write(str(number))


class Network:
    """Namespaces on a bridge, which is in a namespace of its own, so that nothing of this host is touched."""

    def __init__(self, name, burst="32kb", latency="50ms", congestion=None):
        self.prefix = f"{name}{os.getpid()}"
        self.hub = f"{self.prefix}-hub"
        self.names, self.burst, self.latency, self.congestion = [], burst, latency, congestion
        # What was set on this machine, and what it was before.
        self.settings = []

    def open(self):
        self.make_room_for_neighbours()
        self.names.append(self.hub)
        run("ip", "netns", "add", self.hub)
        run("ip", "-n", self.hub, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", self.hub, "link", "set", "bridge", "up")

    def make_room_for_neighbours(self):
        """All namespaces share one table of the addresses next to them, which has 1,024 places: 32 hosts that all talk to
        each other fill it, and some of more never reach each other."""
        for path in NEIGHBOURS:
            with open(path) as file:
                before = int(file.read())
            if before < NEIGHBOURS_LEAST:
                self.settings.append((path, before))
                write(path, NEIGHBOURS_LEAST)

    def sites(self, count, rate):
        """A bridge for each of several sites, each joined to the middle by a link of this rate, Mbit/s; two sites share one."""
        for site in range(count):
            run("ip", "-n", self.hub, "link", "add", f"site{site}", "type", "bridge")
            run("ip", "-n", self.hub, "link", "set", f"site{site}", "up")
        pairs = [("site0", "site1")] if count == 2 else [(f"site{site}", "bridge") for site in range(count)]
        for number, (one, other) in enumerate(pairs):
            ends = [(f"out{number}", one), (f"in{number}", other)]
            run("ip", "-n", self.hub, "link", "add", ends[0][0], "type", "veth", "peer", "name", ends[1][0])
            for end, bridge in ends:
                run("ip", "-n", self.hub, "link", "set", end, "master", bridge, "up")
                run("tc", "-n", self.hub, "qdisc", "add", "dev", end, "root", "tbf", "rate", f"{rate}mbit", "burst",
                    self.burst, "latency", self.latency)

    def crossed(self, site, count):
        """Bytes that have been sent into a site from the others."""
        device = "out0" if count == 2 and site == 1 else f"in{site}"
        path = f"/sys/class/net/{device}/statistics/tx_bytes"
        return int(run("ip", "netns", "exec", self.hub, "cat", path))

    def host(self, number, up=None, down=None, site=None):
        """A host with address 10.77.x.y, in a site with x of its own; returns its namespace and address."""
        name = f"{self.prefix}-{number}"
        address = f"10.77.{number // 250 if site is None else 100 + site}.{number % 250 + 1}"
        bridge = "bridge" if site is None else f"site{site}"
        self.names.append(name)
        run("ip", "netns", "add", name)
        end = f"port{number}"
        run("ip", "link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", end, "netns", self.hub)
        run("ip", "-n", self.hub, "link", "set", end, "master", bridge, "up")
        run("ip", "-n", name, "addr", "add", f"{address}/16", "dev", "eth0")
        for link in ("lo", "eth0"):
            run("ip", "-n", name, "link", "set", link, "up")
        for namespace, device, rate in ((name, "eth0", up), (self.hub, end, down)):
            if rate:
                run("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf", "rate", f"{rate}mbit",
                    "burst", self.burst, "latency", self.latency)
        if self.congestion:
            run("ip", "netns", "exec", name, "sysctl", "-w", f"net.ipv4.tcp_congestion_control={self.congestion}")
        return name, address

    def sent(self, name):
        """Bytes that a shaped host has sent, headers of every packet included."""
        found = re.search(r"Sent (\d+) bytes", run("tc", "-n", name, "-s", "qdisc", "show", "dev", "eth0"))
        return int(found.group(1))

    def close(self):
        for name in self.names:
            run("ip", "netns", "del", name, check=False)
        for path, before in reversed(self.settings):
            write(path, before)


class Processes:
    def __init__(self):
        self.all = []

    def start(self, namespace, folder, words, waits=False, log=None):
        """Starts a program; with `waits`, it begins when a line is written to its input."""
        # Other programs on this host must not make a link of 100 Mbit/s look slow.
        words = ["nice", "-n", "-15", "ip", "netns", "exec", namespace, "sh", "-c", ("read _; " if waits else "") + 'exec "$@"', "sh", *words]
        errors = open(log, "wb") if log else subprocess.DEVNULL
        # Records of volunteer stores stay with the files of the benchmark.
        environment = {**os.environ, "XDG_STATE_HOME": os.path.join(folder, ".state")}
        process = subprocess.Popen(words, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        self.all.append(process)
        return process

    def close(self):
        running = [process for process in self.all if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 5
        for process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
