#!/usr/bin/env bash
# Builds each planted fault and shows that its test turns red, and, without the plant, green. Exits non-zero when a plant
# is not found. Takes the names of plants, or all.
set -uo pipefail
cd "$(dirname "$0")/../.."

# plant | the test that must find it | what it breaks
plants='
ack_before_sync          | durable::an_ack_is_written_only_after_the_journals_file_was_synced     | the ack leaves before the sync
sync_by_sled_alone       | durable::an_ack_is_written_only_after_the_journals_file_was_synced     | no sync of the file itself
truncate_before_store    | shutdown::what_cannot_be_drained_stays_for_the_next_start              | entries go before the commit of the sink
plain_insert             | exactly_once::one_seq_over_two_connections_and_by_post_is_one_row      | INSERT without ON DUPLICATE KEY
position_from_last_entry | positions::no_key_is_reused_after_draining_to_empty_and_restarting_six_times | positions follow the last entry found
marker_overtakes         | flushing::a_marker_never_overtakes_the_reports_before_it                | a marker goes ahead of its commit
'

run() { # the plant, or none; a test
  FOREBAY_PLANT=${1:-} tests/plants/cargo.sh nextest run --test e2e -E "test(=$2)" >"$log" 2>&1
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
caught=0 missed=0
while IFS='|' read -r plant test what; do
  plant=${plant// /} test=${test// /}
  [[ -z $plant ]] && continue
  if (($#)) && [[ " $* " != *" $plant "* ]]; then continue; fi
  run "$plant" "$test"
  if grep -q "FAIL .* $test\|TIMEOUT .* $test" "$log"; then
    printf '%-25s caught by %s\n' "$plant" "$test"
    caught=$((caught + 1))
  else
    printf '%-25s NOT CAUGHT by %s (%s)\n' "$plant" "$test" "$what"
    tail -5 "$log"
    missed=$((missed + 1))
  fi
done <<<"$plants"
echo "$caught passed, $missed failed"
((missed == 0))
