//! Holds a load back while the backlog behind it is over a limit, so that what is measured is what can go on for ever.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::Running;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// How a system stands.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// Reports that are rows.
    pub rows: u64,
    /// Reports that were acknowledged and are not rows yet.
    pub backlog: u64,
}

/// A thread that looks and holds.
pub struct Governor {
    over: Arc<AtomicBool>,
    last: Arc<Mutex<Option<(Instant, Standing)>>>,
    thread: Option<JoinHandle<()>>,
}

impl Governor {
    /// Looks by `look`, which may block, until it is dropped; holds the load while the backlog is over `limit`.
    pub fn start(load: &Running, limit: u64, mut look: impl FnMut() -> Standing + Send + 'static) -> Self {
        let (hold, over, last) = (load.hold(), Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let (ends, seen) = (Arc::clone(&over), Arc::clone(&last));
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let standing = look();
                hold.store(standing.backlog > limit, Ordering::Relaxed);
                *seen.lock().expect("nobody panics with it") = Some((Instant::now(), standing));
                std::thread::sleep(LOOK);
            }
            hold.store(false, Ordering::Relaxed);
        });
        Self { over, last, thread: Some(thread) }
    }

    /// The next look, and when it was.
    pub async fn look(&self) -> (Instant, Standing) {
        let since = Instant::now();
        loop {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!ended, "the system can be looked at");
            let last = *self.last.lock().expect("nobody panics with it");
            match last {
                Some((at, standing)) if at > since => return (at, standing),
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }
}

impl Drop for Governor {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A look that failed has said so.
            let _ = thread.join();
        }
    }
}
