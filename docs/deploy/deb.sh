#!/usr/bin/env bash
# Builds the Debian package: the program first, which then makes its manual pages and completions, then the package.
# Needs cargo-deb (`cargo install --locked cargo-deb`).
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo build --release --locked --bin forebay
mkdir -p target/man target/completions
target/release/forebay man --dir target/man
target/release/forebay completions bash > target/completions/forebay.bash
target/release/forebay completions zsh > target/completions/_forebay
target/release/forebay completions fish > target/completions/forebay.fish
cargo deb --no-build "$@"
