#!/usr/bin/env python3
"""Repair time after the death of a volunteer, over the transmission time of its chunks.

Every volunteer is a network namespace of its own, on one bridge; `tbf` shapes its link both ways. The tracker has a
link that is not shaped. It distributes a file and offloads its own copy; then one volunteer is killed with SIGKILL.
The time counts from the moment at which repair may begin (the tracker logs that the volunteer is away and its lease has
ended) until each chunk has all wanted copies again, durable and proven. At the end a client downloads the file, and it is compared. Needs root, `ip` and `tc`. Removes what it made, and ends only the processes that it started.

    cargo build --release
    benches/compare/repair.py                 # 5 volunteers at 200/200 Mbit/s, 1 GiB at each of them
    benches/compare/repair.py --held 128 --repeat 3

Bound: the survivors send and receive the chunks of the dead volunteer, all at the same time, each at its full rate in
both directions. Packet headers add 5 %.
"""

import argparse, json, os, re, shutil, subprocess, sys, tempfile, time
import shaped

MEBIBYTE = 1 << 20


def status(binaries, space, tracker):
    words = ["ip", "netns", "exec", space, f"{binaries}/tracker", "status", "--json", "--quiet", "--tracker", tracker]
    done = subprocess.run(words, capture_output=True, text=True, cwd="/")
    # One object on each line; older programs print only the status, over several lines.
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"type":"status"')]
    return json.loads(lines[0] if lines else done.stdout) if done.returncode == 0 else None


def wait(what, ask, wanted, most, pause=0.05):
    began = time.monotonic()
    while True:
        told = ask()
        if told and wanted(told):
            return told
        if time.monotonic() - began > most:
            raise RuntimeError(f"never {what}: {json.dumps(told)[:2000]}")
        time.sleep(pause)


def proven(told):
    copies = told["copies"]
    return copies["wanted"] > 0 and copies["short"] == 0 and copies["verified"] >= copies["wanted"]


def logged(path, text):
    with open(path, errors="replace") as log:
        return text in log.read()


def measure(options):
    folder = tempfile.mkdtemp(prefix="repair-", dir=options.folder)
    network, processes = shaped.Network("repair"), shaped.Processes()
    try:
        network.open()
        space, address = network.host(0)
        size = options.held * options.hosts // 2
        shaped.say(f"{options.hosts} volunteers at {options.rate} Mbit/s, a file of {size} MiB, {options.held} MiB at each")
        files = os.path.join(folder, "files")
        os.mkdir(files)
        source = os.path.join(folder, "file.bin")
        with open(source, "wb") as file:
            for _ in range(size):
                file.write(os.urandom(MEBIBYTE))
        digest = shaped.digest(source)
        os.rename(source, os.path.join(files, "file.bin"))
        tracker = f"{address}:5100"
        log = os.path.join(folder, "tracker.log")
        words = [f"{options.binaries}/tracker", "--listen", tracker, "--files", files, "--offload", "--volunteers", "open", "--state",
                 os.path.join(folder, "state"), "--log-file", log, "--quiet"]
        processes.start(space, folder, words)
        volunteers = {}
        for number in range(1, options.hosts + 1):
            host, here = network.host(number, options.rate, options.rate)
            name = f"v{number}"
            path = os.path.join(folder, name)
            os.mkdir(path)
            words = [f"{options.binaries}/client", "-folder", path, "-transfer_port", "7000", "-name", name, "--listen",
                     here, "--tracker", tracker, "--volunteer", f"{options.held * 4}MiB", "--log-file",
                     os.path.join(folder, f"{name}.log"), "--quiet"]
            volunteers[name] = processes.start(host, path, words)
        ask = lambda: status(options.binaries, space, tracker)
        began = time.monotonic()
        told = wait("distributed", ask, lambda told: proven(told) and told["files"][0]["offloaded"]
                    and told["files"][0]["here"] == 0, 3600, 0.5)
        shaped.say(f"distributed and offloaded in {time.monotonic() - began:.1f} s")
        held = {volunteer["name"]: volunteer["chunks"] for volunteer in told["volunteers"]}
        counts = list(held.values())
        victim = max(held, key=held.get)
        lost = held[victim] * min(512 * 1024, max(64 * 1024, 1 << (size * MEBIBYTE // 4096 - 1).bit_length()))
        os.kill(volunteers[victim].pid, 9)
        killed = time.monotonic()
        wait("away", lambda: True, lambda _: logged(log, f"{victim} is away with "), 60, 0.02)
        dead = time.monotonic()
        idle = lambda told: told["repair"]["waiting"] == 0 and told["repair"]["running"] == 0
        wait("copied", ask, idle, 3600, 0.02)
        copied = time.monotonic()
        told = wait("proven", ask, proven, 3600, 0.02)
        healed = time.monotonic()
        survivors = options.hosts - 1
        least = lost * 8 / (survivors * options.rate * 1e6)
        path = os.path.join(folder, "got")
        os.mkdir(path)
        got = processes.start(space, path, [f"{options.binaries}/client", "-folder", path, "-transfer_port", "0", "-name",
                              "getter", "--listen", address, "--tracker", tracker, "--get", "file.bin", "--quiet"])
        if got.wait(3600) != 0 or shaped.digest(os.path.join(path, "file.bin")) != digest:
            raise RuntimeError("the file that was got is not the one that was offered")
        return {"lost": lost, "spread": max(counts) / (sum(counts) / len(counts)), "lease": dead - killed,
                "copied": copied - dead, "repair": healed - dead, "least": least, "ratio": (healed - dead) / least}
    finally:
        processes.close()
        network.close()
        shutil.rmtree(folder, ignore_errors=True)


def main():
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=5, help="volunteers")
    parser.add_argument("--rate", type=float, default=200, help="Mbit/s of each, both ways")
    parser.add_argument("--held", type=int, default=1024, help="MiB at each volunteer")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--folder", default=None, help="for files; where there is room")
    parser.add_argument("--binaries", default=os.path.join(root, "target", "release"))
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("network namespaces need root")
    print("| MiB lost | fullest / mean volunteer | away after, s | copied after, s | proven after, s | bound, s | ratio |")
    print("|---|---|---|---|---|---|---|")
    for _ in range(options.repeat):
        done = measure(options)
        print(f"| {done['lost'] / MEBIBYTE:.0f} | {done['spread']:.2f} | {done['lease']:.1f} | {done['copied']:.1f} | {done['repair']:.1f} | "
              f"{done['least']:.1f} | {done['ratio']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
