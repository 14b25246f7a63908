//! Sorting: what waits for long moves out of the bundles into runs, in which an id's entries lie together.
//!
//! One thread, away from the commits, does all of it, and the manifest of the runs says when it counts:
//!
//! - *Sort*: the oldest bundles, as far as they are not settled, become a run. When it counts, their bundles are gone.
//! - *Sweep*: blocks of which all is settled are noted as dead. Settlements lie in bundles; those that were noted so
//!   need them no more.
//! - *Merge*: what is not dead of runs that are many, or mostly dead, becomes new ones.
//!
//! An entry is in a run that counts before its bundle is gone. After a crash in between it is in both; whoever opens
//! the journal takes it from the run.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
#[cfg(not(all(test, feature = "models")))]
use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard};

#[cfg(not(all(test, feature = "models")))]
mod sorter;

#[cfg(not(all(test, feature = "models")))]
pub(super) use sorter::Sorter;

/// What the sorting thread and the others tell each other.
#[derive(Default)]
pub(super) struct Sorting {
    asked: Mutex<Asked>,
    wake: Condvar,
    /// Settlements are kept: there are runs, or there will be.
    holds: AtomicBool,
    /// Bytes that were settled since runs were swept last.
    settled: AtomicU64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Asked {
    /// Bundles up to this one may be sorted: what they have is in the streams.
    through: u64,
    /// There is more in bundles than there is to be.
    much: bool,
    stop: bool,
}

impl Sorting {
    /// Whether the settlements in bundles are needed after the bundles before them are gone.
    pub(super) fn holds_settlements(&self) -> bool {
        self.holds.load(Ordering::SeqCst)
    }

    /// Notes that this much was settled.
    pub(super) fn settled(&self, bytes: u64) {
        self.settled.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says which bundles may be sorted, and whether some are to be.
    pub(super) fn ask(&self, through: u64, much: bool) {
        let mut asked = self.lock();
        (asked.through, asked.much) = (through, much);
        drop(asked);
        if much {
            self.wake.notify_all();
        }
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_all();
    }

    /// Waits for so long, or until it is told to stop.
    #[cfg(not(all(test, feature = "models")))]
    fn pause(&self, patience: Duration) {
        let goes_on = |asked: &mut Asked| !asked.stop;
        drop(self.wake.wait_timeout_while(self.lock(), patience, goes_on).expect(NO_PANIC));
    }

    #[cfg(not(all(test, feature = "models")))]
    fn is_stopped(&self) -> bool {
        self.lock().stop
    }

    /// Waits until there is something to do, or for so long. What it says there is to do is said once.
    #[cfg(not(all(test, feature = "models")))]
    fn wait(&self, patience: Duration) -> Asked {
        let is_idle = |asked: &mut Asked| !asked.stop && !asked.much;
        let (mut asked, _) = self.wake.wait_timeout_while(self.lock(), patience, is_idle).expect(NO_PANIC);
        let now = *asked;
        asked.much = false;
        now
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().expect(NO_PANIC)
    }
}

const NO_PANIC: &str = "no holder panics: it copies numbers";
