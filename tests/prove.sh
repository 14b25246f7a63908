#!/usr/bin/env bash
# Injects every kind of fault and prints, for each, how many there were and how many reports were acknowledged, lost,
# doubled, or wrong otherwise (altered, unknown, miscounted). Exits non-zero unless the last three are zeros.
#   tests/prove.sh          the short form, some minutes; the same faults are among the tests of every change
#   tests/prove.sh long     at least 1,000 SIGKILLs and 10,000 power cuts, every sync and system call of the scripts: hours
#   tests/prove.sh table    the table of what the long form has shown of this code
# The long form goes on where it was stopped: what each test showed is a line of tests/proofs.tsv, with date, commit and seed,
# and counts for as long as src and Cargo.lock are the same. FOREBAY_PROVE_JOBS (2): tests at a time. FOREBAY_PROVE_ONLY:
# those alone whose name it matches (grep -E).
set -uo pipefail
cd "$(dirname "$0")/.."

filter='binary(disk) + binary(mysql) + binary(model) + test(/damage/) + (binary(e2e) &
  test(/^(consumers|crash|dead_letters|durable|exactly_once|forged|outage|poison|positions|races|shutdown)::/))'

# Prints the table of lines `fault injected acknowledged lost doubled wrong`, and says whether it is clean.
table() {
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
    }'
}

if [[ ${1:-} != long && ${1:-} != table ]]; then
  proofs=$(mktemp)
  trap 'rm -f "$proofs"' EXIT
  FOREBAY_PROOFS=$proofs tests/run.sh --no-fail-fast -E "$filter"
  status=$?
  table <"$proofs"
  zeros=$?
  exit $((status || zeros))
fi

# date, commit, code, test, seconds, outcome, fault, injected, acknowledged, lost, doubled, wrong, seed
results=tests/proofs.tsv
code=$({ git rev-parse HEAD:src HEAD:Cargo.lock; } | sha1sum | cut -c 1-10)
commit=$(git rev-parse --short HEAD)
touch "$results"

# How often a test is done in the long form, for what one run of it does too little of.
wanted() { # a test
  case $1 in
  crash::an_acked_report_survives_kill_nine::* | forged::whatever_an_attacker_*) echo 10 ;;
  *) echo 1 ;;
  esac
}

prove() { # a binary, a test
  local passed lines log begun=$SECONDS outcome=passed
  passed=$(awk -F '\t' -v code="$code" -v test="$1 $2" \
    '$3 == code && $4 == test && $6 == "passed" && !seen[$1]++ { n++ } END { print n + 0 }' "$results")
  lines=$(mktemp) log=$(mktemp)
  while ((passed < $(wanted "$2"))); do
    : >"$lines"
    begun=$SECONDS
    FOREBAY_PROVE=long FOREBAY_DAMAGES=${FOREBAY_DAMAGES:-300} FOREBAY_PROOFS=$lines \
      cargo nextest run -E "binary_id($1) & test(=$2)" >"$log" 2>&1 || outcome=failed
    [[ -s $lines ]] || printf -- '-\t0\t0\t0\t0\t0\t-\n' >"$lines"
    sed "s|^|$(date -u +%FT%TZ)\t$commit\t$code\t$1 $2\t$((SECONDS - begun))\t$outcome\t|" "$lines" >>"$results"
    printf '%-6s %5d s  %s\n' "$outcome" $((SECONDS - begun)) "$2"
    if [[ $outcome == failed ]]; then
      tail -40 "$log"
      break
    fi
    passed=$((passed + 1))
  done
  rm -f "$lines" "$log"
  [[ $outcome == passed ]]
}
export -f prove wanted
export code commit results

status=0
if [[ $1 == long ]]; then
  if [[ -n $(git status --porcelain src Cargo.lock) ]]; then
    echo "tests/prove.sh: src has changes that are in no commit: nobody could say what was proven" >&2
    exit 1
  fi
  # Builds all, and installs what it stands on.
  tests/run.sh --no-run || exit 1
  cargo nextest list -E "$filter" --message-format oneline 2>/dev/null | grep -E "${FOREBAY_PROVE_ONLY:-.}" |
    xargs -P "${FOREBAY_PROVE_JOBS:-2}" -L 1 bash -c 'prove "$0" "$1"' || status=1
fi
awk -F '\t' -v OFS='\t' -v code="$code" '$3 == code && $7 != "-" { print $7, $8, $9, $10, $11, $12 }' "$results" | table
zeros=$?
if awk -F '\t' -v code="$code" '$3 == code && $6 == "failed" { print "failed: " $4; bad = 1 } END { exit !bad }' "$results"; then
  status=1
fi
exit $((status || zeros))
