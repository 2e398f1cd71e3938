"""Cases of `link` without rounds of rivals: the rate of publishing, and the memory of a leecher of 10 GiB."""

import os, shutil, statistics, subprocess, time
import contenders
from rig import GIBIBYTE, MEBIBYTE, Server, say

LARGE_BYTES = 10 * GIBIBYTE
CHUNK_BYTES = 512 * 1024


def publish(folder, source, options):
    """Time to hash a file before it is published, over the SHA-256 rate of all cores."""
    bare = os.path.join(options.binaries, "examples", "bare")
    if not os.path.exists(bare):
        return f"Left out: {bare} does not exist."
    size = os.path.getsize(source)
    rounds = [publish_once(bare, options.binaries, folder, source, size) for _ in range(options.rounds * 2)]
    one, many, hashed, share, share_many, whole, cpu, peak = (statistics.median(column) for column in zip(*rounds))
    say(f"publish: {share:.2f}, {share_many:.2f}")
    return "\n".join([
        "| SHA-256 on all cores, from their caches | the same, as many at once as a seeder hashes | publishing, from the page "
        "cache | / the first (target: at least 0.90) | / the second | a seeder from its start until it serves | CPU s/GiB "
        "| peak MiB |",
        "|" + "---|" * 8,
        f"| {one:.2f} GB/s | {many:.2f} GB/s | {hashed:.2f} GB/s | {share:.2f} | {share_many:.2f} | {whole:.2f} s "
        f"| {cpu:.2f} | {peak:.1f} |",
    ])


def publish_once(bare, binaries, folder, source, size):
    def words_of(*words):
        return subprocess.run([bare, *words], check=True, capture_output=True, text=True).stdout.split()

    one, many = (float(word) for word in words_of("rate", str(size)))
    hashed = float(words_of("publish", source)[0])
    words = [os.path.join(binaries, "seeder"), "-f", source, "-p", "0", "--tracker", "127.0.0.1:9",
             "--log-file", os.path.join(folder, "publish.log")]
    began = time.monotonic()
    seeder = Server(words, os.path.join(folder, "publish.out"), folder)
    try:
        seeder.wait_for("serving ")
        whole = time.monotonic() - began
        rates = (size / seconds / 1e9 for seconds in (one, many, hashed))
        return *rates, one / hashed, many / hashed, whole, seeder.cpu() * GIBIBYTE / size, seeder.peak() / MEBIBYTE
    finally:
        seeder.stop()


def large(folder, options, digest):
    """The memory of a leecher of 10 GiB from three seeders. Each chunk of the source has bytes at its beginning and is a
    hole otherwise, so that the source needs no space; the target is written whole."""
    if shutil.disk_usage(folder).free < LARGE_BYTES + GIBIBYTE:
        return "Left out: less than 11 GiB are free."
    source = os.path.join(folder, "large.bin")
    with open(source, "wb") as file:
        file.truncate(LARGE_BYTES)
        for at in range(0, LARGE_BYTES, CHUNK_BYTES):
            file.seek(at)
            file.write(os.urandom(64))
    shoal = contenders.Shoal(contenders.Setting(folder, source, options.binaries, seeders=3))
    try:
        shoal.start()
        cost, path = shoal.fetch(os.path.join(folder, "received"))
        if digest(path) != digest(source):
            raise RuntimeError("the received 10 GiB differ from the source")
    finally:
        shoal.stop()
    return (f"Once: {cost.seconds:.1f} s, {cost.cpu / 10:.2f} CPU s/GiB receiving, peak of the leecher "
            f"{cost.peak / MEBIBYTE:.1f} MiB (target: under 64), of a seeder {cost.peak_servers / MEBIBYTE:.1f} MiB.")
