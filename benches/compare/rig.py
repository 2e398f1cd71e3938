"""Parts of all comparisons: processes that are measured and ended, the machine.

Invariants: only processes that were started here are ended, by process id; the cost of a program is that which the
system counted for exactly this program (wait4), without the shell that started it.
"""

import ctypes, os, platform, re, select, signal, socket, subprocess, sys, time
from dataclasses import dataclass

MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_CHILD_SUBREAPER = 36


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def protocol_version():
    """The version of the protocol, from the source."""
    with open(os.path.join(ROOT, "src", "content", "limits.rs")) as file:
        return int(re.search(r"PROTOCOL_VERSION: u32 = (\d+)", file.read())[1])


def adopt_orphans():
    """Makes orphaned descendants children of this process, so that wait4 accounts for them.

    A program that is started from here directly would begin its life with the memory of this interpreter, and the
    peak that the system reports would never be less than that. Started by a shell, it begins with the shell's.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def start(words, output, folder):
    """Starts a program with its output in a file; returns its process id."""
    script = 'out=$1; shift; "$@" >"$out" 2>&1 </dev/null & echo $!'
    shell = subprocess.run(["/bin/sh", "-c", script, "sh", output, *words], cwd=folder, check=True,
                           stdout=subprocess.PIPE, text=True)
    return int(shell.stdout)


def text_of(path):
    with open(path, errors="replace") as file:
        return file.read()


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Cost:
    """Cost of one run."""
    seconds: float = 0.0        # to the result
    seconds_exit: float = 0.0   # to the exit of the last program
    cpu: float = 0.0            # of the receiving side
    peak: int = 0               # of the receiving side, bytes resident
    cpu_servers: float = 0.0    # of all sending processes together
    peak_servers: int = 0       # of the largest of them

    def cpu_all(self):
        return self.cpu + self.cpu_servers

    def cores(self):
        """Cores that were busy on average, of both sides."""
        return self.cpu_all() / self.seconds_exit


def run(steps, output, folder, result=b""):
    """Runs programs one after the other and adds up their cost; `result` is the output that ends the measured time,
    the exit of the last program if it is empty. Raises an error if one fails."""
    cost, began = Cost(), time.monotonic()
    for words in steps:
        fifo = open_fifo(output) if result else None
        pid = start(words, output, folder)
        try:
            text, seen = read_until(fifo, result) if result else (b"", None)
            _, status, used = os.wait4(pid, 0)
            cost.seconds_exit = time.monotonic() - began
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        if status != 0 or result not in text:
            said = text.decode(errors="replace") if result else text_of(output)
            raise RuntimeError(f"{words[0]} ended with {os.waitstatus_to_exitcode(status)}: {said[-600:]}")
        cost.seconds = seen - began if seen else cost.seconds_exit
        cost.cpu += used.ru_utime + used.ru_stime
        cost.peak = max(cost.peak, used.ru_maxrss * 1024)
    return cost


def open_fifo(path):
    """Makes a FIFO in place of the file, for the output of a program."""
    if os.path.lexists(path):
        os.remove(path)
    os.mkfifo(path)
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


def read_until(fifo, result):
    """Reads a FIFO to its end; returns its content, and the time at which the result was in it (`None` if it never was)."""
    text, seen, poll = b"", None, select.poll()
    poll.register(fifo, select.POLLIN)
    try:
        # `poll` reports nothing before a program has opened the FIFO for writing.
        while poll.poll() and (piece := os.read(fifo, 65536)):
            text += piece
            if seen is None and result in text:
                seen = time.monotonic()
        return text, seen
    finally:
        os.close(fifo)


class Server:
    """A process that runs until it is stopped."""

    def __init__(self, words, output, folder):
        self.output, self.name = output, os.path.basename(words[0])
        self.pid = start(words, output, folder)

    def wait_for(self, pattern, patience=120):
        """Waits until the output has something; returns the match."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if match := re.search(pattern, text_of(self.output)):
                return match
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                self.pid = None
                break
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} did not start: {text_of(self.output)[-600:]}")

    def wait_for_port(self, port, patience=30):
        """Waits until a socket listens on this port in the network namespace of the process."""
        deadline = time.monotonic() + patience
        listening = re.compile(rf"^ *\d+: [0-9A-F]+:{port:04X} \S+ 0A ", re.MULTILINE)
        while time.monotonic() < deadline:
            if any(listening.search(text_of(f"/proc/{self.pid}/net/{kind}")) for kind in ("tcp", "tcp6")):
                return
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                self.pid = None
                break
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} does not listen on {port}: {text_of(self.output)[-600:]}")

    def _family(self):
        family = [self.pid]
        for pid in family:
            try:
                with open(f"/proc/{pid}/task/{pid}/children") as file:
                    family += [int(child) for child in file.read().split()]
            except OSError:
                pass
        return family

    def cpu(self):
        """Seconds so far, of the process and those that it has started."""
        ticks = 0
        for pid in self._family():
            try:
                with open(f"/proc/{pid}/stat") as file:
                    fields = file.read().rsplit(")", 1)[1].split()
                ticks += sum(int(value) for value in fields[11:15])
            except OSError:
                pass
        return ticks / TICKS

    def peak(self):
        """Most memory resident at once so far, of the largest of them, bytes."""
        peaks = [0]
        for pid in self._family():
            try:
                found = re.search(r"VmHWM:\s+(\d+)", text_of(f"/proc/{pid}/status"))
                peaks.append(int(found.group(1)) * 1024 if found else 0)
            except OSError:
                pass
        return max(peaks)

    def stop(self):
        if self.pid is None:
            return
        for sign, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            try:
                os.kill(self.pid, sign)
            except ProcessLookupError:
                break
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                if os.waitpid(self.pid, os.WNOHANG)[0]:
                    self.pid = None
                    return
                time.sleep(0.02)


def capture(*words):
    try:
        return subprocess.run(words, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    except OSError:
        return ""


def machine():
    """The machine in one line: processor, cores, memory, kernel."""
    processor = text_of("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", processor)
    memory = int(re.search(r"MemTotal:\s+(\d+)", text_of("/proc/meminfo")).group(1)) * 1024
    words = processor.split()
    flags = " and ".join(("with " if flag in words else "without ") + name
                         for flag, name in (("sha_ni", "SHA-NI"), ("avx512f", "AVX-512")))
    return (f"{os.cpu_count()} cores ({model.group(1) if model else platform.machine()}, {flags}), "
            f"{memory / GIBIBYTE:.0f} GiB, Linux {platform.release()}")


def commit():
    changed = capture("git", "status", "--porcelain", "--", "src", "bin", "Cargo.toml", "Cargo.lock")
    return capture("git", "rev-parse", "--short", "HEAD") + (" and what is not committed" if changed else "")
