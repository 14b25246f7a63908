#!/usr/bin/env bash
# Injects every kind of fault and prints, for each, how many there were and how many reports were acknowledged, lost,
# doubled, or wrong otherwise (altered, unknown, miscounted). Exits non-zero unless the last three are zeros.
#   tests/prove.sh          the short form, some minutes; the same faults are among the tests of every change
#   tests/prove.sh long     at least 1,000 SIGKILLs and 10,000 power cuts, every sync and system call of the scripts
set -uo pipefail
cd "$(dirname "$0")/.."

proofs=$(mktemp)
trap 'rm -f "$proofs"' EXIT
export FOREBAY_PROOFS=$proofs
if [[ ${1:-} == long ]]; then
  export FOREBAY_PROVE=long FOREBAY_DAMAGES=${FOREBAY_DAMAGES:-300}
fi

tests/run.sh --no-fail-fast -E 'binary(disk) + binary(mysql) + binary(model) + test(/damage/) +
  (binary(e2e) & test(/^(crash|outage|races|exactly_once|dead_letters|poison|positions|durable|shutdown)::/))'
status=$?

awk -F '\t' '
  { if (!($1 in at)) { at[$1] = ++kinds; name[kinds] = $1 }
    k = at[$1]; i[k] += $2; a[k] += $3; l[k] += $4; d[k] += $5; w[k] += $6
    ti += $2; ta += $3; tl += $4; td += $5; tw += $6 }
  END {
    print "\n| fault | injected | acknowledged | lost | doubled | wrong |"
    print "|---|---|---|---|---|---|"
    for (k = 1; k <= kinds; k++)
      printf "| %s | %d | %d | %d | %d | %d |\n", name[k], i[k], a[k], l[k], d[k], w[k]
    printf "| all | %d | %d | %d | %d | %d |\n", ti, ta, tl, td, tw
    exit (kinds == 0 || tl + td + tw > 0)
  }' "$proofs"
zeros=$?
((status == 0 && zeros == 0))
