"""Hostile peer for `bad_peers`: announces a file to a tracker and serves it according to its kind.

`bad_peers` starts it as a separate process: `bad_peer.py <kind> <tracker> <file> <chunk size>`. It prints
`ready <address>` once the tracker has accepted it as a holder, and runs until it is ended. The last kind announces
nothing; it opens connections to each address that it reads from standard input, one on each line.
"""

import hashlib, json, os, resource, socket, sys, threading, time
from rig import protocol_version

VERSION, PADDED, TEBIBYTE = protocol_version(), 160, 1 << 40
KINDS = {
    "wrong bytes": "every chunk has one wrong byte",
    "silent": "accepts connections and sends nothing",
    "silent at chunks": "answers all requests except those for chunks",
    "a byte a second": "of each chunk",
    "closes at every chunk": "closes the connection at each request for a chunk",
    "claims all and has none": "refuses every chunk",
    "another chunk": "the next chunk, under the requested index",
    "another number": "the next chunk, under its own index",
    "1 TiB": "to the tracker, before the honest one, and in its manifest",
    "another version": "answers the hello with version 2",
    "5,000 connections": "to the seeder, the tracker and the leecher, each",
}
FLOOD = "5,000 connections"
CONNECTIONS = 5_000


class Whole:
    """The announced file: digests and id, computed as the programs do."""

    def __init__(self, path, chunk_size):
        self.path, self.chunk_size, self.size = path, chunk_size, os.path.getsize(path)
        self.count = -(-self.size // chunk_size)
        self.payload = b"".join(hashlib.sha256(self.chunk(index)).digest() for index in range(self.count))
        sizes = self.size.to_bytes(8, "big") + chunk_size.to_bytes(8, "big")
        self.id = hashlib.sha256(b"shoal manifest 1\n" + sizes + self.payload).hexdigest()

    def chunk(self, index):
        with open(self.path, "rb") as file:
            file.seek(index * self.chunk_size)
            return file.read(self.chunk_size)

    def have_map(self):
        return ((1 << self.count) - 1).to_bytes(-(-self.count // 8), "little")


class Tracker:
    """Datagrams to a tracker."""

    def __init__(self, address, source=""):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((source, 0))
        self.socket.connect(address)
        self.socket.settimeout(0.2)
        self.cookie, self.number = None, 0

    def ask(self, **message):
        for _ in range(100):
            self.number += 1
            cookie = {"cookie": self.cookie} if self.cookie else {}
            question = json.dumps({"v": VERSION, "tx": self.number, **cookie, "message": message}).encode()
            self.socket.send(question.ljust(PADDED))
            try:
                answer = json.loads(self.socket.recv(2_000))
            except TimeoutError:
                continue
            if answer["message"]["type"] == "cookie":
                self.cookie = answer["message"]["cookie"]
            elif answer["tx"] == self.number:
                return answer["message"]
        raise RuntimeError("the tracker does not answer")


class Peer:
    def __init__(self, kind, whole, host="127.0.0.1"):
        self.kind, self.whole = kind, whole
        self.listener = socket.create_server((host, 0), backlog=128)
        self.address = self.listener.getsockname()

    def register(self, tracker):
        registered = tracker.ask(type="register", name="bad", port=self.address[1])
        self.token, self.pause = registered["token"], registered["heartbeat_ms"] / 1000
        size, chunks = self.whole.size, self.whole.count
        if self.kind == "1 TiB":
            size, chunks = TEBIBYTE, 1 << 20
        file = {"id": self.whole.id, "name": os.path.basename(self.whole.path), "size": size, "chunks": chunks}
        answer = tracker.ask(type="announce", token=self.token, file=file, held=chunks)
        if answer["type"] != "announced":
            raise RuntimeError(f"the tracker answers {answer}")

    def serve(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.converse, args=[connection], daemon=True).start()

    def converse(self, connection):
        try:
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    if not self.answer(connection, json.loads(line)):
                        return
        except OSError:
            pass

    def answer(self, connection, request):
        """Answers one request; returns whether the connection stays open."""
        kind, asked, whole = self.kind, request["type"], self.whole
        send = lambda payload=b"", **message: connection.sendall(json.dumps(message).encode() + b"\n" + payload)
        file = request.get("file")
        if kind == "silent":
            return True
        if asked == "hello":
            send(type="hello", version=99 if kind == "another version" else VERSION)
        elif asked == "ping":
            send(type="pong")
        elif asked == "manifest":
            sizes = (TEBIBYTE, 1 << 20, b"", 32 << 20) if kind == "1 TiB" else (
                whole.size, whole.chunk_size, whole.payload, len(whole.payload))
            send(sizes[2], type="manifest", file=file, size=sizes[0], chunk_size=sizes[1], length=sizes[3])
        elif asked == "have":
            count, have = whole.count, whole.have_map()
            if kind == "1 TiB":
                count, have = 1 << 20, b"\xff" * (1 << 17)
            send(have, type="have", file=file, count=count, length=len(have))
        elif asked == "chunk":
            return self.chunk(connection, send, file, request["index"])
        return True

    def chunk(self, connection, send, file, index):
        kind, whole = self.kind, self.whole
        if kind == "closes at every chunk":
            return False
        if kind == "claims all and has none":
            send(type="error", code="not_here", text="no", index=index)
        elif kind == "a byte a second":
            payload = whole.chunk(index)
            send(type="chunk", file=file, index=index, length=len(payload))
            for at in range(len(payload)):
                connection.sendall(payload[at:at + 1])
                time.sleep(1)
        elif kind in ("another chunk", "another number"):
            other = (index + 1) % whole.count
            payload = whole.chunk(other)
            named = other if kind == "another number" else index
            send(payload, type="chunk", file=file, index=named, length=len(payload))
        elif kind == "wrong bytes":
            payload = whole.chunk(index)
            send(payload[:-1] + bytes([payload[-1] ^ 1]), type="chunk", file=file, index=index, length=len(payload))
        return True


def flood(address, held):
    """Opens connections one after the other, sends nothing, and does not close them."""
    host, port = address.rsplit(":", 1)
    opened = 0
    for _ in range(CONNECTIONS):
        try:
            held.append(socket.create_connection((host, int(port)), 30))
            opened += 1
        except OSError as error:
            reason = error
    print(f"opened {opened} to {address}" + (f" ({reason})" if opened < CONNECTIONS else ""), flush=True)


def flood_all():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    held = []
    print("ready nowhere", flush=True)
    for line in sys.stdin:
        threading.Thread(target=flood, args=[line.strip(), held], daemon=True).start()


def main():
    kind, tracker, path, chunk_size = sys.argv[1:]
    if kind == FLOOD:
        return flood_all()
    peer = Peer(kind, Whole(path, int(chunk_size)))
    threading.Thread(target=peer.serve, daemon=True).start()
    host, port = tracker.rsplit(":", 1)
    tracker = Tracker((host, int(port)))
    peer.register(tracker)
    print(f"ready 127.0.0.1:{peer.address[1]} {peer.whole.id}", flush=True)
    while True:
        time.sleep(peer.pause)
        tracker.ask(type="heartbeat", token=peer.token)


if __name__ == "__main__":
    main()
