#!/usr/bin/env bash
# Checks packages and services, all or some parts: bash packaging/check.sh [size] [units] [deb] [static] [container]
# Needs root, or user namespaces. Parts whose tools are missing are skipped with a line that says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
programs="tracker manager seeder leecher client"
work=$(mktemp -d)
started=()
cleanup() {
    for pid in "${started[@]}"; do kill "$pid" 2> /dev/null || true; done
    rm -rf "$work"
}
trap cleanup EXIT

# As root of a user namespace if this user is not root: for dpkg and chroot.
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else unshare --map-root-user "$@"; fi; }
fail() { echo "FAILED: $*" >&2; exit 1; }

# Waits up to 60 s until a file contains a text.
wait_for() {
    for _ in $(seq 600); do
        grep -q "$2" "$1" 2> /dev/null && return
        sleep 0.1
    done
    cat "$1" >&2
    fail "$1 does not contain $2"
}

# Transfers a file between the programs in a root folder; $2 is the begin of their paths there.
transfer() {
    local root=$1 begin=$2
    mkdir -p "$root/data"
    seq 100000 > "$root/data/numbers.txt"
    as_root chroot "$root" "${begin}tracker" --listen 127.0.0.1:0 --log-file /data/tracker.log \
        < /dev/null > /dev/null 2>&1 &
    started+=($!)
    wait_for "$root/data/tracker.log" "tracker listening on"
    local at
    at=$(sed -n 's/.* tracker listening on \([0-9.:]*\),.*/\1/p' "$root/data/tracker.log")
    as_root chroot "$root" "${begin}seeder" -f /data/numbers.txt -p 0 --until 1 --tracker "$at" \
        --log-file /data/seeder.log < /dev/null > /dev/null 2>&1 &
    local seeder=$!
    started+=("$seeder")
    wait_for "$root/data/tracker.log" "chunks of numbers.txt"
    as_root chroot "$root" "${begin}leecher" numbers.txt --out /data/copy --tracker "$at" --json \
        --log-file /data/leecher.log < /dev/null > "$work/events" 2> /dev/null
    [ "$(tail -n 1 "$work/events")" = '{"type":"exit","code":0}' ] || fail "no exit event: $(cat "$work/events")"
    cmp "$root/data/numbers.txt" "$root/data/copy"
    wait "$seeder" || fail "the seeder ended with $?"
}

check_size() {
    cargo build --quiet --release --bins
    local total=0 size
    for program in $programs; do
        strip -o "$work/$program" "target/release/$program"
        size=$(stat -c %s "$work/$program")
        total=$((total + size))
    done
    # The aim is 20 MiB. The limit catches growth until a smaller build is shown to be as fast.
    echo "size: the five stripped programs have $total bytes"
    [ "$total" -le $((36 << 20)) ] || fail "more than 36 MiB"
}

check_units() {
    if ! command -v systemd-analyze > /dev/null; then echo "units: skipped, no systemd-analyze"; return; fi
    cargo build --quiet --release --bins
    mkdir -p "$work/units"
    for unit in packaging/systemd/*.service; do
        # The programs are not installed yet.
        sed "s|/usr/bin/shoal-|$PWD/target/release/|" "$unit" > "$work/units/$(basename "$unit")"
        # Tenths of the exposure level: 2.0 of 10.
        systemd-analyze security --offline=yes --threshold=20 "$unit" > "$work/security" \
            || { cat "$work/security"; fail "$unit is exposed"; }
    done
    systemd-analyze verify --man=no "$work"/units/*.service
    echo "units: verified"
}

check_deb() {
    if ! command -v dpkg > /dev/null; then echo "deb: skipped, no dpkg"; return; fi
    bash packaging/deb.sh
    local root=$work/root deb
    deb=$(echo target/debian/shoal_*.deb)
    mkdir -p "$root"/var/lib/dpkg/{info,updates}
    touch "$root/var/lib/dpkg/status"
    local dpkg=(as_root dpkg --root="$root" --log=/dev/null --force-depends --force-not-root --force-script-chrootless)
    "${dpkg[@]}" --install "$deb" > /dev/null
    for program in $programs; do
        [ -x "$root/usr/bin/shoal-$program" ] || fail "shoal-$program is not installed"
        [ -s "$root/usr/share/man/man1/shoal-$program.1.gz" ] || fail "shoal-$program has no man page"
        for file in bash-completion/completions/shoal-$program zsh/vendor-completions/_shoal-$program \
            fish/vendor_completions.d/shoal-$program.fish; do
            [ -s "$root/usr/share/$file" ] || fail "$file is missing"
        done
        # The libraries of Debian that the package depends on.
        ldd "$root/usr/bin/shoal-$program" | grep -o '/[^ ]*' | while read -r library; do
            mkdir -p "$root$(dirname "$library")"
            cp -L "$library" "$root$library"
        done
    done
    [ "$(ls "$root"/usr/lib/systemd/system/ | wc -l)" = 4 ] || fail "units are missing"
    transfer "$root" /usr/bin/shoal-
    "${dpkg[@]}" --purge shoal > /dev/null
    local left
    left=$(find "$root" -name '*shoal*' -not -path '*/var/lib/dpkg/*')
    [ -z "$left" ] || fail "left behind: $left"
    echo "deb: installed, run and removed ($(stat -c %s "$deb") bytes)"
}

check_static() {
    local target
    target=$(rustc -vV | sed -n 's/^host: //p')
    # Without the second flag random bytes need /dev/urandom: a static program does not find the function of the C library.
    RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"' \
        cargo build --quiet --target "$target" --bin tracker --bin seeder --bin leecher
    mkdir "$work/empty"
    for program in tracker seeder leecher; do
        strip -o "$work/empty/$program" "target/$target/debug/$program"
    done
    transfer "$work/empty" /
    echo "static: a file was transferred in an empty root directory"
}

check_container() {
    if ! docker info > /dev/null 2>&1; then echo "container: skipped, no docker"; return; fi
    docker build --quiet --file packaging/Containerfile --tag shoal-check .
    docker run --rm shoal-check leecher --version
    docker image rm shoal-check > /dev/null
    # The package in Debian itself, with its dependencies.
    docker run --rm --volume "$PWD/target/debian:/deb:ro" debian:stable-slim \
        sh -c 'apt-get update -qq && apt-get install -qq /deb/shoal_*.deb && shoal-tracker --version && apt-get purge -qq shoal'
    echo "container: built and run"
}

for part in ${*:-size units deb static container}; do
    "check_$part"
done
