//! The journal: makes appends durable, keeps each id's backlog in order, truncates what is settled. The only room that
//! names sled and bincode.
//!
//! # Invariants
//! 1. An answer [`Answer::Kept`] leaves only after a sync that covers its entry succeeded.
//! 2. After a failed write or sync nothing is answered any more, and [`Journal::failed`] resolves.
//! 3. Positions increase strictly and are never reused (`positions.rs`).
//! 4. Records of one id are read in the order in which they were appended, and only once they are synced.
//! 5. Truncation removes exactly the entries that were settled.
//! 6. Dead letters are synced before the entry that they come from is truncated.
//! 7. A damaged entry is never handed out; it is set aside under where it was, and logged.
//! 8. Files that cannot be opened are moved aside, and every entry that is whole in them is taken over (`salvage.rs`).
//!    What the disk does not give back is damage like any other (`unreadable.rs`).
//! 9. A paused id is so on disk before anybody is told, and nothing of it is drained that was not on its way before.
//! 10. An id is in the index from its first append until it is drained and quiet.
//! 11. An entry that moves from a bundle into a run is durable there before it leaves the bundle.
//! 12. Nothing in the folder is read or changed before it is locked (`lock.rs`), and nothing outside of it is changed.
//!
//! # On disk
//! The files in `recent` hold what each commit wrote, a bundle of entries (`bundle.rs`, `store/recent.rs`). Those in
//! `runs` hold what waits for long, by id (`store/runs`, `sorting.rs`). sled has the rest, in trees: `dead` dead
//! letters (`dead_letters.rs`); `damaged` what was set aside (`set_aside.rs`); `paused` the ids that are not drained
//! (`pauses.rs`); `meta` the stamp of the last sync (`log.rs`). All values are sealed (`seal.rs`), and `identity` has
//! what they are sealed with (`identity.rs`). `lock` is locked while it is open, and `damaged-N` has files that were
//! moved aside (`place.rs`).
//!
//! # What it does not know
//! The sink, the clients (only their [`Outlet`]), and when to drain (only [`Drain`]).

mod answers;
pub mod append;
mod aside;
mod bundle;
mod claims;
mod commit;
mod dead_letters;
mod earlier;
#[cfg(all(test, not(feature = "models")))]
mod engine;
mod entry;
mod error;
mod files;
mod identity;
mod index;
mod limits;
mod lock;
mod log;
#[cfg(all(test, feature = "models"))]
mod models;
pub mod offline;
mod owner;
mod pauses;
mod peek;
mod place;
mod positions;
mod private;
mod progress;
mod queue;
mod read;
mod recovery;
mod salvage;
mod seal;
mod senders;
mod set_aside;
mod sorting;
mod status;
#[cfg_attr(all(test, feature = "models"), path = "store/memory.rs")]
mod store;
mod stream;
#[cfg(all(test, not(feature = "models")))]
mod tests;
mod together;
mod unreadable;
mod upgrade;
mod value;

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::Instant;

pub use append::{Ack, Answer, Append, Content, Dead, Drained, Outlet, ReplyTo};
pub use aside::Hold;
pub use dead_letters::{DeadLetter, MAX_COUNTED_DEAD};
pub use entry::Entry;
pub use error::{Damage, JournalError};
pub use index::PartView;
pub use log::Hole;
pub use pauses::{MAX_PAUSED_IDS, PauseError};
pub use peek::Peeked;
pub use progress::{LastBatch, LastError, Progress};
pub use queue::{Buried, Revision};
pub use read::{Receipt, Settlement, Taken};
pub use seal::Seal;
pub use set_aside::SetAside;
pub use status::JournalStatus;
pub use stream::{Backlog, Flusher, State, Stream};
pub use value::Value;

use crate::config;
use crate::metrics::Metrics;
use crate::panics::contain;
use crate::report::{Id, Position};
use crate::sync::thread::{self, JoinHandle};
use bundle::Bundles;
use commit::Committer;
use identity::Identity;
use index::Index;
use limits::Limits;
use lock::Lock;
use owner::Held;
use positions::Positions;
use queue::{Command, Queue};
use sorting::Sorting;
use store::Store;

/// Who drains: told by the commit thread, under the stream's lock, that a stream has more backlog. Must not block.
pub trait Drain: Send + Sync {
    /// `stream` has records that are durable now.
    fn backlog_grew(&self, stream: &Arc<Stream>, state: &mut State);
}

/// Settings that the journal takes from elsewhere than its own section.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings {
    /// The node that numbers reports without a `seq`.
    pub node_id: u16,
    /// Bytes of appends that may wait for their commit.
    pub max_queued_bytes: usize,
    /// Records in one entry: what a flusher may take at a time, so that one entry never exceeds a batch.
    pub max_entry_records: usize,
}

/// An open journal; a cheap handle.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

struct Shared {
    store: Store,
    index: Index,
    queue: Queue,
    metrics: Arc<Metrics>,
    limits: Limits,
    node_id: u16,
    /// Whose journal it is.
    held: Mutex<Held>,
    /// The highest position that was found at open.
    recovered_through: Position,
    max_entry_records: usize,
    /// Bytes of bundles beyond which the oldest are sorted into runs.
    recent_bytes: u64,
    sorting: Sorting,
    /// Bytes that appends may still reserve.
    reservations: Semaphore,
    /// Bytes of entries and dead letters.
    bytes: AtomicU64,
    /// Bytes of the dead letters among them.
    dead_bytes: AtomicU64,
    /// Entries that were set aside since start.
    damaged: AtomicU64,
    /// Clients that wait for a `done`.
    done_waiters: AtomicU64,
    stopping: AtomicBool,
    /// Why nothing is acknowledged any more.
    failure: watch::Sender<Option<Arc<JournalError>>>,
    /// The answer to a question that looks at every stream.
    oldest: Mutex<Option<(Instant, Option<Instant>)>>,
    /// Let go of once the store is closed: fields are dropped in this order.
    _lock: Lock,
}

/// Opens the trees and reads them.
fn open_and_recover(settings: &config::Journal, identity: &Identity) -> Result<(Store, recovery::Found), JournalError> {
    guarded(|| {
        let store = Store::open(&settings.dir, settings.cache_bytes, Some(identity))?;
        upgrade::sort_earlier_entries(&store)?;
        let found = recovery::recover(&store)?;
        Ok((store, found))
    })
}

/// Runs what reads files that may be damaged; a panic of the storage is damage, too.
fn guarded<T>(read: impl FnOnce() -> Result<T, JournalError>) -> Result<T, JournalError> {
    contain(read).unwrap_or_else(|_| Err(JournalError::Damaged("the storage gave up on them".to_owned())))
}

/// Salvages what sled would skip without a word; whether there was anything.
fn mend(settings: &config::Journal, identity: &Identity) -> Result<bool, JournalError> {
    if cfg!(forebay_plant = "open_without_looking") {
        return Ok(false);
    }
    // Held while the log is read: a process of an earlier version has no other lock.
    let _locked = log::lock(&settings.dir)?;
    let seal = Seal::of(&identity.secret);
    match log::as_damage(&log::inspect(&settings.dir, &seal)?) {
        Some(why) => salvage::salvage(settings, &why, &seal, identity).map(|()| true),
        None => Ok(false),
    }
}

/// Opens what this process had open a moment ago: threads of sled's own may hold its lock for a little longer.
fn reopen_and_recover(
    settings: &config::Journal,
    identity: &Identity,
) -> Result<(Store, recovery::Found), JournalError> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let since = Instant::now();
    loop {
        match open_and_recover(settings, identity) {
            Err(JournalError::InUse { .. }) if since.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(1));
            }
            opened => return opened,
        }
    }
}

/// A journal that was opened and recovered, and does not commit yet.
pub struct Opened {
    shared: Arc<Shared>,
    positions: Positions,
    bundles: Bundles,
}

impl Opened {
    /// Opens and recovers: reads every entry once. Blocks.
    ///
    /// # Errors
    /// When the folder or the storage cannot be used; not for damaged entries, which are set aside.
    pub fn open(settings: &config::Journal, around: Surroundings, metrics: Arc<Metrics>) -> Result<Self, JournalError> {
        let lock = Lock::take(&settings.dir)?;
        salvage::finish_interrupted(&settings.dir)?;
        private::protect(&settings.dir)?;
        let identity = upgrade::identify(settings)?;
        salvage::set_small_files_aside(&settings.dir, &identity)?;
        if mend(settings, &identity)? {
            metrics.salvages.add(1);
        }
        let (store, found) = match open_and_recover(settings, &identity) {
            Ok(opened) => opened,
            Err(error) => {
                let why = unreadable::as_damage(&settings.dir, error)?;
                salvage::salvage(settings, &why, &Seal::of(&identity.secret), &identity)?;
                metrics.salvages.add(1);
                reopen_and_recover(settings, &identity)?
            }
        };
        let held = Held::count_start(&store, identity)?;
        let mut positions = Positions::new(store.stamp()?, found.highest);
        positions.take(1, commit::now_micros());
        store.sync_trees(positions.last())?;
        let bundles = Bundles::new(found.bundles, store.next_and_oldest_bundle());
        metrics.audit.recovered(found.reports, found.dead);
        tracing::info!(
            reports = found.reports,
            streams = found.streams.len(),
            dead_letters = found.dead,
            damaged = found.damaged,
            paused = found.paused.len(),
            "journal opened"
        );
        let shared = Shared {
            store,
            index: Index::new(found.streams, found.paused),
            queue: Queue::default(),
            metrics,
            limits: Limits::of(settings),
            node_id: around.node_id,
            held: Mutex::new(held),
            recovered_through: Position(found.highest),
            max_entry_records: around.max_entry_records,
            recent_bytes: settings.recent_bytes,
            sorting: Sorting::default(),
            reservations: Semaphore::new(around.max_queued_bytes),
            bytes: AtomicU64::new(found.bytes),
            dead_bytes: AtomicU64::new(found.dead_bytes),
            damaged: AtomicU64::new(found.damaged),
            done_waiters: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            failure: watch::Sender::new(None),
            oldest: Mutex::new(None),
            _lock: lock,
        };
        Ok(Self { shared: Arc::new(shared), positions, bundles })
    }

    /// Starts the commit thread, and tells `drain` of every stream that was found.
    pub fn start(self, drain: Arc<dyn Drain>) -> Journal {
        let Self { shared, positions, bundles } = self;
        let journal = Journal { shared: Arc::clone(&shared), threads: Arc::default() };
        for stream in shared.index.parts().flat_map(|part| part.streams) {
            if stream.lock().is_drained() {
                // All that it has is set aside.
                journal.retire(&stream);
                continue;
            }
            drain.backlog_grew(&stream, &mut stream.lock());
        }
        #[cfg(not(all(test, feature = "models")))]
        let sorter = sorting::Sorter::new(Arc::clone(&shared));
        let committer = Committer::new(Arc::clone(&shared), drain, positions, bundles);
        let failed_by = Arc::clone(&shared);
        let commit = move || {
            // Its moment of looking out for more is about as long as the system rounds times up to.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
            let ended = contain(|| committer.run()).unwrap_or_else(|panicked| {
                tracing::error!(%panicked, "the commit thread ended");
                Err(JournalError::Panicked)
            });
            if let Err(error) = ended {
                failed_by.fail(error);
            }
            failed_by.queue.close();
        };
        let started = [
            thread::Builder::new().name("commit".to_owned()).spawn(commit),
            #[cfg(not(all(test, feature = "models")))]
            thread::Builder::new().name("sort".to_owned()).spawn(move || sorter.run()),
        ];
        let started = started.map(|thread| thread.expect("the system starts a thread while the process starts"));
        *journal.threads.lock().expect("nobody has them yet") = started.into();
        journal
    }
}

impl Journal {
    /// Waits until `bytes` more may be queued; [`Journal::append`] takes them over.
    pub async fn reserve(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).expect("a message is far below 4 GiB");
        let permit = self.shared.reservations.acquire_many(bytes).await;
        permit.expect("the semaphore is never closed").forget();
    }

    /// Queues appends in order. Each that has a `reply_to` is answered once, unless the journal fails before.
    /// `reserved` is what [`Journal::reserve`] gave for them.
    pub fn append(&self, appends: Vec<Append>, reserved: usize) {
        self.shared.queue.push(Command::Append(appends, reserved));
    }

    /// Queues appends of which all are kept or none; each is answered, as by [`Journal::append`].
    pub fn append_together(&self, appends: Vec<Append>, reserved: usize) {
        self.shared.queue.push(Command::AppendTogether(appends, reserved));
    }

    /// Refuses all further appends of clients with `shutting_down`.
    pub fn stop_accepting(&self) {
        self.shared.stopping.store(true, Ordering::Release);
    }

    /// Whether appends of clients are refused.
    pub fn is_stopping(&self) -> bool {
        self.shared.is_stopping()
    }

    /// Keeps reports as dead letters. Durable when it returns; `None` when the journal failed or stopped instead.
    pub async fn bury(&self, letters: Vec<DeadLetter>) -> Option<Buried> {
        let (done, buried) = oneshot::channel();
        self.shared.queue.push(Command::Bury(letters, done));
        buried.await.ok()
    }

    /// Waits until all that was queued before is committed, or the journal has failed.
    pub async fn commit_queued(&self) {
        let (done, committed) = oneshot::channel();
        self.shared.queue.push(Command::Bury(Vec::new(), done));
        // An error means that the commit thread has ended: nothing more will be committed.
        let _ = committed.await;
    }

    /// Lets a drained stream go. False when there is something left to do for it.
    pub fn retire(&self, stream: &Arc<Stream>) -> bool {
        self.settle_what_is_aside(stream);
        self.shared.index.retire(stream)
    }

    /// How many ids have backlog.
    pub fn streams(&self) -> usize {
        self.shared.index.streams()
    }

    /// The stream of `id`; none where it has no backlog.
    pub fn stream(&self, id: &Id) -> Option<Arc<Stream>> {
        self.shared.index.stream(id)
    }

    /// All streams and paused ids, a part at a time. An append waits for one part at the most, and that is a fraction
    /// of a millisecond with a hundred thousand ids.
    pub fn parts(&self) -> impl Iterator<Item = PartView> {
        self.shared.index.parts()
    }

    /// Ends the node's service: what is in the journal is whole, but this process cannot go on with it.
    pub fn fail(&self, error: JournalError) {
        self.shared.fail(error);
    }

    /// Why the journal failed, if it did.
    pub fn failure(&self) -> Option<Arc<JournalError>> {
        self.shared.failure.borrow().clone()
    }

    /// Resolves when the journal fails; never, if it does not.
    pub async fn failed(&self) -> Arc<JournalError> {
        let mut failure = self.shared.failure.subscribe();
        let failure = failure.wait_for(Option::is_some).await.expect("the sender is in self");
        Arc::clone(failure.as_ref().expect("waited for one"))
    }

    /// Commits what is queued, syncs, and ends the journal's threads. Blocks.
    ///
    /// # Errors
    /// Why the journal failed, now or before.
    pub fn stop(&self) -> Result<(), Arc<JournalError>> {
        self.shared.sorting.stop();
        self.shared.queue.push(Command::Stop);
        let threads = std::mem::take(&mut *self.threads.lock().expect("no holder panics: it only takes the handles"));
        for thread in threads {
            thread.join().expect("the journal's threads catch their panics");
        }
        self.failure().map_or(Ok(()), Err)
    }

    /// Closes the files of a journal that was stopped, if no other handle to it is left. Blocks.
    ///
    /// # Errors
    /// When the storage cannot end as it wants to.
    pub fn close(self) -> Result<(), JournalError> {
        Arc::into_inner(self.shared).map_or(Ok(()), |shared| shared.store.close())
    }
}

impl Shared {
    /// Keeps the first error: what follows from it says less.
    fn fail(&self, error: JournalError) {
        self.failure.send_if_modified(|failure| {
            let is_first = failure.is_none();
            if is_first {
                tracing::error!(%error, "the journal failed; nothing is acknowledged any more");
                *failure = Some(Arc::new(error));
            }
            is_first
        });
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn grow(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn shrink(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Notes bytes of dead letters that came and went.
    fn dead_changed(&self, more: u64, less: u64) {
        for bytes in [&self.bytes, &self.dead_bytes] {
            bytes.fetch_add(more, Ordering::Relaxed);
            bytes.fetch_sub(less, Ordering::Relaxed);
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn disk_is_low(&self) -> bool {
        match self.store.free_disk() {
            Ok(free) => free < self.limits.min_free_disk,
            Err(error) => {
                tracing::error!(%error, "reports are refused while the free disk is unknown");
                true
            }
        }
    }
}
