//! All ids with backlog, and the ids that are paused.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::stream::{Flusher, Stream};
use crate::report::Id;
use crate::sync::{Mutex, MutexGuard};

/// Parts of the index, each under a lock of its own: who looks at all ids holds up an append for a part of them only.
/// A model has few, so that its ids meet.
const PARTS: usize = if cfg!(all(test, feature = "models")) { 2 } else { 64 };

/// Room for so many ids is kept in a part when the last one is drained.
const KEPT_CAPACITY: usize = 16;

/// The ids with backlog. A stream enters with its first append and leaves when it is drained and quiet; both happen
/// under the lock of its part, so that an append never goes to a stream that has left.
pub(super) struct Index {
    parts: Vec<Mutex<Part>>,
    /// How many streams all parts have.
    count: AtomicUsize,
}

/// Those ids that have their place here by hash.
#[derive(Default)]
struct Part {
    streams: HashSet<ById>,
    /// With backlog or without.
    paused: HashSet<Id>,
}

/// A stream that is found by its id, which is nowhere but in it.
struct ById(Arc<Stream>);

impl Borrow<Id> for ById {
    fn borrow(&self) -> &Id {
        &self.0.id
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

/// What one part of the index has at one instant.
pub struct PartView {
    /// Ids with backlog, or about to have some.
    pub streams: Vec<Arc<Stream>>,
    /// Ids that are paused and have none.
    pub paused: Vec<Id>,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("streams", &self.streams()).finish_non_exhaustive()
    }
}

impl Index {
    pub(super) fn new(streams: Vec<Arc<Stream>>, paused: HashSet<Id>) -> Self {
        let parts = std::iter::repeat_with(Mutex::default).take(PARTS).collect();
        let index = Self { parts, count: AtomicUsize::new(streams.len()) };
        for stream in streams {
            stream.lock().paused = paused.contains(&stream.id);
            index.part(&stream.id).streams.insert(ById(stream));
        }
        for id in paused {
            index.part(&id).paused.insert(id);
        }
        index
    }

    /// The stream of `id`, made if it is not there, with one append more on its way.
    pub(super) fn join_commit(&self, id: &Id) -> Arc<Stream> {
        let mut part = self.part(id);
        let Part { streams, paused } = &mut *part;
        if let Some(ById(stream)) = streams.get(id) {
            stream.lock().in_commit += 1;
            return Arc::clone(stream);
        }
        let stream = Arc::new(Stream::new(*id));
        {
            let mut state = stream.lock();
            (state.paused, state.in_commit) = (paused.contains(id), 1);
        }
        streams.insert(ById(Arc::clone(&stream)));
        self.count.fetch_add(1, Ordering::Relaxed);
        stream
    }

    /// Takes back an append that was refused after all.
    pub(super) fn leave_commit(&self, stream: &Stream) {
        let mut part = self.part(&stream.id);
        let is_left = {
            let mut state = stream.lock();
            state.in_commit -= 1;
            state.is_quiet() && state.flusher == Flusher::None
        };
        if is_left {
            self.remove(&mut part, stream);
        }
    }

    /// Lets a drained, quiet stream go; one that has only appends on their way is without a flusher from here on. False
    /// when there is something left to do.
    pub(super) fn retire(&self, stream: &Stream) -> bool {
        let mut part = self.part(&stream.id);
        let (is_drained, is_quiet) = {
            let mut state = stream.lock();
            let is_drained = state.is_drained();
            if is_drained && cfg!(not(forebay_plant = "let_an_id_return_unseen")) {
                state.flusher = Flusher::None;
            }
            (is_drained, state.is_quiet())
        };
        if is_quiet {
            self.remove(&mut part, stream);
        }
        is_drained
    }

    /// How many ids have backlog.
    pub(super) fn streams(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The stream of `id`, if it has one.
    pub(super) fn stream(&self, id: &Id) -> Option<Arc<Stream>> {
        self.part(id).streams.get(id).map(|ById(stream)| Arc::clone(stream))
    }

    /// All parts, one after the other; none is locked between two.
    pub(super) fn parts(&self) -> impl Iterator<Item = PartView> {
        self.parts.iter().map(|part| {
            let part = lock(part);
            let alone = |id: &&Id| !part.streams.contains(*id);
            let paused = part.paused.iter().filter(alone).copied().collect();
            PartView { streams: part.streams.iter().map(|ById(stream)| Arc::clone(stream)).collect(), paused }
        })
    }

    /// Whether `id` is paused.
    pub(super) fn is_paused(&self, id: &Id) -> bool {
        self.part(id).paused.contains(id)
    }

    /// How many ids are paused.
    pub(super) fn paused(&self) -> usize {
        self.parts.iter().map(|part| lock(part).paused.len()).sum()
    }

    /// Notes that `id` is paused, or is no more; a flusher that waits for that is woken.
    pub(super) fn set_paused(&self, id: &Id, paused: bool) {
        let mut part = self.part(id);
        if paused {
            part.paused.insert(*id);
        } else {
            part.paused.remove(id);
        }
        if let Some(ById(stream)) = part.streams.get(id) {
            stream.set_paused(paused);
        }
    }

    fn remove(&self, part: &mut Part, stream: &Stream) {
        if part.streams.remove(&stream.id) {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        if part.streams.is_empty() && part.streams.capacity() > KEPT_CAPACITY {
            part.streams.shrink_to_fit();
        }
    }

    fn part(&self, id: &Id) -> MutexGuard<'_, Part> {
        lock(&self.parts[crc32fast::hash(id.as_bytes()) as usize % PARTS])
    }
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().expect("no holder of the index panics: it only moves entries")
}
