//! Whether the sink takes writes: one view that all writers share, and the turn of the one that asks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::{Class, SinkError};
use crate::metrics::Metrics;
use crate::report::Id;

/// The first and the longest delay between two questions of the prober.
const PROBE_FIRST: Duration = Duration::from_millis(100);
const PROBE_LONGEST: Duration = Duration::from_secs(5);

/// The least time between two lines of the log about transactions that keep failing: there may be many.
const BETWEEN_LINES: Duration = Duration::from_secs(1);

/// How long the sink refuses all that it is given, from the first error that lasts on, before it counts as blocked.
const ALL_REFUSED_FOR: Duration = Duration::from_secs(2);

/// The sink's state as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkState {
    /// It takes writes, as far as is known.
    Up,
    /// Not reachable, read-only or full; it is asked again on its own.
    Down,
    /// As down, but it needs a person.
    Blocked,
}

impl SinkState {
    /// `up`, `down` or `blocked`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Blocked => "blocked",
        }
    }
}

/// The sink's health at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthStatus {
    /// The state.
    pub state: SinkState,
    /// The error of the outage under way, or one over some transaction that lasts, or that there are fewer connections
    /// than `sink.connections`; for a person, without secrets.
    pub last_error: Option<String>,
    /// Since when the state holds, in microseconds of the epoch.
    pub since: u64,
}

/// The health of one sink, shared by its writers.
pub struct Health {
    view: watch::Sender<View>,
    /// Held by the writer that asks while the sink is not up. Its delays go on when another takes over.
    prober: Mutex<Backoff>,
    transient: AtomicU64,
    outage: AtomicU64,
    operator: AtomicU64,
    /// How often the state ceased to be up.
    outages: AtomicU64,
    pub(super) metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct View {
    status: HealthStatus,
    entered: Instant,
    /// Code of the error and whether the log has it: an outage that the next connection ends is not worth an error.
    code: Option<u32>,
    announced: bool,
    /// How many hold a [`StickyError`], and when the log had a line of one.
    sticky: usize,
    said_lasting: Option<Instant>,
    /// What is said of a server that allows fewer connections than are wanted.
    fewer: Option<String>,
    /// Since when every transaction was refused by an error that lasts and that may be the table's, not a row's.
    all_refused_since: Option<Instant>,
    /// Whether it is blocked for that alone: then a probe says nothing.
    refuses_all: bool,
}

/// What a writer may do now.
pub(super) enum Turn<'a> {
    /// The sink is up: go on.
    Open,
    /// It is not, and this writer is the one that asks.
    Prober(MutexGuard<'a, Backoff>),
}

impl Default for Health {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Health {
    /// A sink that is up, as far as is known; its writers count in `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let status = HealthStatus { state: SinkState::Up, last_error: None, since: now() };
        let view = View {
            status,
            entered: Instant::now(),
            code: None,
            announced: false,
            sticky: 0,
            said_lasting: None,
            fewer: None,
            all_refused_since: None,
            refuses_all: false,
        };
        Self {
            view: watch::Sender::new(view),
            prober: Mutex::new(Backoff::new(PROBE_FIRST, PROBE_LONGEST)),
            transient: AtomicU64::new(0),
            outage: AtomicU64::new(0),
            operator: AtomicU64::new(0),
            outages: AtomicU64::new(0),
            metrics,
        }
    }

    /// The health now.
    pub fn status(&self) -> HealthStatus {
        self.view.borrow().shown()
    }

    /// The error of the outage under way, and since when, in microseconds of the epoch; none while the sink is up.
    pub fn outage(&self) -> Option<(u64, SinkError)> {
        let view = self.view.borrow();
        let HealthStatus { state, last_error, since } = &view.status;
        let class = match state {
            SinkState::Up => return None,
            SinkState::Down => Class::Outage,
            SinkState::Blocked => Class::Operator,
        };
        Some((*since, SinkError { class, code: view.code, message: last_error.clone().unwrap_or_default() }))
    }

    /// Waits until the health is one that `wanted` accepts; it may be so already.
    pub async fn until(&self, mut wanted: impl FnMut(&HealthStatus) -> bool) -> HealthStatus {
        let mut view = self.view.subscribe();
        let found = view.wait_for(|view| wanted(&view.status)).await;
        found.expect("the sender is in self").shown()
    }

    /// How often a transaction was tried again for an error of this class, since start. Poison is split, not retried.
    pub fn retries(&self, class: Class) -> u64 {
        self.counter(class).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// How often the sink ceased to be up, since start.
    pub fn outages(&self) -> u64 {
        self.outages.load(Ordering::Relaxed)
    }

    fn counter(&self, class: Class) -> Option<&AtomicU64> {
        match class {
            Class::Transient => Some(&self.transient),
            Class::Outage => Some(&self.outage),
            Class::Operator => Some(&self.operator),
            Class::Poison => None,
        }
    }

    /// Waits until the sink is up, or until it is this writer's turn to ask.
    pub(super) async fn turn(&self) -> Turn<'_> {
        loop {
            if self.is_up() {
                return Turn::Open;
            }
            tokio::select! {
                turn = self.prober.lock() => if !self.is_up() { return Turn::Prober(turn) },
                _ = self.until(|status| status.state == SinkState::Up) => {}
            }
        }
    }

    fn is_up(&self) -> bool {
        self.view.borrow().status.state == SinkState::Up
    }

    /// The sink took a transaction, or refused one for its rows alone.
    pub(super) fn works(&self) {
        self.view.send_if_modified(|view| {
            view.all_refused_since = None;
            view.is_up_again()
        });
    }

    /// The sink would take a write, as a probe says; whatever it then refuses is another matter.
    pub(super) fn took_probe(&self) {
        self.view.send_if_modified(|view| !view.refuses_all && view.is_up_again());
    }

    /// The sink cannot take anything. `announce` is false where a connection that was open before has failed, which the
    /// next one may make good.
    pub(super) fn fails(&self, error: &SinkError, announce: bool) {
        self.count(error.class);
        let state = if error.class == Class::Operator { SinkState::Blocked } else { SinkState::Down };
        self.view.send_modify(|view| {
            // What has no number is this program's own words, which say what is wrong.
            let is_another = view.code != error.code
                || error.code.is_none() && view.status.last_error.as_ref() != Some(&error.message);
            let news = view.status.state != state || (state == SinkState::Blocked && is_another);
            if view.status.state != state {
                let entered = view.entered;
                let was_up = view.status.state == SinkState::Up;
                view.enter(state);
                if was_up {
                    self.outages.fetch_add(1, Ordering::Relaxed);
                } else {
                    view.entered = entered; // The outage goes on, under another name.
                }
            }
            view.status.last_error = Some(error.message.clone());
            view.code = error.code;
            if announce && (news || !view.announced) {
                view.announced = true;
                announce_failure(state, error);
            }
        });
    }

    /// An error over one transaction that does not go away soon, while the sink takes others; `id` is the one whose
    /// batch it is. It is seen until all that hold one have dropped it. At most one a second is logged.
    pub(super) fn lasts(health: &Arc<Self>, id: Option<&Id>, error: SinkError) -> StickyError {
        health.view.send_modify(|view| {
            view.sticky += 1;
            view.status.last_error = Some(error.message.clone());
            if view.said_lasting.is_none_or(|said| said.elapsed() >= BETWEEN_LINES) {
                view.said_lasting = Some(Instant::now());
                announce_lasting(id, &error);
            }
            if view.refuses_all_by(&error) {
                view.enter(SinkState::Blocked);
                (view.refuses_all, view.announced, view.code) = (true, true, error.code);
                health.outages.fetch_add(1, Ordering::Relaxed);
                announce_failure(SinkState::Blocked, &error);
            }
        });
        StickyError { health: Arc::clone(health), error }
    }

    /// The server allows only so many of the connections that are wanted; those work. One line of the log tells of it.
    pub(super) fn has_fewer_connections(&self, error: &SinkError, slots: usize, wanted: usize) {
        self.view.send_modify(|view| {
            let remedy = "raise what the server allows, or lower sink.connections";
            let said = view.fewer.replace(format!("{error}; going on with {slots} of {wanted} connections: {remedy}"));
            if said.is_none() {
                tracing::warn!(
                    error = %error,
                    wanted,
                    "the server refuses a connection, and the sink goes on with those that it has: {remedy}",
                );
            }
        });
    }

    /// It allows all of them again, or what it refuses is another matter by now.
    pub(super) fn has_all_connections(&self) {
        self.view.send_if_modified(|view| {
            let said = view.fewer.take();
            if said.is_some() && view.status.state == SinkState::Up {
                tracing::info!("the server allows all connections of the sink again");
            }
            said.is_some()
        });
    }

    pub(super) fn count(&self, class: Class) {
        if let Some(counter) = self.counter(class) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An error over one transaction is seen for as long as this is held.
pub struct StickyError {
    health: Arc<Health>,
    error: SinkError,
}

impl StickyError {
    /// The error.
    pub fn error(&self) -> &SinkError {
        &self.error
    }
}

impl fmt::Debug for StickyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StickyError").field(&self.error).finish()
    }
}

impl PartialEq for StickyError {
    fn eq(&self, other: &Self) -> bool {
        self.error == other.error
    }
}

impl Eq for StickyError {}

impl Drop for StickyError {
    fn drop(&mut self) {
        self.health.view.send_modify(|view| {
            view.sticky -= 1;
            if view.sticky > 0 {
                return;
            }
            view.all_refused_since = None;
            if view.refuses_all {
                view.is_up_again();
            } else if view.status.state == SinkState::Up {
                view.status.last_error = None;
            }
        });
    }
}

impl View {
    fn shown(&self) -> HealthStatus {
        let last_error = self.status.last_error.clone().or_else(|| self.fewer.clone());
        HealthStatus { last_error, ..self.status.clone() }
    }

    /// Ends an outage; whether there was one.
    fn is_up_again(&mut self) -> bool {
        if self.status.state == SinkState::Up {
            return false;
        }
        if self.announced {
            tracing::info!(outage_s = self.entered.elapsed().as_secs_f64(), "the sink is up again");
        }
        self.enter(SinkState::Up);
        self.status.last_error = None;
        true
    }

    /// Whether all that the sink was given for a while was refused by errors such as this one.
    fn refuses_all_by(&mut self, error: &SinkError) -> bool {
        if !error.may_be_the_tables() || cfg!(forebay_plant = "up_while_it_refuses_all") {
            return false;
        }
        let since = *self.all_refused_since.get_or_insert_with(Instant::now);
        self.status.state == SinkState::Up && since.elapsed() >= ALL_REFUSED_FOR
    }

    fn enter(&mut self, state: SinkState) {
        self.status.state = state;
        self.status.since = now();
        self.entered = Instant::now();
        self.announced &= state != SinkState::Up;
        self.refuses_all = false;
    }
}

fn announce_lasting(id: Option<&Id>, error: &SinkError) {
    let id = id.map(tracing::field::display);
    tracing::error!(
        id,
        error = %error,
        "the sink fails over this transaction again and again; nothing of it is dropped, it is sent again later",
    );
}

fn announce_failure(state: SinkState, error: &SinkError) {
    match state {
        SinkState::Blocked => tracing::error!(
            error = %error,
            "the sink is blocked until its configuration is put right: {}; reports are kept in the journal meanwhile",
            remedy(error.code),
        ),
        SinkState::Down | SinkState::Up => {
            tracing::error!(error = %error, "the sink is down; reports are kept in the journal until it is up again");
        }
    }
}

/// What a person should do about an operator error.
fn remedy(code: Option<u32>) -> &'static str {
    match code {
        Some(1045) => {
            "check user and password in sink.url, and that the user may connect from this host; where the server wants TLS \
             of the user, set sink.tls_ca"
        }
        Some(3159) => "the server takes no connection without TLS: set sink.tls_ca",
        Some(1698 | 1251 | 1524) => {
            "the user logs in by a plugin that takes no password over a connection: ALTER USER … IDENTIFIED BY …, or name \
             another user in sink.url"
        }
        Some(3118 | 4151) => "the user is locked: ALTER USER … ACCOUNT UNLOCK",
        Some(1820 | 1862) => "the user's password has expired: ALTER USER … IDENTIFIED BY …, and put it into sink.url",
        Some(1129) => "the server has shut this host out after too many errors: FLUSH HOSTS, and see what caused them",
        Some(1130) => "the server takes no user from this host: CREATE USER …@'this host'",
        Some(3878 | 3955) => {
            "the server wants more than a password of this user, or shut it out for wrong ones: see the error"
        }
        Some(1044 | 1142 | 1143 | 1227) => {
            "grant the user SELECT, INSERT and UPDATE on all three tables (and CREATE and ALTER, unless create_tables = false)"
        }
        Some(1049) => "make the database that sink.url names",
        Some(1146 | 1) => "make the tables: `forebay schema` prints them",
        Some(1054 | 1064) => "bring the tables to what `forebay schema` prints",
        Some(1193 | 1231 | 1232 | 1238) => {
            "the server does not take a setting that Forebay's sessions need: use a server of a version that Forebay's \
             documentation names"
        }
        Some(11 | 26) => "the sink's file is damaged or not a database: restore it or move it away",
        Some(1526) => "add a partition that takes these rows",
        Some(1364 | 1442 | 1423 | 1449 | 1305 | 1370) => "see the triggers of the table, and what they write to",
        _ => "see the error",
    }
}

pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
