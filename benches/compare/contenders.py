"""Programs that `link` compares: commands that start the senders and download the file.

All read the same source file and write to the same folder. The torrent file and the BitTorrent tracker are made here,
so that no other program takes part.
"""

import hashlib, http.server, os, shutil, socket, subprocess, sys, threading
from rig import ROOT, Server, free_port, run

HERE = os.path.dirname(os.path.abspath(__file__))
PIECE = 512 * 1024


def which(name):
    return shutil.which(name) or next((path for path in (f"/usr/sbin/{name}",) if os.path.exists(path)), None)


class Contender:
    """A program or a sequence of programs. `start` starts the senders; `steps` are measured."""

    name, checks, many = "", "", False

    def __init__(self, folder):
        self.folder = os.path.join(folder, type(self).__name__.lower())
        os.makedirs(self.folder, exist_ok=True)
        self.servers = []

    def lacks(self):
        """The first required program that is not installed; `None` if all are."""
        return next((program for program in self.needs() if which(program) is None), None)

    def needs(self):
        return []

    def serve(self, words, label):
        server = Server(words, os.path.join(self.folder, f"{label}.out"), self.folder)
        self.servers.append(server)
        return server

    def file(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def start(self, source, seeders):
        raise NotImplementedError

    def steps(self, out):
        """The commands, and the path of the received file."""
        raise NotImplementedError

    def fetch(self, out):
        """One measured run; the received file is at the returned path."""
        before = [server.cpu() for server in self.servers]
        steps, path = self.steps(out)
        cost = run(steps, os.path.join(self.folder, "fetch.out"), self.folder)
        cost.cpu_servers = sum(server.cpu() for server in self.servers) - sum(before)
        cost.peak_servers = max(server.peak() for server in self.servers)
        return cost, path

    def stop(self):
        for server in reversed(self.servers):
            server.stop()
        self.servers = []


class Shoal(Contender):
    name, checks, many = "shoal", "SHA-256", True

    def binary(self, name):
        return os.path.join(ROOT, "target", "release", name)

    def start(self, source, seeders):
        log = ["--log-file", os.path.join(self.folder, "logs.log")]
        tracker = self.serve([self.binary("tracker"), "--listen", "127.0.0.1:0", *log], "tracker")
        self.tracker = tracker.wait_for(r"tracker listening on ([0-9.:]+)").group(1).rstrip(",")
        self.source = source
        for number in range(seeders):
            words = [self.binary("seeder"), "-f", source, "-p", "0", "--tracker", self.tracker, *log]
            self.serve(words, f"seeder{number}").wait_for("registered with the tracker")
        self.log = log

    def steps(self, out):
        words = [self.binary("leecher"), os.path.basename(self.source), "--tracker", self.tracker, "--out", out, "-q"]
        return [[*words, *self.log]], out


class Bare(Contender):
    name, checks, many = "bare loop", "SHA-256", True

    def start(self, source, seeders):
        self.size = os.path.getsize(source)
        bare = [os.path.join(ROOT, "target", "release", "examples", "bare")]
        self.addresses = []
        for number in range(seeders):
            sender = self.serve([*bare, "send", source], f"send{number}")
            self.addresses.append(sender.wait_for(r"([0-9.]+:\d+)\n").group(1))
        # With one sender two connections to it, so that there is a thread for each core.
        self.addresses *= 2 if seeders == 1 else 1
        self.bare = bare

    def steps(self, out):
        return [[*self.bare, "receive", out, str(self.size), *self.addresses]], out


class Curl(Contender):
    name, checks = "nginx + curl + openssl", "SHA-256, afterwards"
    verify = True

    def needs(self):
        return ["nginx", "curl", "openssl"] if self.verify else ["nginx", "curl"]

    def start(self, source, seeders):
        self.port, self.source = free_port(), source
        user = "user root;" if os.geteuid() == 0 else ""
        config = self.file("nginx.conf", f"""
            daemon off; {user} worker_processes auto; pid {self.folder}/nginx.pid; error_log stderr;
            events {{ worker_connections 64; }}
            http {{ access_log off; sendfile on; tcp_nopush on;
              server {{ listen 127.0.0.1:{self.port}; root {os.path.dirname(source)}; }} }}
        """)
        words = [which("nginx"), "-p", self.folder, "-c", config, "-e", "stderr"]
        self.serve(words, "nginx").wait_for_port(self.port)

    def steps(self, out):
        url = f"http://127.0.0.1:{self.port}/{os.path.basename(self.source)}"
        steps = [["curl", "-s", "-S", "-f", "-o", out, url]]
        if self.verify:
            steps.append(["openssl", "dgst", "-sha256", out])
        return steps, out


class CurlAlone(Curl):
    name, checks, verify = "nginx + curl", "nothing", False


class Rsync(Contender):
    name, checks = "rsync daemon", "its own sum of the whole"

    def needs(self):
        return ["rsync"]

    def start(self, source, seeders):
        self.port, self.source = free_port(), source
        config = self.file("rsyncd.conf", f"""
use chroot = no
address = 127.0.0.1
log file = {self.folder}/rsyncd.log
[files]
path = {os.path.dirname(source)}
{"uid = root" if os.geteuid() == 0 else ""}
""")
        words = ["rsync", "--daemon", "--no-detach", f"--port={self.port}", f"--config={config}"]
        self.serve(words, "rsync").wait_for_port(self.port)

    def steps(self, out):
        return [["rsync", f"rsync://127.0.0.1:{self.port}/files/{os.path.basename(self.source)}", out]], out


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, dict):
        return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"
    value = value.encode() if isinstance(value, str) else value
    return b"%d:%s" % (len(value), value)


class Torrent(Contender):
    """Common parts of BitTorrent programs: the torrent file, and a tracker that names the seeders."""

    checks, many = "SHA-1", True

    def start(self, source, seeders):
        self.source, self.ports = source, []
        self.tracker = self.announce()
        digests = b""
        with open(source, "rb") as file:
            while piece := file.read(PIECE):
                digests += hashlib.sha1(piece).digest()
        name, size = os.path.basename(source), os.path.getsize(source)
        info = {"length": size, "name": name, "piece length": PIECE, "pieces": digests}
        announce = f"http://127.0.0.1:{self.tracker.server_address[1]}/announce"
        self.torrent = os.path.join(self.folder, "file.torrent")
        with open(self.torrent, "wb") as file:
            file.write(bencode({"announce": announce, "info": info}))
        for number in range(seeders):
            port = free_port()
            self.seed(number, port)
            self.ports.append(port)

    def announce(self):
        ports = self.ports

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                peers = b"".join(socket.inet_aton("127.0.0.1") + port.to_bytes(2, "big") for port in ports)
                body = bencode({"interval": 1800, "peers": peers})
                try:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # Who says goodbye does not wait for the answer.

            def log_message(self, *_):
                pass

        tracker = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=tracker.serve_forever, daemon=True).start()
        return tracker

    def into(self, out):
        os.makedirs(out)
        return os.path.join(out, os.path.basename(self.source))

    def stop(self):
        super().stop()
        if hasattr(self, "tracker"):
            self.tracker.shutdown()
            self.tracker.server_close()


class Aria2(Torrent):
    name = "aria2"
    common = ["--enable-dht=false", "--bt-enable-lpd=false", "--file-allocation=none", "--no-conf",
              "--console-log-level=warn", "--allow-overwrite=true"]

    def needs(self):
        return ["aria2c"]

    def seed(self, number, port):
        folder = os.path.dirname(self.source)
        words = ["aria2c", *self.common, f"--dir={folder}", "--seed-ratio=0.0", "--check-integrity=true",
                 f"--listen-port={port}", self.torrent]
        self.serve(words, f"seeder{number}").wait_for_port(port)

    def steps(self, out):
        path = self.into(out)
        words = ["aria2c", *self.common, f"--dir={out}", "--seed-time=0", f"--listen-port={free_port()}"]
        return [[*words, self.torrent]], path


class Libtorrent(Torrent):
    name = "libtorrent"
    script = os.path.join(HERE, "libtorrent_peer.py")

    def lacks(self):
        for python in (sys.executable, "/usr/bin/python3"):
            if subprocess.run([python, "-c", "import libtorrent"], capture_output=True).returncode == 0:
                self.python = python
                return None
        return "python3-libtorrent"

    def seed(self, number, port):
        folder = os.path.dirname(self.source)
        words = [self.python, self.script, "seed", self.torrent, folder, str(port)]
        self.serve(words, f"seeder{number}").wait_for("seeding")

    def steps(self, out):
        path = self.into(out)
        return [[self.python, self.script, "leech", self.torrent, out, "0", *map(str, self.ports)]], path


class Rqbit(Torrent):
    name = "rqbit"

    def needs(self):
        return ["rqbit"]

    def common(self, port):
        return ["rqbit", "--disable-dht", "--disable-lsd", "--disable-upnp-port-forward", "--http-api-listen-addr",
                f"127.0.0.1:{free_port()}", "--listen-port", str(port)]

    def seed(self, number, port):
        folder = os.path.dirname(self.source)
        words = [*self.common(port), "download", "-o", folder, "--overwrite", self.torrent]
        self.serve(words, f"seeder{number}").wait_for_port(port)

    def steps(self, out):
        path = self.into(out)
        peers = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        words = [*self.common(free_port()), "download", "-o", out, "--initial-peers", peers, "-e", self.torrent]
        return [words], path


ALL = [Shoal, Bare, Curl, CurlAlone, Rsync, Aria2, Libtorrent, Rqbit]
