"""Attackers for `attacks`, each kind in a process of its own: `attackers.py KIND COUNT TRACKER SEEDER FILE CHUNK_SIZE`.

It prints `ready` once the attack has begun, and runs until it is ended. Each holder has a source address of its own in
127.0.0.0/8; the slow readers have that of the leecher.
"""

import contextlib, itertools, json, os, socket, sys, threading, time
import bad_peer, rig

# A source of each kind in turn.
SOURCES = ["silent at chunks", "a byte a second", "wrong bytes", "claims all and has none"]


def endpoint(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def source(number):
    return f"127.9.{number // 250}.{number % 250 + 1}"


class Holders:
    """Holders of the file at a tracker, whose registrations are renewed."""

    def __init__(self, tracker, whole):
        self.tracker, self.whole, self.all = endpoint(tracker), whole, []

    def add(self, host, port, **advertised):
        tracker = bad_peer.Tracker(self.tracker, host)
        registered = tracker.ask(type="register", name=f"bad{len(self.all)}", port=port, **advertised)
        name, chunks = os.path.basename(self.whole.path), self.whole.count
        file = {"id": self.whole.id, "name": name, "size": self.whole.size, "chunks": chunks}
        answer = tracker.ask(type="announce", token=registered["token"], file=file, held=chunks)
        if answer["type"] != "announced":
            raise RuntimeError(f"the tracker answers {answer}")
        self.all.append((tracker, registered["token"]))
        self.pause = registered["heartbeat_ms"] / 1000

    def renew(self):
        while True:
            began = time.monotonic()
            for tracker, token in self.all:
                tracker.ask(type="heartbeat", token=token)
            time.sleep(max(0.1, self.pause - (time.monotonic() - began)))


def advertised(count, tracker, whole):
    """Holders that one host registers, each with another address that does not exist."""
    holders = Holders(tracker, whole)
    for number in range(count):
        holders.add(source(0), 1_000 + number, advertise=f"10.99.{number // 250}.{number % 250 + 1}:7000")
    print("ready", flush=True)
    holders.renew()


def dead(count, tracker, whole):
    """Hosts whose addresses do not answer, each of them a holder: the queue of the listening socket is full, so connections time out."""
    listener = socket.socket()
    listener.bind(("0.0.0.0", 0))
    listener.listen(0)
    port, queued = listener.getsockname()[1], []
    for _ in range(4):
        waits = socket.socket()
        waits.setblocking(False)
        waits.connect_ex(("127.0.0.1", port))
        queued.append(waits)
    holders = Holders(tracker, whole)
    for number in range(count):
        holders.add(source(number), port)
    print("ready", flush=True)
    holders.renew()


def bad_sources(count, tracker, whole):
    """Holders that stall, trickle, lie or send wrong bytes."""
    holders = Holders(tracker, whole)
    for number, kind in zip(range(count), itertools.cycle(SOURCES)):
        peer = bad_peer.Peer(kind, whole, source(number))
        threading.Thread(target=peer.serve, daemon=True).start()
        holders.add(*peer.address)
    print("ready", flush=True)
    holders.renew()


def slow_reader(seeder, whole, started):
    """Asks for chunks again and again, and takes 256 bytes in 5 s."""
    while True:
        try:
            with socket.socket() as stream:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                stream.connect(seeder)
                lines = [{"type": "hello", "version": bad_peer.VERSION}]
                lines += [{"type": "chunk", "file": whole.id, "index": index % whole.count} for index in range(8)]
                stream.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
                started.release()
                while stream.recv(256):
                    time.sleep(5)
        except OSError:
            pass


def slow_readers(count, seeder, whole):
    started = threading.Semaphore(0)
    for _ in range(count):
        threading.Thread(target=slow_reader, args=[endpoint(seeder), whole, started], daemon=True).start()
    for _ in range(count):
        started.acquire()
    print("ready", flush=True)
    threading.Event().wait()


def connection(address, *lines, source=""):
    """A connection that has sent a hello and these messages; its receive buffer is small."""
    stream = socket.socket()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    stream.settimeout(20)
    stream.bind((source, 0))
    stream.connect(address)
    lines = [{"type": "hello", "version": bad_peer.VERSION}, *lines]
    stream.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    return stream


def file_of(number):
    name = f"{number:08x}".ljust(230, "n")
    return {"id": f"{number * 7919 + 1:064x}", "name": name, "size": 1, "chunks": 1}


def announce_all(at, number, files):
    """Announces files from a source address of its own, 64 at a time, up to the first refusal; returns the registration."""
    tracker = bad_peer.Tracker(at, source(number))
    token = tracker.ask(type="register", name=f"bad{number}", port=1_000)["token"]
    files = iter(files)
    while batch := list(itertools.islice(files, 64)):
        for file in batch:
            message = {"type": "announce", "token": token, "file": file_of(file), "held": 1}
            tracker.socket.send(json.dumps({"v": bad_peer.VERSION, "tx": 0, "cookie": tracker.cookie, "message": message}).encode())
        answers = []
        for _ in batch:
            with contextlib.suppress(TimeoutError):
                answers.append(json.loads(tracker.socket.recv(2_000))["message"]["type"])
        if any(answer != "announced" for answer in answers):
            break
    return tracker, token


def announces(tracker):
    """Eight addresses announce as many files as they can, for ever."""
    def flood(number):
        while True:
            announce_all(endpoint(tracker), number, itertools.count(number << 32))
    for number in range(8):
        threading.Thread(target=flood, args=[number], daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


def lists(tracker):
    """Announces a list of 65,536 files, and asks for it over connections that do not read."""
    at = endpoint(tracker)
    known = [announce_all(at, number, range(number << 14, (number + 1) << 14)) for number in range(4)]
    held = [connection(at, {"type": "list"}, source=source(number % 40)) for number in range(200)]
    print("ready", flush=True)
    while held:
        for peer, token in known:
            peer.ask(type="heartbeat", token=token)
        time.sleep(2)


def join_set(at, number):
    """Joins a set of the largest number of chunks; returns the connection and the token."""
    stream = connection(at, {"type": "register", "name": f"bad{number}", "port": 1_000 + number}, source=source(number))
    reader = stream.makefile("rb")
    reader.readline()
    token = json.loads(reader.readline())["token"]
    stream.sendall(json.dumps({"type": "join_set", "token": token, "set": "default", "count": 1 << 20}).encode() + b"\n")
    threading.Thread(target=lambda: [None for _ in reader], daemon=True).start()
    return stream, token


def sets(tracker):
    """Claims 300,000 chunks, and lets members join and leave."""
    at = endpoint(tracker)
    def claim(stream, token):
        for index in range(300_000):
            line = {"type": "claim", "token": token, "set": "default", "count": 1 << 20, "index": index, "sha256": f"{index + 1:064x}", "size": 1}
            stream.sendall(json.dumps(line).encode() + b"\n")
            if index % 50_000 == 0:
                bad_peer.Tracker(at, source(0)).ask(type="heartbeat", token=token)
    def come_and_go(number):
        while True:
            try:
                join_set(at, number)[0].close()
            except (OSError, ValueError, KeyError):
                time.sleep(0.1)
    threading.Thread(target=claim, args=join_set(at, 0), daemon=True).start()
    for number in range(1, 5):
        threading.Thread(target=come_and_go, args=[number], daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


def manifests(seeder, whole):
    """Asks for manifests over connections that do not read."""
    asked = [{"type": "manifest", "file": whole.id}] * 16
    held = [connection(endpoint(seeder), *asked, source=source(number % 40)) for number in range(256)]
    print("ready", flush=True)
    threading.Event().wait()
    del held


def main():
    kind, count, tracker, seeder, path, chunk_size = sys.argv[1:]
    whole = bad_peer.Whole(path, int(chunk_size))
    match kind:
        case "advertised": advertised(int(count), tracker, whole)
        case "dead": dead(int(count), tracker, whole)
        case "sources": bad_sources(int(count), tracker, whole)
        case "readers": slow_readers(int(count), seeder, whole)
        case "announces": announces(tracker)
        case "lists": lists(tracker)
        case "sets": sets(tracker)
        case "manifests": manifests(seeder, whole)


if __name__ == "__main__":
    main()
