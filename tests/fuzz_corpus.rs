//! Replays the seeds of the fuzz targets, so that what a fuzzer once found stays fixed on every toolchain.

#[path = "../fuzz/harness/mod.rs"]
mod harness;

fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut seeds = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is there") {
        run(&std::fs::read(entry.expect("an entry").path()).expect("a seed"));
        seeds += 1;
    }
    assert!(seeds > 0, "{} is empty", folder.display());
}

#[test]
fn every_message_of_the_corpus_holds() {
    replay("message", harness::message);
}

#[test]
fn every_configuration_of_the_corpus_holds() {
    replay("config", harness::config);
}

#[test]
fn every_entry_of_the_corpus_holds() {
    replay("entry", harness::entry);
}

#[test]
fn every_attack_of_the_corpus_holds() {
    replay("forged", harness::forged);
}

#[test]
fn every_session_of_the_corpus_holds() {
    replay("frames", harness::frames);
}

#[test]
fn every_history_of_the_corpus_holds() {
    replay("service", harness::service);
}
