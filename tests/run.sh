#!/usr/bin/env bash
# Runs all tests. Installs with apt-get what they stand on, where it is missing, and fetches MySQL into target/mysql.
# Arguments go to the test runner:
#   tests/run.sh                                    everything
#   tests/run.sh --test e2e poison                  one binary, tests with `poison` in their name
#   FOREBAY_CRASH_ROUNDS=100 tests/run.sh --test e2e an_acked_report_survives
# FOREBAY_CRASH_ROUNDS (10): rounds of kill -9. FOREBAY_OUTAGE_SECONDS (5): how long the database stays away.
# FOREBAY_SCREENSHOTS=docs/images tests/run.sh --test browser looks: takes the pictures of the docs anew.
# FOREBAY_API_EXAMPLES (10): requests made up for each operation of the admin API.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PATH:/usr/sbin"

# What the tests call, and the package that has it.
needed=(mariadbd:mariadb-server mariadb-install-db:mariadb-server strace:strace setpriv:util-linux cc:gcc
  promtool:prometheus systemd-analyze:systemd chromium:chromium chromedriver:chromium-driver
  nginx:nginx haproxy:haproxy syslog-ng:syslog-ng-core)
missing=()
# Where the check of the admin API against its description lives; Debian has no package of it.
schemathesis=target/schemathesis
if [[ ! -x $schemathesis/bin/schemathesis ]]; then
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
fi
for pair in "${needed[@]}"; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || missing+=(faketime)
compgen -G '/usr/lib/syslog-ng/*/libhttp.so' >/dev/null || missing+=(syslog-ng-mod-http)

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

if [[ ! -x $schemathesis/bin/schemathesis ]]; then
  echo "tests/run.sh: installing schemathesis into $schemathesis"
  mkdir -p target
  python3 -m venv "$schemathesis"
  "$schemathesis/bin/pip" install -q --disable-pip-version-check 'schemathesis==4.32.5'
fi

# README promises MySQL, and Debian 12 has none: without it there is nothing to be said for it.
tests/servers/mysql.sh || { echo "tests/run.sh: MySQL cannot be had, and half of the tests run over it" >&2; exit 1; }

if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run "$@"
  # nextest runs no documentation tests.
  if (($# == 0)); then cargo test -q --doc; fi
else
  cargo test "$@"
fi
