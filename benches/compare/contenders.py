"""Programs that `link` compares: commands that start the senders and download the file.

All read the source and write the target on one file system. The BitTorrent programs seed a copy of the source, because
rqbit opens the file for writing, and a seeder of shoal then hashes it again. The torrent file and the BitTorrent tracker
are made here.
"""

import hashlib, http.server, os, shlex, shutil, socket, subprocess, sys, threading
from dataclasses import dataclass, field
from rig import Server, free_port, run

HERE = os.path.dirname(os.path.abspath(__file__))
PIECE = 512 * 1024


def which(name):
    return shutil.which(name) or next((path for path in (f"/usr/sbin/{name}",) if os.path.exists(path)), None)


@dataclass
class Setting:
    """Conditions of one case, the same for all programs."""
    folder: str                     # of configuration and output
    source: str
    binaries: str                   # folder of the release binaries
    before: str = ""                # folder of the release binaries of another version
    seeders: int = 1
    chunk: str = ""                 # chunk size; the seeder's default if empty
    upload_bytes_s: int = 0         # upload limit; 0 is none
    exists: bool = False            # another file is at the target path
    address: str = "127.0.0.1"      # of the servers
    at_server: list = field(default_factory=list)   # words before each command of a server
    at_client: list = field(default_factory=list)   # words before each command of a receiver


class Contender:
    """A program or a sequence of programs. `start` starts the senders; `steps` are measured."""

    name, checks, needs = "", "", []
    # The output that ends the measured time; the exit of the last program if empty.
    result = b""

    def __init__(self, setting):
        self.setting, self.source, self.address = setting, setting.source, setting.address
        self.folder = os.path.join(setting.folder, type(self).__name__.lower())
        os.makedirs(self.folder, exist_ok=True)
        self.servers = []

    def lacks(self):
        """The reason why this program cannot run; `None` if it can."""
        missing = next((program for program in self.needs if which(program) is None), None)
        return missing and f"{missing} is not installed"

    def serve(self, words, label):
        words = [*self.setting.at_server, *words]
        server = Server(words, os.path.join(self.folder, f"{label}.out"), self.folder)
        self.servers.append(server)
        return server

    def file(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def start(self):
        raise NotImplementedError

    def steps(self, out):
        """The commands, and the path of the received file."""
        raise NotImplementedError

    def fetch(self, out):
        """One measured run; the received file is at the returned path."""
        before = [server.cpu() for server in self.servers]
        steps, path = self.steps(out)
        steps = [[*self.setting.at_client, *words] for words in steps]
        cost = run(steps, os.path.join(self.folder, "fetch.out"), self.folder, self.result)
        cost.cpu_servers = sum(server.cpu() for server in self.servers) - sum(before)
        cost.peak_servers = max(server.peak() for server in self.servers)
        return cost, path

    def stop(self):
        for server in reversed(self.servers):
            server.stop()
        self.servers = []


class Shoal(Contender):
    name, checks, result = "shoal", "SHA-256", b"Successfully downloaded"

    def binaries(self):
        return self.setting.binaries

    def lacks(self):
        missing = next((name for name in ("tracker", "seeder", "leecher") if not os.path.exists(self.binary(name))), None)
        return missing and f"{self.binary(missing)} does not exist"

    def binary(self, name):
        return os.path.join(self.binaries(), name)

    def start(self):
        setting, self.log = self.setting, ["--log-file", os.path.join(self.folder, "logs.log")]
        tracker = self.serve([self.binary("tracker"), "--listen", f"{self.address}:0", *self.log], "tracker")
        self.tracker = tracker.wait_for(r"tracker listening on ([0-9.:]+)").group(1).rstrip(",")
        chunk = ["--chunk-size", setting.chunk] if setting.chunk else []
        limit = ["--upload-limit", str(setting.upload_bytes_s)] if setting.upload_bytes_s else []
        for number in range(setting.seeders):
            words = [self.binary("seeder"), "-f", self.source, "-p", "0", "--listen", self.address, "--tracker",
                     self.tracker, *chunk, *limit, *self.log]
            self.serve(words, f"seeder{number}").wait_for("registered with the tracker")

    def steps(self, out):
        words = [self.binary("leecher"), os.path.basename(self.source), "--tracker", self.tracker, "--out", out, "-q"]
        return [[*words, *(["--overwrite"] if self.setting.exists else []), *self.log]], out


class ShoalBefore(Shoal):
    name = "shoal before"

    def binaries(self):
        return self.setting.before


class Bare(Contender):
    name, checks = "bare loop", "SHA-256"

    def binary(self):
        return os.path.join(self.setting.binaries, "examples", "bare")

    def lacks(self):
        return None if os.path.exists(self.binary()) else f"{self.binary()} does not exist"

    def start(self):
        self.addresses = []
        for number in range(self.setting.seeders):
            sender = self.serve([self.binary(), "send", self.source], f"send{number}")
            self.addresses.append(sender.wait_for(r"([0-9.]+:\d+)\n").group(1))
        # With one sender two connections to it, so that there is a thread for each core.
        self.addresses *= 2 if self.setting.seeders == 1 else 1

    def steps(self, out):
        return [[self.binary(), "receive", out, str(os.path.getsize(self.source)), *self.addresses]], out


class Curl(Contender):
    name, checks, needs = "nginx + curl + openssl", "SHA-256, afterwards", ["nginx", "curl", "openssl"]

    def start(self):
        port = free_port()
        user = "user root;" if os.geteuid() == 0 else ""
        limit = f"limit_rate {self.setting.upload_bytes_s};" if self.setting.upload_bytes_s else ""
        config = self.file("nginx.conf", f"""
            daemon off; {user} worker_processes auto; pid {self.folder}/nginx.pid; error_log stderr;
            events {{ worker_connections 64; }}
            http {{ access_log off; sendfile on; tcp_nopush on; {limit}
              server {{ listen {self.address}:{port}; root {os.path.dirname(self.source)}; }} }}
        """)
        words = [which("nginx"), "-p", self.folder, "-c", config, "-e", "stderr"]
        self.serve(words, "nginx").wait_for_port(port)
        self.url = f"http://{self.address}:{port}/{os.path.basename(self.source)}"

    def curl(self, *words):
        return ["curl", "-s", "-S", "-f", *words, self.url]

    def steps(self, out):
        return [self.curl("-o", out), ["openssl", "dgst", "-sha256", out]], out


class CurlPiped(Curl):
    name, checks = "nginx + curl, tee, openssl", "SHA-256, piped"
    needs = [*Curl.needs, "tee"]

    def steps(self, out):
        script = f"{shlex.join(self.curl())} | tee {shlex.quote(out)} | openssl dgst -sha256"
        return [["sh", "-c", script]], out


class CurlAlone(Curl):
    name, checks, needs = "nginx + curl", "nothing", ["nginx", "curl"]

    def steps(self, out):
        return [self.curl("-o", out)], out


class Rsync(Contender):
    name, checks, needs = "rsync daemon", "its own sum of the whole", ["rsync"]

    def start(self):
        self.port = free_port()
        config = self.file("rsyncd.conf", f"""
use chroot = no
address = {self.address}
log file = {self.folder}/rsyncd.log
[files]
path = {os.path.dirname(self.source)}
{"uid = root" if os.geteuid() == 0 else ""}
""")
        words = ["rsync", "--daemon", "--no-detach", f"--port={self.port}", f"--config={config}"]
        self.serve(words, "rsync").wait_for_port(self.port)

    def steps(self, out):
        # An existing target is replaced whole, as by the other programs.
        whole = ["--whole-file", "--ignore-times"] if self.setting.exists else []
        limit = [f"--bwlimit={self.setting.upload_bytes_s / 1024:.2f}K"] if self.setting.upload_bytes_s else []
        url = f"rsync://{self.address}:{self.port}/files/{os.path.basename(self.source)}"
        return [["rsync", *whole, *limit, url, out]], out


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, dict):
        return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"
    value = value.encode() if isinstance(value, str) else value
    return b"%d:%s" % (len(value), value)


class Torrent(Contender):
    """Common parts of BitTorrent programs: the torrent file, and a tracker that names the seeders."""

    checks = "SHA-1"

    def start(self):
        self.source, self.ports = shutil.copy(self.source, self.folder), []
        self.tracker = self.announce()
        digests = b""
        with open(self.source, "rb") as file:
            while piece := file.read(PIECE):
                digests += hashlib.sha1(piece).digest()
        name, size = os.path.basename(self.source), os.path.getsize(self.source)
        info = {"length": size, "name": name, "piece length": PIECE, "pieces": digests}
        announce = f"http://127.0.0.1:{self.tracker.server_address[1]}/announce"
        self.torrent = os.path.join(self.folder, "file.torrent")
        with open(self.torrent, "wb") as file:
            file.write(bencode({"announce": announce, "info": info}))
        for number in range(self.setting.seeders):
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
                    pass  # A program that ends does not wait for the response.

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
    name, needs = "aria2", ["aria2c"]
    common = ["--enable-dht=false", "--bt-enable-lpd=false", "--file-allocation=none", "--no-conf",
              "--console-log-level=warn", "--allow-overwrite=true"]

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
        return "python3-libtorrent is not installed"

    def seed(self, number, port):
        folder = os.path.dirname(self.source)
        words = [self.python, self.script, "seed", self.torrent, folder, str(port)]
        self.serve(words, f"seeder{number}").wait_for("seeding")

    def steps(self, out):
        path = self.into(out)
        return [[self.python, self.script, "leech", self.torrent, out, "0", *map(str, self.ports)]], path


class Rqbit(Torrent):
    name, needs = "rqbit", ["rqbit"]

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


# Programs that every case of plain downloads compares.
PLAIN = [Shoal, ShoalBefore, Curl, CurlPiped, Rsync]
FAST = [*PLAIN, Bare, Rqbit]
SMALL = [*FAST, CurlAlone]
TORRENT = [Shoal, ShoalBefore, Rqbit, Aria2, Libtorrent]
