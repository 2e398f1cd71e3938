#!/usr/bin/env bash
# Builds target/debian/shoal_*.deb with cargo-deb, from the programs in target/release.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tools=target/tools
if ! command -v cargo-deb > /dev/null && [ ! -x "$tools/bin/cargo-deb" ]; then
    # Without optimisation it is built in a third of the time.
    cargo install --quiet --locked --debug --root "$tools" cargo-deb
fi
PATH="$PATH:$PWD/$tools/bin"
cargo build --quiet --release --bins
rm -rf target/pages
cargo run --quiet --example pages -- --prefix shoal- target/pages
gzip --best --no-name target/pages/man1/*.1
rm -f target/debian/*.deb
cargo deb --quiet --no-build
