//! A series of power cuts: which, what became of each, and the figures.

use crate::book::Book;
use crate::check::Bench;
use crate::log::{Op, POLICIES, Policy, Random, Replay};
use crate::mount::Disk;
use crate::support::proof::{Proof, seed};
use crate::tree::Tree;

/// Failed images that are kept for a person.
const KEPT: usize = 3;

/// Everything that happened on a disk, and what clients knew meanwhile.
pub struct Recording {
    /// The disk at the beginning, synced.
    pub base: Tree,
    /// All that was done to it.
    pub log: Vec<Op>,
    /// What clients knew.
    pub book: Book,
}

/// Cuts that belong together; each image is checked at once.
pub struct Cuts {
    name: &'static str,
    seed: u64,
    proof: Proof,
    bench: Bench,
    /// Images so far.
    pub images: u64,
    salvaged: u64,
    faults: Vec<String>,
}

impl Recording {
    /// What was recorded on `disk`, which began with `base`.
    pub fn of(disk: &Disk, base: Tree, book: Book) -> Self {
        Self { base, log: disk.contents().1, book }
    }

    /// Just before each sync, just after it, and somewhere in between: in order, none twice.
    pub fn cuts_around_syncs(&self, random: &mut Random) -> Vec<usize> {
        let mut cuts = vec![0];
        for at in (0..self.log.len()).filter(|&at| self.log[at].is_sync()) {
            let last = cuts[cuts.len() - 1];
            cuts.extend([last + random.below((at - last + 1) as u64) as usize, at, at + 1]);
        }
        cuts.push(self.log.len());
        cuts.dedup();
        cuts
    }
}

impl Cuts {
    /// `name` is that of the fault in the table of figures.
    pub fn new(name: &'static str) -> Self {
        let seed = seed();
        let (proof, bench) = (Proof::new(name), Bench::new());
        Self { name, seed, proof, bench, images: 0, salvaged: 0, faults: Vec::new() }
    }

    /// Random numbers for a purpose.
    pub fn random(&self, purpose: u64) -> Random {
        Random::new(self.seed, purpose)
    }

    /// Cuts the power at these places, in order, once with each policy.
    pub async fn cut(&mut self, recording: &Recording, cuts: impl IntoIterator<Item = usize>) {
        let mut replay = Replay::new(recording.base.clone());
        for cut in cuts {
            replay.advance(&recording.log, cut);
            for policy in POLICIES {
                self.image(&replay, policy, &recording.book).await;
            }
        }
    }

    /// Cuts the power at these places, in order, each with a policy by chance.
    pub async fn cut_by_chance(&mut self, recording: &Recording, cuts: impl IntoIterator<Item = usize>) {
        let mut replay = Replay::new(recording.base.clone());
        for cut in cuts {
            replay.advance(&recording.log, cut);
            let policy = POLICIES[self.random(cut as u64).below(POLICIES.len() as u64) as usize];
            self.image(&replay, policy, &recording.book).await;
        }
    }

    async fn image(&mut self, replay: &Replay, policy: Policy, book: &Book) {
        let image = replay.image(policy, &mut self.random(self.images << 8 | policy as u64));
        let ledger = book.as_of(replay.position);
        self.images += 1;
        let wrong = match self.bench.check(&image, &ledger).await {
            Ok(outcome) => {
                self.proof.verdict(1, &outcome.verdict);
                self.salvaged += u64::from(outcome.salvaged);
                // Half a `conf` is possible before the first start is through with its syncs, and nothing is lost then.
                let needless_salvage = outcome.salvaged && outcome.verdict.acks > 0;
                if outcome.verdict.is_clean() && !needless_salvage {
                    return;
                }
                format!("salvaged: {}, {}", outcome.salvaged, outcome.verdict)
            }
            Err(error) => {
                self.proof.injected(1, 0);
                error
            }
        };
        let what = format!("cut {} ({policy:?})", replay.position);
        if self.faults.len() < KEPT {
            let file = format!("{}-{}-{policy:?}", self.name.replace(' ', "-"), replay.position);
            let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
            let _ = std::fs::remove_dir_all(&path);
            image.write_to(&path).expect("an image can be written");
            println!("{what}: the image is kept as {}", path.display());
        }
        self.faults.push(format!("{what}: {wrong}"));
    }

    /// Reports the figures, and panics where one image was wrong.
    pub fn finish(self) {
        self.proof.report();
        println!("{}: {} images were salvaged", self.name, self.salvaged);
        let (faults, images, seed) = (self.faults.len(), self.images, self.seed);
        let first: Vec<String> = self.faults.into_iter().take(10).collect();
        assert!(faults == 0, "{faults} of {images} images are wrong, FOREBAY_SEED={seed}\n{}", first.join("\n"));
    }
}

/// `count` of the items, spread evenly; all, where there are no more.
pub fn spread<T: Copy>(items: &[T], count: u64) -> Vec<T> {
    let count = items.len().min(count as usize);
    (0..count).map(|n| items[n * items.len() / count]).collect()
}
