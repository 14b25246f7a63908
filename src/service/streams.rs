//! Streams in an operator's hands: listed, looked into, drained at once, paused and resumed.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::listing::{Cursor, First, Order, Place};
use crate::drain::Flushers;
use crate::journal::{
    Flusher, Journal, JournalError, LastBatch, LastError, PartView, PauseError, Peeked, Progress, Stream,
};
use crate::report::{Id, Position};
use crate::sink::Health;

/// Listings that may wait for their turn; there is one at a time.
const MAX_WAITING: usize = 32;
/// Looks into backlogs at a time.
const MAX_PEEKING: usize = 4;
/// A listing over more ids than this is followed by a rest.
const MANY: u64 = 1_000;
/// The rest is so many times what the listing took, so that listings take a fifth of one core at the most.
const REST: u32 = 4;
/// Bytes of data on a page of queued reports; one report may carry it over.
pub const MAX_PEEKED_BYTES: usize = 1 << 20;

/// The streams of a node; a cheap handle.
#[derive(Clone)]
pub struct Streams {
    pub(super) journal: Journal,
    pub(super) flushers: Flushers,
    health: Arc<Health>,
    /// How long what is on its way to the sink may take.
    pub(super) sink_timeout: Duration,
    /// When the next listing may begin.
    turn: Arc<Mutex<Instant>>,
    waiting: Arc<Semaphore>,
    peeking: Arc<Semaphore>,
    started: (Instant, SystemTime),
}

/// What an id does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamState {
    /// For a batch or the tick.
    Waiting,
    /// Its batch is on its way to the sink, or next.
    Draining,
    /// The sink failed over its batch, or takes nothing now; it is tried again.
    Retrying,
    /// It is not drained until it is resumed.
    Paused,
    /// It has no backlog.
    Drained,
}

/// What an operator sees of an id.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamStatus {
    /// The id.
    pub id: Id,
    /// What it does.
    pub state: StreamState,
    /// Reports that are not in the sink.
    pub reports: u64,
    /// Markers likewise.
    pub markers: u64,
    /// Bytes of both in the journal.
    pub bytes: u64,
    /// Age of the oldest of both.
    pub oldest_age: Option<Duration>,
    /// The last batch since the id has had backlog.
    pub last_batch: Option<LastBatch>,
    /// What the sink said last, of the id's batch or, where it takes nothing, of itself.
    pub last_error: Option<LastError>,
    /// Until it is drained or tried again, where that is known.
    pub next_attempt: Option<Duration>,
    /// Whether it is paused.
    pub paused: bool,
}

/// Which streams to list.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Their order.
    pub order: Order,
    /// How many at the most; at least one.
    pub limit: usize,
    /// Those behind this place in that order.
    pub after: Option<Place>,
    /// Those whose id begins with this.
    pub prefix: String,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// In the order that was asked for, at the time that each was looked at.
    pub streams: Vec<StreamStatus>,
    /// Where it ended; none where nothing follows.
    pub next: Option<Cursor>,
    /// All ids that have backlog or are paused, and begin with the prefix.
    pub total: u64,
}

/// Too many listings wait for their turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_WAITING} listings of streams wait for their turn already; ask again later")]
pub struct Busy;

/// Why an id was not drained at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id {0} is paused; resume it, which drains it at once")]
pub struct Paused(pub Id);

/// An id and its place in a list. Equal and ordered by the place alone.
struct Row {
    place: Place,
    stream: Option<Arc<Stream>>,
}

impl Streams {
    pub(super) fn new(journal: &Journal, flushers: &Flushers, health: &Arc<Health>, sink_timeout: Duration) -> Self {
        let started = (Instant::now(), SystemTime::now());
        Self {
            journal: journal.clone(),
            flushers: flushers.clone(),
            health: Arc::clone(health),
            sink_timeout,
            turn: Arc::new(Mutex::new(started.0)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            peeking: Arc::new(Semaphore::new(MAX_PEEKING)),
            started,
        }
    }

    /// A page of the ids that have backlog or are paused. One listing at a time, away from the tasks that must not
    /// wait; it holds up appends of a part of the ids for less than a millisecond at a time.
    ///
    /// # Errors
    /// [`Busy`].
    pub async fn list(&self, listing: Listing) -> Result<Page, Busy> {
        let _waiting = self.waiting.try_acquire().map_err(|_| Busy)?;
        // Moves into the work, which goes on when nobody waits for it any more.
        let mut turn = Arc::clone(&self.turn).lock_owned().await;
        sleep_until(*turn).await;
        let streams = self.clone();
        let listed = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let page = streams.page(&listing);
            if page.total > MANY {
                *turn = Instant::now() + REST * began.elapsed();
            }
            page
        });
        Ok(listed.await.expect("looking at the streams does not panic"))
    }

    fn page(&self, listing: &Listing) -> Page {
        let Listing { order, limit, after, prefix } = listing;
        let mut first = First::new(*limit);
        let (mut total, mut behind) = (0_u64, 0);
        let outage = self.outage();
        for PartView { streams, paused } in self.journal.parts() {
            let streams = streams.into_iter().map(|stream| (stream.id, Some(stream)));
            for (id, stream) in streams.chain(paused.into_iter().map(|id| (id, None))) {
                if !id.as_str().starts_with(prefix.as_str()) {
                    continue;
                }
                let Some(rank) = self.rank(*order, stream.as_deref()) else { continue };
                total += 1;
                let place = Place { rank, id };
                if after.is_none_or(|after| place > after) {
                    behind += 1;
                    first.push(Row { place, stream });
                }
            }
        }
        let rows = first.into_sorted();
        let last = rows.last().filter(|_| behind > rows.len()).map(|row| row.place);
        Page {
            streams: rows.iter().map(|row| self.status_of(&row.place.id, row.stream.as_deref(), &outage)).collect(),
            next: last.map(|place| Cursor { order: *order, place }),
            total,
        }
    }

    /// The rank of an id in an order, lower is first; none of one that has nothing to list.
    fn rank(&self, order: Order, stream: Option<&Stream>) -> Option<u64> {
        let backlog = stream.map(|stream| stream.lock().backlog());
        if backlog.is_some_and(|backlog| backlog.reports + backlog.markers == 0 && !backlog.paused) {
            return None;
        }
        Some(match order {
            Order::Id => 0,
            Order::Backlog => u64::MAX - backlog.map_or(0, |backlog| backlog.reports),
            Order::Oldest => backlog.and_then(|backlog| backlog.oldest).map_or(u64::MAX, |oldest| self.micros(oldest)),
        })
    }

    /// A time as microseconds of the epoch, by the wall clock at start: the same for one time at every call.
    fn micros(&self, at: Instant) -> u64 {
        let (start, wall) = self.started;
        let wall = match at.checked_duration_since(start) {
            Some(later) => wall + later,
            None => wall - (start - at),
        };
        wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
    }

    /// One id, whether it has backlog or not.
    pub fn get(&self, id: &Id) -> StreamStatus {
        self.status_of(id, self.journal.stream(id).as_deref(), &self.outage())
    }

    /// Drains an id at once, without waiting for batch, tick or the next attempt; how it stands then.
    ///
    /// # Errors
    /// Where it is paused.
    pub fn flush(&self, id: &Id) -> Result<StreamStatus, Paused> {
        if self.journal.is_paused(id) {
            return Err(Paused(*id));
        }
        if let Some(stream) = self.journal.stream(id) {
            stream.hasten();
        }
        Ok(self.get(id))
    }

    /// Pauses an id or resumes it, durably; how it stands then. Resumed, it is drained at once.
    ///
    /// # Errors
    /// [`PauseError`].
    pub async fn set_paused(&self, id: &Id, paused: bool) -> Result<StreamStatus, PauseError> {
        let was_paused = self.journal.is_paused(id);
        self.journal.set_paused(*id, paused).await?;
        if was_paused != paused {
            let what = if paused { "paused" } else { "resumed" };
            tracing::warn!(%id, "the id was {what} by request");
        }
        Ok(self.get(id))
    }

    /// Up to `limit` of an id's queued reports, those behind `after`, oldest first; they stay queued.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn peek(&self, id: Id, after: Option<Position>, limit: usize) -> Result<Peeked, JournalError> {
        let peeking = Arc::clone(&self.peeking).acquire_owned().await.expect("the semaphore is never closed");
        let journal = self.journal.clone();
        let peek = move || {
            // For as long as the disk is read, whether anybody still waits or not.
            let _peeking = peeking;
            journal.peek(&id, after, limit, MAX_PEEKED_BYTES)
        };
        tokio::task::spawn_blocking(peek).await.expect("reading the journal does not panic")
    }

    fn outage(&self) -> Option<LastError> {
        let (since, error) = self.health.outage()?;
        Some(LastError { at: since, ..LastError::new(&error.message, error.code) })
    }

    fn status_of(&self, id: &Id, stream: Option<&Stream>, outage: &Option<LastError>) -> StreamStatus {
        let Some(stream) = stream else { return self.without_backlog(id) };
        let (backlog, flusher, progress) = {
            let state = stream.lock();
            (state.backlog(), state.flusher, state.progress())
        };
        let Progress { last_batch, last_error, next_attempt, .. } = progress;
        let state = match flusher {
            _ if backlog.paused => StreamState::Paused,
            _ if backlog.reports + backlog.markers == 0 => StreamState::Drained,
            _ if next_attempt.is_some() => StreamState::Retrying,
            Flusher::Working if outage.is_some() => StreamState::Retrying,
            Flusher::Working => StreamState::Draining,
            _ => StreamState::Waiting,
        };
        let now = Instant::now();
        StreamStatus {
            id: *id,
            state,
            reports: backlog.reports,
            markers: backlog.markers,
            bytes: backlog.bytes,
            oldest_age: backlog.oldest.map(|oldest| now.saturating_duration_since(oldest)),
            last_batch,
            last_error: last_error.or_else(|| outage.clone().filter(|_| state == StreamState::Retrying)),
            next_attempt: match state {
                StreamState::Waiting => self.flushers.until_tick(backlog),
                StreamState::Retrying => next_attempt.map(|at| at.saturating_duration_since(now)),
                StreamState::Draining | StreamState::Paused | StreamState::Drained => None,
            },
            paused: backlog.paused,
        }
    }

    fn without_backlog(&self, id: &Id) -> StreamStatus {
        let paused = self.journal.is_paused(id);
        StreamStatus {
            id: *id,
            state: if paused { StreamState::Paused } else { StreamState::Drained },
            reports: 0,
            markers: 0,
            bytes: 0,
            oldest_age: None,
            last_batch: None,
            last_error: None,
            next_attempt: None,
            paused,
        }
    }
}

impl StreamState {
    /// `waiting`, `draining`, `retrying`, `paused` or `drained`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Draining => "draining",
            Self::Retrying => "retrying",
            Self::Paused => "paused",
            Self::Drained => "drained",
        }
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl Eq for Row {}

impl PartialOrd for Row {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Row {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place.cmp(&other.place)
    }
}
