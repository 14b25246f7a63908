//! All ids with backlog, and the lanes that they hold.

use std::collections::HashMap;
use std::sync::Arc;

use super::lanes::Lanes;
use super::stream::{Flusher, Stream};
use crate::report::Id;
use crate::sync::{Mutex, MutexGuard};

/// Room for so many ids is kept when the last one is drained.
const KEPT_CAPACITY: usize = 1024;

/// The ids with backlog. A stream enters with its first append and leaves when it is drained and quiet; both happen
/// under this lock, so that an append never goes to a stream that has left.
#[derive(Debug)]
pub(super) struct Index(Mutex<Inner>);

pub(super) struct Inner {
    pub(super) streams: HashMap<Id, Arc<Stream>>,
    pub(super) lanes: Lanes,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}

impl Index {
    pub(super) fn new(streams: HashMap<Id, Arc<Stream>>, lanes: Lanes) -> Self {
        Self(Mutex::new(Inner { streams, lanes }))
    }

    /// The stream of `id`, made if it is not there, with one append more on its way.
    pub(super) fn join_commit(&self, id: &Id) -> Arc<Stream> {
        let mut inner = self.lock();
        let Inner { streams, lanes } = &mut *inner;
        let stream = streams.entry(*id).or_insert_with(|| Arc::new(Stream::new(*id, lanes.lease(id))));
        stream.lock().in_commit += 1;
        Arc::clone(stream)
    }

    /// Takes back an append that was refused after all.
    pub(super) fn leave_commit(&self, stream: &Stream) {
        let mut inner = self.lock();
        let flusher = {
            let mut state = stream.lock();
            state.in_commit -= 1;
            state.is_quiet().then_some(state.flusher)
        };
        match flusher {
            Some(Flusher::None) => inner.remove(stream),
            // It tried to retire while the append was on its way, and waits for what comes of it.
            Some(Flusher::Idle) => stream.wake.notify_one(),
            _ => {}
        }
    }

    /// Lets a drained, quiet stream go and gives its lane back. False when there is something left to do.
    pub(super) fn retire(&self, stream: &Stream) -> bool {
        let mut inner = self.lock();
        let quiet = stream.lock().is_quiet();
        if quiet {
            inner.remove(stream);
        }
        quiet
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no holder of the index panics: it only moves entries")
    }
}

impl Inner {
    fn remove(&mut self, stream: &Stream) {
        self.streams.remove(&stream.id);
        let state = stream.lock();
        self.lanes.release(state.lane);
        state.older_lanes.iter().for_each(|&lane| self.lanes.release(lane));
        if self.streams.is_empty() && self.streams.capacity() > KEPT_CAPACITY {
            self.streams.shrink_to_fit();
        }
    }
}
