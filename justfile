# The commands of this house; `just` lists them. Each is a script or a cargo command that works without just, too.

# Lists the recipes.
default:
    @just --list --unsorted

# Builds the program.
build:
    cargo build --release --locked

# Format, lints, and the docs of the code: seconds once the crates are built.
check:
    cargo fmt --all --check
    cargo clippy --all-targets -- -D warnings
    RUSTDOCFLAGS='-D warnings' cargo doc --no-deps
    cargo test --quiet --test tidy --test docs

# All tests, or those that the arguments choose: `just test --test e2e poison`. Installs what they need.
test *arguments:
    tests/run.sh {{ arguments }}

# Injects every kind of fault and prints the table: `short` takes minutes, `long` hours, `table` prints what is known.
prove form='short':
    tests/prove.sh {{ form }}

# Plants each fault, or those that are named, and shows which test finds it.
plant *names:
    tests/plants/run.sh {{ names }}

# Model-checks the concurrent parts.
models *arguments:
    tests/models/run.sh {{ arguments }}

# Runs one fuzz target for some seconds: `just fuzz message 60`. Needs a nightly toolchain and cargo-fuzz.
fuzz target seconds='20':
    cargo +nightly fuzz run --sanitizer none {{ target }} -- -max_total_time={{ seconds }} -rss_limit_mb=2048

# Runs one benchmark: `just bench peers --repeats 1`. Wants a machine that does nothing else.
bench name *options:
    cargo bench --bench {{ name }} -- {{ options }}

# Licences, banned crates and sources of all dependencies. Needs cargo-deny.
deny:
    cargo deny --locked check bans licenses sources

# Known vulnerabilities of all dependencies. Needs cargo-deny, and a network for its database.
advisories:
    cargo deny --locked check advisories

# All that a change must pass, as CI runs it.
ci:
    .ci/run
