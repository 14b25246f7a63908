#!/usr/bin/env bash
# Builds each planted fault and shows that its test turns red (tests/run.sh shows that without it the test is green). Exits
# non-zero when a plant is not found. Takes the names of plants, or all.
# FOREBAY_PLANTS_SHARE (1): every n-th plant alone, which ones by the number of commits, so that n commits in turn have all.
set -uo pipefail
cd "$(dirname "$0")/../.."

# plant | the test that must find it, behind its binary (lib: the unit tests, models: the models) | what it breaks
plants='
ack_before_sync          | e2e::durable::an_ack_is_written_only_after_the_journals_file_was_synced     | the ack leaves before the sync
write_without_sync       | e2e::durable::an_ack_is_written_only_after_the_journals_file_was_synced     | no sync of the file
sync_by_sled_alone       | disk::power::an_acked_report_survives_a_power_cut_at_any_sync               | trees of sled without a sync of their file
reuse_too_soon           | lib::journal::store::recent::tests::a_segment_is_written_again_only_once_it_is_on_disk_that_all_of_it_is_gone | a segment is written over before it is known to be free
seal_without_secret      | lib::journal::tests::forged::what_a_report_holds_is_no_entry_where_its_bundle_is_damaged | what a client sends is taken for bytes of the journal
take_any_id              | e2e::ids::ids_without_end_are_refused_in_time_and_the_node_starts_again_in_the_same_memory | ids in memory have no limit
keep_what_is_free        | e2e::memory::a_node_has_the_allocator_give_back_what_is_free                 | the allocator keeps what is free
take_every_descriptor    | e2e::descriptors::a_crowd_of_connections_never_keeps_the_journal_from_its_files | connections take what the journal needs
export_under_lock        | e2e::damage::an_export_that_is_read_slowly_keeps_no_node_from_its_journal | an export holds the journal while it is read
lose_unlisted            | lib::journal::tests::forged::what_is_dead_by_damage_is_listed_with_what_is_known_of_it | reports are dead by damage, and no list has them
keep_what_is_torn        | lib::journal::store::recent::tests::what_was_torn_before_it_was_synced_never_comes_back | a torn end is left where it lies
truncate_before_store    | e2e::outage::a_batch_on_its_way_to_a_dead_server_survives_kill_nine::mariadb         | entries go before the commit of the sink
plain_insert             | e2e::exactly_once::one_seq_before_and_after_a_restart_is_one_row_in_a_server::mariadb | INSERT without ON DUPLICATE KEY
position_from_last_entry | e2e::positions::no_key_is_reused_after_draining_to_empty_and_restarting_six_times | positions follow the last entry found
marker_overtakes         | e2e::done::a_marker_never_overtakes_the_reports_before_it                   | a marker goes ahead of its commit
pause_in_memory          | e2e::streams::a_paused_id_is_taken_and_not_drained_over_sigkill_and_sigterm_until_it_is_resumed | a pause is told and not written
shutdown_drains_paused   | e2e::streams::a_paused_id_is_taken_and_not_drained_over_sigkill_and_sigterm_until_it_is_resumed | a shutdown drains what is paused
forget_settlements_of_runs | lib::journal::tests::bundles::what_is_settled_of_a_run_stays_so_over_a_kill | settlements go with their bundles, though runs need them
free_before_it_counts    | lib::journal::tests::bundles::a_sort_that_fails_loses_nothing              | bundles go before their run counts
drop_the_youngest        | lib::journal::tests::bundles::what_is_drained_of_many_runs_leaves_the_disk_though_one_id_waits | a merge leaves out the last block
trust_a_page             | lib::journal::tests::bundles::a_page_that_is_damaged_is_damage             | a page is believed without its checksum
count_a_run_before_its_sync | disk::power::what_is_sorted_and_merged_survives_a_power_cut_at_any_sync | a run counts before it is on disk
forget_settlements       | lib::journal::tests::bundles::a_bundle_that_is_kept_for_one_id_brings_back_nothing_of_another | a kept bundle brings back what is settled
take_from_both           | lib::journal::tests::bundles::an_entry_that_is_in_its_bundle_and_in_its_run_is_drained_once | what moved is taken twice
open_without_looking     | lib::journal::tests::damage::a_damaged_header_of_any_segment_is_seen        | sled opens a log that nobody walked
lock_nothing             | lib::journal::tests::salvage::who_comes_second_reads_and_changes_nothing_of_a_journal_however_damaged | a journal is opened without its lock
take_what_is_half_made   | lib::journal::tests::salvage::a_salvage_that_was_cut_off_at_any_step_is_begun_again_or_gone_on_with | a new journal counts before it is whole
blame_the_files          | e2e::damage::a_clock_before_1970_is_no_damage                                | a clock before 1970 is taken for damage
truncate_before_store    | mysql::cuts::a_node_that_is_killed_with_a_transaction_in_doubt_loses_and_doubles_nothing::mariadb | the same
count_twice              | mysql::cuts::a_way_that_breaks_at_any_packet_of_a_drain_loses_and_doubles_nothing::mariadb        | streams count the batch, not the new rows
session_lingers          | mysql::cuts::a_way_that_breaks_at_any_packet_of_a_drain_loses_and_doubles_nothing::mariadb        | a session that failed keeps its locks
bury_on_unknown          | mysql::unknown::a_code_that_nobody_knows_holds_up_its_own_id_and_drops_nothing::mariadb           | an unknown code is taken for poison
retry_for_ever           | mysql::unknown::a_code_that_nobody_knows_holds_up_its_own_id_and_drops_nothing::mariadb           | an id that fails holds up all of its transaction
refuse_silently          | lib::journal::tests::an_id_past_its_backlog_is_refused_and_others_are_not   | a refused report has no reply
trust_the_bytes          | lib::journal::tests::a_damaged_entry_is_set_aside_by_name_and_the_rest_is_served | a checksum that is not looked at
forget_the_dead          | lib::journal::tests::damage_that_appears_while_running_is_set_aside_and_the_audit_balances | the audit leaves out what is dead
lose_a_wake_up           | models::journal::models::what_is_pushed_is_taken_in_order_and_never_left_waiting | the commit thread sleeps over a command
leave_in_commit          | models::drain::models::an_id_that_returns_while_it_is_drained_or_leaves_is_stored_in_order | an id leaves while a commit works on it
let_an_id_return_unseen  | models::drain::models::an_id_that_returns_while_it_is_drained_or_leaves_is_stored_in_order | an id that has only appends on their way is left to nobody
note_too_late            | models::drain::models::a_marker_that_comes_while_the_flusher_looks_is_not_overlooked | a flusher says what it waits for after it looked
refuse_in_an_outage      | e2e::limits::a_sink_that_is_down_stops_neither_start_nor_acks               | a sink that is down stops the acks
go_on_after_failed_sync  | e2e::durable::no_ack_comes_after_a_sync_that_failed_and_the_node_ends_with_an_error | a failed sync counts as one
trust_the_path           | sink::files::what_waits_for_the_lock_of_a_compaction_is_stored_in_the_compacted_file      | a commit into a file that was moved over is believed
begin_anew               | e2e::moves::a_file_that_is_moved_away_under_load_is_waited_for_and_nothing_is_lost      | an empty file takes the place of one that was moved away
any_log                  | sink::files::a_file_beside_a_wal_of_another_state_is_refused_and_not_served             | a -wal is laid over whatever it lies beside
slow_ones_stay           | lib::ingest::budget::tests::a_slow_one_is_wanted_once_others_wait           | who takes memory slowly keeps it from all others
hold_what_comes          | lib::ingest::budget::tests::what_is_small_is_never_in_want                  | replies are not counted
ids_without_end          | lib::ingest::presence::tests::all_connections_together_have_one_too_and_give_it_back | ids of connections have no limit
dones_without_end        | lib::ingest::dones::tests::nobody_gets_more_than_half_of_what_is_left       | dones that wait have no limit
serve_any_host           | e2e::edges::a_page_that_pointed_its_name_here_writes_no_report                  | a page that points its name here writes reports
serve_what_cannot_be_read | e2e::edges::a_host_that_cannot_be_read_or_is_there_twice_or_not_is_refused_by_both_listeners | a host that cannot be read counts as none
take_what_is_not_decoded | e2e::edges::a_body_in_an_encoding_that_is_not_decoded_is_refused             | a body is taken in an encoding that nobody undid
end_with_tls_alone       | e2e::edges::who_stops_writing_gets_the_acks_of_what_came_whole_with_and_without_tls | an end without close_notify is a lost connection
believe_anybody          | e2e::proxies::the_headers_of_whoever_is_no_trusted_proxy_are_not_looked_at     | whoever sends the header of a proxy is believed
believe_the_client       | e2e::proxies::whom_a_report_is_from_is_what_the_trusted_proxy_says_and_nothing_else | what the client wrote itself into the header is believed
guess_the_proxy_header   | e2e::proxies::a_proxy_header_is_required_and_never_guessed                   | a connection of a proxy is served without its header
count_the_proxy          | e2e::proxies::connections_are_counted_for_the_client_and_never_for_the_proxy | a proxy counts as one address
store_what_is_aside      | e2e::set_aside::a_report_that_the_sink_fails_over_is_set_aside_and_those_behind_it_go_on | a report that was set aside is stored all the same
recall_what_is_on_its_way | e2e::set_aside::what_is_on_its_way_to_the_sink_is_not_set_aside              | a batch is given back while the sink may be storing it
any_content_is_a_duplicate | sink::sqlite::a_key_with_other_content_is_a_dead_letter_that_shows_both | a key that is used again is a duplicate, whatever it holds
a_number_is_ours         | sink::sqlite::what_a_node_numbered_is_stored_though_the_sink_has_its_number | what has a number that this node gave out is its own
tried_as_a_whole         | sink::sqlite::only_what_was_sent_and_may_be_stored_can_be_a_repetition        | all that a writer has at hand counts as sent
forget_tries             | sink::sqlite::only_what_was_sent_and_may_be_stored_can_be_a_repetition        | what was sent and may be stored counts as new
every_connection_or_none | sink::connections::a_user_who_may_have_fewer_connections_than_there_are_writers_drains_all_of_them::mariadb | a refused connection is an outage, though others work
miss_what_was_removed    | sink::files::a_compaction_of_a_file_whose_streams_a_consumer_removed_is_gone_on_with | a file must have what a consumer removed before
mark_of_any_journal      | sink::sqlite::a_row_that_somebody_removed_does_not_come_back                 | the mark of one journal counts for the positions of another
mark_passes_letters      | sink::sqlite::what_is_remembered_as_settled_never_passes_a_letter_that_is_not_durable | a mark passes a report that is neither a row nor a letter
replay_all               | sink::sqlite::a_row_that_somebody_removed_does_not_come_back                 | a replay brings back what was removed
store_unclaimed          | sink::claims::mariadb::a_connection_that_was_open_before_stores_nothing_once_another_has_the_claim | a transaction is committed though its node_id is anothers
forget_the_recalled      | lib::sink::writer::tests::of_a_batch_that_is_recalled_it_is_known_what_is_stored_and_buried | a report that is a row is set aside
trust_a_copy             | sink::claims::sqlite::an_original_that_comes_back_after_its_copy_counts_nothing_of_its_own_as_stored | the marks of a copy count for its original
write_to_any_table       | sink::tables::tables_that_cannot_keep_the_promises_are_refused_with_the_statement_that_mends_them::mariadb | tables are written to whatever they are like
up_while_it_refuses_all  | sink::classes::a_table_that_refuses_every_row_blocks_until_it_takes_one::mariadb | the state is up while every row is refused
trust_the_driver         | sink::hostile::a_server_that_answers_what_none_should_is_an_error_and_no_panic            | a panic of the driver ends the node
inflate_to_the_end       | lib::ingest::post::body::tests::what_gzip_made_is_inflated_up_to_the_limit_and_nothing_else | what is inflated has no limit
keep_some                | e2e::post::all_of_an_atomic_request_is_kept_or_none_of_it                   | an atomic request is kept in part
tell_the_withdrawn       | lib::ingest::outbox::tests::who_is_withdrawn_is_told_of_nothing_that_comes_later | a withdrawn token is told of what is drained
serve_the_withdrawn      | e2e::reload::the_socket_of_a_withdrawn_token_is_closed_and_told_nothing_more | the socket of a withdrawn token stays open
wait_for_who_left        | e2e::edges::who_leaves_is_waited_for_no_more_and_what_it_held_is_free_again  | a request waits though its client is gone
answer_at_once           | e2e::post::a_request_waits_for_its_dones_and_no_longer_than_it_says         | a request that asks to wait does not
one_type_of_lines        | e2e::post::lines_have_many_types_and_perhaps_a_byte_order_mark              | lines are known by one of their types alone
text_alone               | e2e::frames::a_binary_message_is_taken_like_text                            | JSON in a binary frame is refused
leave_lengths            | e2e::edges::a_length_beyond_all_limits_is_413_before_the_body               | a length that hyper cannot read is no length
repeat_secrets           | e2e::secrets::no_setting_repeats_a_secret_that_is_pasted_into_it            | an error repeats the value that it is about
listen_late              | e2e::starts::a_hangup_before_the_settings_are_read_ends_nothing              | a signal in the first milliseconds ends the process
forget_quotas            | lib::access::tests::a_quota_goes_on_counting_when_its_entry_comes_back       | max_ids begins anew when a token comes back
wait_for_what_is_claimed | e2e::edges::a_chunk_that_claims_more_than_there_may_be_is_refused_at_once    | a chunk that no body can have is waited for
last_answer_wins         | e2e::races::a_report_and_a_done_over_two_connections_at_once_leave_what_the_later_says | a marker goes by the order of answers
'

run() { # a plant, a binary, a test
  local where=(--test "$2")
  case $2 in
  lib) where=(--lib) ;;
  models) where=(--lib --features models) ;;
  esac
  FOREBAY_PLANT=$1 RUST_BACKTRACE=0 cargo nextest run --profile plants "${where[@]}" -E "test(=$3)" >"$log" 2>&1
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
caught=0 missed=0 place=0
share=${FOREBAY_PLANTS_SHARE:-1}
turn=$(((share > 1 ? $(git rev-list --count HEAD) : 0) % share))
while IFS='|' read -r plant test what; do
  plant=${plant// /} test=${test// /}
  binary=${test%%::*} test=${test#*::}
  [[ -z $plant ]] && continue
  if ((place++ % share != turn)); then continue; fi
  if (($#)) && [[ " $* " != *" $plant "* ]]; then continue; fi
  run "$plant" "$binary" "$test"
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
