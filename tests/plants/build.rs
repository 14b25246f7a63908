//! Plants one fault where `FOREBAY_PLANT` names it, so that `tests/plants/run.sh` can show that a test finds it.
//! No release build can have one.

/// The faults, as `tests/plants/run.sh` lists them with the tests that find them.
const PLANTS: &[&str] = &[
    "ack_before_sync",
    "write_without_sync",
    "sync_by_sled_alone",
    "truncate_before_store",
    "plain_insert",
    "position_from_last_entry",
    "marker_overtakes",
    "read_before_sync",
    "open_without_looking",
    "count_twice",
    "bury_on_unknown",
    "retry_for_ever",
    "session_lingers",
    "pause_in_memory",
    "shutdown_drains_paused",
    "last_answer_wins",
    "lose_a_wake_up",
    "leave_in_commit",
    "let_an_id_return_unseen",
    "note_too_late",
    "refuse_silently",
    "refuse_in_an_outage",
    "go_on_after_failed_sync",
    "trust_the_bytes",
    "forget_the_dead",
    "forget_settlements",
    "take_from_both",
    "move_what_is_taken",
    "leave_before_sync",
    "take_back_oldest_first",
    "reuse_too_soon",
    "keep_what_is_torn",
    "seal_without_secret",
    "lose_unlisted",
    "take_any_id",
    "take_every_descriptor",
    "export_under_lock",
    "trust_the_path",
    "begin_anew",
    "any_log",
    "store_what_is_aside",
    "recall_what_is_on_its_way",
    "hold_what_comes",
    "slow_ones_stay",
    "ids_without_end",
    "dones_without_end",
    "serve_any_host",
    "serve_what_cannot_be_read",
    "take_what_is_not_decoded",
    "end_with_tls_alone",
    "believe_anybody",
    "repeat_secrets",
    "wait_for_what_is_claimed",
    "listen_late",
    "forget_quotas",
    "write_for_all",
    "believe_the_client",
    "guess_the_proxy_header",
    "count_the_proxy",
    "trust_the_driver",
    "any_content_is_a_duplicate",
    "a_number_is_ours",
    "mark_of_any_journal",
    "mark_passes_letters",
    "replay_all",
];

fn main() {
    println!("cargo:rerun-if-env-changed=FOREBAY_PLANT");
    println!("cargo:rerun-if-changed=tests/plants/build.rs");
    println!("cargo:rustc-check-cfg=cfg(forebay_plant, values(\"{}\"))", PLANTS.join("\", \""));
    let Ok(plant) = std::env::var("FOREBAY_PLANT") else { return };
    assert!(PLANTS.contains(&plant.as_str()), "FOREBAY_PLANT={plant} is none of {PLANTS:?}");
    assert_ne!(std::env::var("PROFILE").as_deref(), Ok("release"), "a release has no planted faults");
    println!("cargo:rustc-cfg=forebay_plant=\"{plant}\"");
}
