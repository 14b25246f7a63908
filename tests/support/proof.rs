//! What the fault tests showed, in figures: each adds up its verdicts and reports one line, which `tests/prove.sh`
//! gathers into the table of docs/durability.md.

use std::io::Write;
use std::sync::OnceLock;

use super::ledger::Verdict;
use super::servers::Kind;

/// The figures of one kind of fault.
#[derive(Debug)]
pub struct Proof {
    fault: String,
    injected: u64,
    acknowledged: u64,
    lost: u64,
    doubled: u64,
    wrong: u64,
}

/// Whether the long form of the fault tests was asked for (`FOREBAY_PROVE=long`).
pub fn is_long() -> bool {
    std::env::var("FOREBAY_PROVE").is_ok_and(|form| form == "long")
}

/// How often to do something: `long` in the long form, else `short`.
pub fn rounds(short: u64, long: u64) -> u64 {
    if is_long() { long } else { short }
}

/// The seed of all random choices of this process: that of `FOREBAY_SEED`, or another one each time. It is printed.
pub fn seed() -> u64 {
    *SEED.get_or_init(|| {
        let seed = match std::env::var("FOREBAY_SEED") {
            Ok(seed) => seed.parse().expect("FOREBAY_SEED is a number"),
            Err(_) => {
                let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                since.expect("the clock is past 1970").as_nanos() as u64
            }
        };
        println!("FOREBAY_SEED={seed}");
        seed
    })
}

static SEED: OnceLock<u64> = OnceLock::new();

impl Proof {
    /// `fault` is the name of the kind, as the table has it.
    pub fn new(fault: impl Into<String>) -> Self {
        Self { fault: fault.into(), injected: 0, acknowledged: 0, lost: 0, doubled: 0, wrong: 0 }
    }

    /// The same of a fault that each server is tried with.
    pub fn on(kind: Kind, fault: &str) -> Self {
        Self::new(format!("{fault}, {kind}"))
    }

    /// Adds faults that were injected, and how many reports had been acknowledged until then.
    pub fn injected(&mut self, faults: u64, acknowledged: u64) {
        self.injected += faults;
        self.acknowledged += acknowledged;
    }

    /// Adds `faults` and what the ledger found after them.
    pub fn verdict(&mut self, faults: u64, verdict: &Verdict) {
        self.injected(faults, verdict.acked as u64);
        self.lost += verdict.lost.len() as u64;
        self.doubled += (verdict.doubled.len() + verdict.reused.len()) as u64;
        let wrong = [&verdict.unknown, &verdict.altered, &verdict.refused_yet_stored, &verdict.miscounted];
        self.wrong += wrong.iter().map(|list| list.len() as u64).sum::<u64>();
    }

    /// Writes the line, for people and (to the file that `FOREBAY_PROOFS` names) for `tests/prove.sh`. To be called
    /// before the verdicts are asserted, so that bad figures are seen, too.
    pub fn report(&self) {
        let Self { fault, injected, acknowledged, lost, doubled, wrong } = self;
        println!(
            "{fault}: {injected} injected, {acknowledged} acknowledged, {lost} lost, {doubled} doubled, {wrong} wrong"
        );
        if let Some(file) = std::env::var_os("FOREBAY_PROOFS") {
            let mut file = std::fs::File::options().append(true).create(true).open(file).expect("the file opens");
            let seed = SEED.get().map_or_else(|| "-".to_owned(), u64::to_string);
            let line = format!("{fault}\t{injected}\t{acknowledged}\t{lost}\t{doubled}\t{wrong}\t{seed}\n");
            file.write_all(line.as_bytes()).expect("the file can be written");
        }
    }
}
