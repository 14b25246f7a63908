//! Locks, threads and blocking work by one name: those of std and tokio, or in the unit tests that
//! `tests/models/run.sh` builds, those of a scheduler that tries out how they can interleave.

#[cfg(not(all(test, feature = "models")))]
mod real {
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::thread;

    /// Runs what waits for a disk away from the tasks that must not.
    pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::spawn_blocking(work).await.expect("blocking work does not panic")
    }
}
#[cfg(not(all(test, feature = "models")))]
pub(crate) use real::*;

#[cfg(all(test, feature = "models"))]
mod modelled {
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use shuttle::thread;
    use shuttle::{Config, MaxSteps, Runner};

    /// The model has one thread of the system, which must not wait.
    pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        work()
    }

    /// Schedules that each way of choosing them tries of a model; `FOREBAY_SCHEDULES` in their stead.
    const SCHEDULES: usize = 500;
    /// Who has not come to an end by then waits for a wake-up that was lost.
    const MAX_STEPS: usize = 20_000;
    const STACK_BYTES: usize = 512 * 1024;
    /// Changes of priority in a schedule of the second way: most faults need no more.
    const DEPTH: usize = 3;

    /// Runs a model under schedules taken at random, then under such that let a thread lag behind for long.
    pub(crate) fn check(model: impl Fn() + Send + Sync + 'static) {
        let given = std::env::var("FOREBAY_SCHEDULES").ok();
        let schedules = given.map_or(SCHEDULES, |number| number.parse().expect("FOREBAY_SCHEDULES is a number"));
        let mut config = Config::new();
        config.stack_size = STACK_BYTES;
        config.max_steps = MaxSteps::FailAfter(MAX_STEPS);
        let model = std::sync::Arc::new(model);
        let again = std::sync::Arc::clone(&model);
        Runner::new(RandomScheduler::new(schedules), config.clone()).run(move || model());
        Runner::new(PctScheduler::new(DEPTH, schedules), config).run(move || again());
    }
}
#[cfg(all(test, feature = "models"))]
pub(crate) use modelled::*;
