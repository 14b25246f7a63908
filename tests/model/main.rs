//! The service with its journal and a real sink, by random operations against a model: appends, markers, drains,
//! truncations, dead letters that are tried again or discarded, kills and restarts. The model and all that is done are
//! those of the fuzz target `service` (`fuzz/harness/service`).
//!
//! Each case has a seed, which a failure names: `FOREBAY_SEED=N FOREBAY_MODEL_CASES=1` runs that case again. The
//! seed says what is done, not when the threads of the node get on. `FOREBAY_PROVE=long` runs more cases.

#[path = "../../fuzz/harness/service/mod.rs"]
#[allow(dead_code, reason = "the fuzz target uses the rest")]
mod service;
#[path = "../support/mod.rs"]
mod support;

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use support::ledger::Verdict;
use support::proof::{Proof, rounds, seed};

/// Cases of the short form and of the long one.
const CASES: (u64, u64) = (40, 5_000);

#[test]
fn whatever_happens_acknowledged_reports_end_once_in_the_sink_or_in_the_dead_letters() {
    let cases = number("FOREBAY_MODEL_CASES").unwrap_or_else(|| rounds(CASES.0, CASES.1));
    let first = seed();
    let mut proof = Proof::new("kills and restarts against the model");
    let failed: Vec<_> = (first..first + cases).filter_map(|seed| case(seed, &mut proof).err()).collect();
    proof.report();
    assert!(failed.is_empty(), "{} of {cases} cases failed, the first:\n{}", failed.len(), failed[0]);
}

/// Runs the case of a seed, and where it fails, smaller ones, until one that is small still fails.
fn case(seed: u64, proof: &mut Proof) -> Result<(), String> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config { cases: 1, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let step = any::<[u8; service::STEP_BYTES]>();
    let inputs = (any::<u8>(), proptest::collection::vec(step, 1..=service::MAX_STEPS));
    let inputs = inputs.prop_map(|(setup, steps)| [&[setup][..], &steps.concat()].concat());
    let first = RefCell::new(None);
    let run = |input: Vec<u8>| {
        let findings = service::run(&input);
        first.borrow_mut().get_or_insert_with(|| findings.clone());
        prop_assert!(findings.none(), "{:#?}\n{:#?}", findings, service::decode(&input));
        Ok(())
    };
    let told = |error| format!("FOREBAY_SEED={seed} FOREBAY_MODEL_CASES=1 runs this case again: {error}");
    let outcome = TestRunner::new_with_rng(config, rng).run(&inputs, run).map_err(told);
    if let Some(service::Findings { faults, acknowledged, lost, doubled, wrong }) = first.into_inner() {
        let acked = acknowledged as usize;
        proof.verdict(faults, &Verdict { acked, lost, doubled, unknown: wrong, ..Verdict::default() });
    }
    outcome
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}
