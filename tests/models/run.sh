#!/usr/bin/env bash
# Model-checks the concurrent parts: the real queue, index, flushers, drainers and writers under schedules that a model
# checker (shuttle) chooses, over a journal in memory. FOREBAY_SCHEDULES (500) of each kind for each model.
#   FOREBAY_SCHEDULES=100000 tests/models/run.sh a_shutdown     one model for long
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo test --lib --features models models:: -- "$@"
