#!/usr/bin/env bash
# Runs all tests. Installs with apt-get what they stand on, where it is missing. Arguments go to the test runner:
#   tests/run.sh                                    everything
#   tests/run.sh --test e2e poison                  one binary, tests with `poison` in their name
#   FOREBAY_CRASH_ROUNDS=100 tests/run.sh --test e2e an_acked_report_survives
# FOREBAY_CRASH_ROUNDS (10): rounds of kill -9. FOREBAY_OUTAGE_SECONDS (5): how long the database stays away.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PATH:/usr/sbin"

# What the tests call, and the package that has it.
needed=(mariadbd:mariadb-server mariadb-install-db:mariadb-server strace:strace setpriv:util-linux cc:gcc
  systemd-analyze:systemd)
missing=()
for pair in "${needed[@]}"; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || missing+=(faketime)

if ((${#missing[@]})); then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  echo "tests/run.sh: installing ${missing[*]}"
  as_root=()
  if ((EUID != 0)); then as_root=(sudo); fi
  "${as_root[@]}" apt-get update -q
  # A database server of the machine's own is not wanted: each test starts one for itself.
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run "$@"
  # nextest runs no documentation tests.
  if (($# == 0)); then cargo test -q --doc; fi
else
  cargo test "$@"
fi
