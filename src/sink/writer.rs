//! Stores batches for as long as it takes: retries, waits out outages, and splits until poison stands alone.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tracing::Instrument as _;
use tracing::field::{Empty, display};

use super::backoff::{Backoff, jitter};
use super::health::{Health, StickyError, Turn};
use super::pool::{Pool, PoolSlot};
use super::split::{Piece, part};
use super::{Class, Connection, Sink, SinkError, StoreError, Stored, Taken};
use crate::metrics::Metrics;
use crate::report::{Batch, Holder, Id, LetterKind, Position};
use crate::trace;

mod once;

/// The first and the longest delay before a transaction that met a transient error is sent again.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// How long a transaction is tried with all its batches, from its first failure on. After that it is split by batch.
const LASTS_AFTER: Duration = Duration::from_secs(1);

/// What became of one batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Rows that were not there before, from what the server said.
    pub inserted: u64,
    /// Reports whose key was there already.
    pub duplicates: u64,
    /// All rows of the id, after the transaction of the batch's last marker; where it has one.
    pub total: Option<u64>,
    /// Reports that cannot be stored, in the order of the batch. All others are stored.
    pub refused: Vec<Refused>,
    /// What became of those.
    pub buried: Burial,
    /// The sink keeps failing over this batch alone: it is neither stored nor refused, or not all of it, and is to be
    /// stored again later, all of it. To be held until then, so that an operator sees why.
    pub put_back: Option<Arc<StickyError>>,
    /// Of a batch that is put back, or was recalled: how many of its first records are in the sink or dead letters all
    /// the same.
    pub settled: usize,
}

impl Outcome {
    /// Whether every record is in the sink or a dead letter.
    pub fn is_settled(&self) -> bool {
        self.put_back.is_none() && self.buried.new + self.buried.known == self.refused.len() as u64
    }
}

/// Who keeps reports that cannot be stored.
pub trait Bury: Send + Sync {
    /// Makes dead letters of these records of the batch, durably; none where it cannot, because the node ends.
    fn bury<'a>(&'a self, batch: &'a Batch, refused: &'a [Refused]) -> BoxFuture<'a, Option<Burial>>;
}

/// What became of reports that were to be dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Burial {
    /// Dead letters that are new.
    pub new: u64,
    /// Reports that were dead letters already.
    pub known: u64,
}

/// A report that cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The index of its record in its batch.
    pub index: usize,
    /// In which way.
    pub kind: LetterKind,
    /// What the sink has under its key, where that is why.
    pub holder: Option<Box<Holder>>,
    /// The server's error number, where it gave one.
    pub code: Option<u32>,
    /// Why, for a person.
    pub reason: String,
}

/// One lane to the sink: at most one connection, at most one transaction at a time.
pub struct Writer<S: Sink> {
    sink: Arc<S>,
    health: Arc<Health>,
    pool: Arc<Pool<S::Connection>>,
    graves: Option<Arc<dyn Bury>>,
    /// Up to where the sink may have what these ids have in the batches at hand: it was in a transaction that was
    /// committed, or of which nobody knows whether it was.
    tried: HashMap<Id, Position>,
    /// What has become of the batches at hand so far.
    outcomes: Vec<Outcome>,
    trying: Arc<AtomicBool>,
}

/// Into how small parts a transaction is cut over which the sink keeps failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// Not at all at first: it is tried again, and after a while batch by batch.
    Transaction,
    /// The sink failed over these batches before: a batch that fails is put back at once, so that nobody waits for it.
    Batch,
    /// It did so again and again: one of their records may be the cause, so all before it are stored without it.
    Record,
}

/// Why a transaction did not happen.
struct Failure {
    error: StoreError,
    /// Whether a connection from an earlier transaction failed, rather than one just made.
    stale: bool,
    /// Whether that connection can be used again.
    kept: bool,
    /// Whether the sink had said just before that it would take a write.
    probed: bool,
}

/// Why a transaction is not tried again as it is.
#[derive(Debug)]
enum GivenUp {
    /// A row is refused for what it is.
    Poison(SinkError),
    /// The sink has other reports under these keys.
    Taken(Vec<Taken>),
    /// It keeps failing and the sink is there: one of its rows may be the cause.
    Sticky(SinkError),
}

impl<S: Sink> Writer<S> {
    /// A writer with a connection of its own, made when it is first used. All writers of a sink share one health.
    pub fn new(sink: Arc<S>, health: Arc<Health>) -> Self {
        let pool = Pool::new(Arc::clone(&health), 1);
        Self::of(sink, health, pool)
    }

    /// So many writers with as many connections, or with fewer, as many as the server allows.
    pub fn several(sink: &Arc<S>, health: &Arc<Health>, count: usize) -> Vec<Self> {
        let pool = Pool::new(Arc::clone(health), count);
        let writer = || Self::of(Arc::clone(sink), Arc::clone(health), Arc::clone(&pool));
        std::iter::repeat_with(writer).take(count).collect()
    }

    fn of(sink: Arc<S>, health: Arc<Health>, pool: Arc<Pool<S::Connection>>) -> Self {
        Self { sink, health, pool, graves: None, tried: HashMap::new(), outcomes: Vec::new(), trying: Arc::default() }
    }

    /// Lets `graves` have what cannot be stored, before anything that comes after it in its id is stored: so what the
    /// sink remembers as settled never passes a report that is neither a row nor a dead letter. Without, such reports
    /// are only told of, and nothing behind them is remembered.
    pub fn bury_with(self, graves: Arc<dyn Bury>) -> Self {
        Self { graves: Some(graves), ..self }
    }

    /// Whether something is on its way to the sink. It changes only while a future of this writer is polled.
    pub fn trying(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.trying)
    }

    /// Up to where the sink may have what this id had in the batches that were stored last, or that were to be; `None`
    /// where it has nothing. Meant for batches that are not settled: of others it says nothing.
    pub fn tried(&self, id: &Id) -> Option<Position> {
        self.tried.get(id).copied()
    }

    /// What has become of the batches of [`Writer::store`], whose future was dropped: all that is known to be done.
    pub fn recalled(&mut self) -> Vec<Outcome> {
        let mut outcomes = std::mem::take(&mut self.outcomes);
        if cfg!(forebay_plant = "forget_the_recalled") {
            outcomes.fill(Outcome::default());
        }
        // A report that is neither a row nor a letter is passed by nothing.
        outcomes.iter_mut().filter(|outcome| !outcome.is_settled()).for_each(|outcome| outcome.settled = 0);
        outcomes
    }

    /// Asks an outage away, where nothing waits that would; returns never.
    pub async fn ask_until_up(&mut self) {
        if self.health.outage().is_some() {
            self.ready().await;
        }
        std::future::pending().await
    }

    /// Waits until the sink would take a write, so that its health is known before there is anything to store.
    pub async fn ready(&mut self) {
        self.commit(&[], false).await.expect("without rows there is nothing to refuse");
    }

    /// Stores all batches, whose ids differ; gives an outcome for each, in their order.
    ///
    /// Never fails: it tries until each record is stored or refused for what it is, except those of a batch that the
    /// sink, though it is there, keeps failing over: that one alone is put back. Dropping the future cancels it and
    /// drops the connection; what was under way may then be stored or not, and storing it again changes nothing.
    pub async fn store(&mut self, batches: &[Batch]) -> Vec<Outcome> {
        self.store_again(batches, Granularity::Transaction).await
    }

    /// The same for batches that were put back before.
    pub async fn store_again(&mut self, batches: &[Batch], granularity: Granularity) -> Vec<Outcome> {
        let mut is_retry = granularity != Granularity::Transaction;
        self.tried.clear();
        self.outcomes = vec![Outcome::default(); batches.len()];
        let whole = Piece::Batches(0..batches.len());
        // The last is next. Splits push the later half first, so records of one id are committed in order.
        let mut pieces: Vec<Piece> = if batches.is_empty() { vec![] } else { vec![whole] };
        let mut markers = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        while let Some(piece) = pieces.pop() {
            let records;
            let given = match &piece {
                Piece::Batches(range) => &batches[range.clone()],
                Piece::Records(index, range) => {
                    let is_gapless = self.outcomes[*index].is_settled() || cfg!(forebay_plant = "mark_passes_letters");
                    records = [part(&batches[*index], range.clone(), is_gapless)];
                    &records[..]
                }
                Piece::Refused(index, refused) => {
                    // What is half buried is not recalled.
                    self.trying.store(true, Ordering::SeqCst);
                    bury(self.graves.clone(), &batches[*index], refused, &mut self.outcomes[*index]).await;
                    self.trying.store(false, Ordering::SeqCst);
                    self.outcomes[*index].settled = refused.last().map_or(0, |last| last.index + 1);
                    continue;
                }
            };
            match self.commit(given, is_retry).await {
                Ok(stored) => {
                    // As long as the rest is not stored, none of it is settled.
                    if !pieces.is_empty() {
                        self.note_tried(given);
                    }
                    piece.settle(stored, batches, &mut self.outcomes);
                }
                Err(GivenUp::Taken(taken)) => pieces.extend(piece.without(taken, batches).into_iter().rev()),
                Err(GivenUp::Poison(poison)) => match piece.split(batches) {
                    Some((earlier, later)) => pieces.extend([later, earlier]),
                    None if piece.is_marker(batches) => {
                        Self::wait_for_operator(&self.health, &batches[piece.first().0], poison, &mut markers).await;
                        pieces.push(piece);
                    }
                    None => {
                        let (batch, index) = piece.first();
                        pieces.push(Piece::Refused(batch, vec![Refused::because(index, poison.into())]));
                    }
                },
                Err(GivenUp::Sticky(error)) => {
                    is_retry |= !error.is_too_slow();
                    let parts = if granularity == Granularity::Record || error.is_too_slow() {
                        piece.split(batches)
                    } else {
                        piece.split_batches()
                    };
                    match parts {
                        Some((earlier, later)) => pieces.extend([later, earlier]),
                        None => {
                            let (batch, settled) = piece.first();
                            self.outcomes[batch].settled = settled;
                            // What comes after it in its id must not be stored before it.
                            pieces.retain(|piece| piece.first().0 != batch);
                            let sticky = Health::lasts(&self.health, Some(&batches[batch].id), error);
                            self.outcomes[batch].put_back = Some(Arc::new(sticky));
                        }
                    }
                }
            }
        }
        for outcome in self.outcomes.iter_mut().filter(|outcome| outcome.put_back.is_none()) {
            outcome.settled = 0;
        }
        std::mem::take(&mut self.outcomes)
    }

    /// A marker has nothing that a sink could refuse, so the table is not what it should be: a person must see to it.
    async fn wait_for_operator(health: &Health, batch: &Batch, poison: SinkError, backoff: &mut Backoff) {
        let message = format!("the row of stream {} is refused, the table is not as it should be: {poison}", batch.id);
        health.fails(&SinkError { class: Class::Operator, message, ..poison }, true);
        tokio::time::sleep(backoff.delay(jitter())).await;
    }

    /// Commits these batches in one transaction, however long it takes, unless a row may be what it fails over. A
    /// retry is tried once; a transaction without a batch is never given up.
    async fn commit(&mut self, batches: &[Batch], is_retry: bool) -> Result<Vec<Stored>, GivenUp> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        let mut failing_since = None;
        let mut is_lost = false;
        let health = Arc::clone(&self.health);
        let mut sticky = None;
        loop {
            let mut probing = match health.turn().await {
                Turn::Open => None,
                Turn::Prober(mut delays) => {
                    // A connection that died while it was idle is made good at once, without a delay.
                    if !is_lost {
                        tokio::time::sleep(delays.delay(jitter())).await;
                    }
                    Some(delays)
                }
            };
            // Where one that was open has failed, the next tells whether it was that one alone.
            let mut slot = self.pool.slot(is_lost).await;
            let tried = self.attempt(&mut slot, batches, probing.is_some()).await;
            if slot.is_given_up() {
                is_lost = false;
                // The others have a connection, and one of them leaves it to this writer when it is done.
                continue;
            }
            drop(slot);
            let failure = match tried {
                Ok(stored) => {
                    health.works();
                    probing.into_iter().for_each(|mut delays| delays.reset());
                    return Ok(stored);
                }
                Err(failure) => failure,
            };
            let Failure { error, stale, kept, probed } = failure;
            is_lost = stale && !kept;
            let error = match error {
                StoreError::Failed(error) => error,
                StoreError::Unknown(error) => {
                    self.note_tried(batches);
                    error
                }
                StoreError::Taken(taken) => {
                    health.works();
                    probing.into_iter().for_each(|mut delays| delays.reset());
                    return Err(GivenUp::Taken(taken));
                }
            };
            if error.class == Class::Poison {
                health.works();
                probing.into_iter().for_each(|mut delays| delays.reset());
                return Err(GivenUp::Poison(error));
            }
            if probed && error.class == Class::Transient {
                // It would have taken a write: the outage is over, whatever becomes of these rows.
                health.took_probe();
                probing.iter_mut().for_each(|delays| delays.reset());
            }
            let may_be_a_rows = error.class == Class::Transient || error.class == Class::Outage && (probed || is_retry);
            failing_since = may_be_a_rows.then(|| failing_since.unwrap_or_else(Instant::now));
            // What the server gave too little time for is tried in parts, at once.
            let lasts =
                error.is_too_slow() || failing_since.is_some_and(|since| is_retry || since.elapsed() >= LASTS_AFTER);
            if lasts && !batches.is_empty() && cfg!(not(forebay_plant = "retry_for_ever")) {
                health.count(error.class);
                return Err(GivenUp::Sticky(error));
            }
            if error.class != Class::Transient {
                health.fails(&error, !stale);
                continue;
            }
            health.count(error.class);
            if lasts {
                let _ = sticky.insert(Health::lasts(&health, None, error));
            }
            // A prober waits before its next question anyway.
            if probing.is_none() {
                tokio::time::sleep(backoff.delay(jitter())).await;
            }
        }
    }

    /// One try, with what became of it in a span: class and code, never the server's words, which may quote a row.
    async fn attempt(
        &self,
        slot: &mut PoolSlot<S::Connection>,
        batches: &[Batch],
        probe: bool,
    ) -> Result<Vec<Stored>, Failure> {
        let span = tracing::info_span!(
            target: trace::TARGET,
            "attempt",
            otel.kind = "client",
            otel.status_code = Empty,
            db.system.name = self.sink.system(),
            db.response.status_code = Empty,
            error.type = Empty,
        );
        self.trying.store(true, Ordering::SeqCst);
        let tried = self.try_once(slot, batches, probe).instrument(span.clone()).await;
        self.trying.store(false, Ordering::SeqCst);
        if let Some(error) = tried.as_ref().err().and_then(|failure| failure.error.failure()) {
            span.record("otel.status_code", "ERROR").record("error.type", error.class.name());
            if let Some(code) = error.code {
                span.record("db.response.status_code", display(code));
            }
        }
        tried
    }

    /// The connection goes with its slot, unless it is kept: so a future that is dropped drops it.
    async fn try_once(
        &self,
        slot: &mut PoolSlot<S::Connection>,
        batches: &[Batch],
        probe: bool,
    ) -> Result<Vec<Stored>, Failure> {
        let stale = slot.connection().is_some();
        let fail =
            |error: SinkError| Failure { error: error.not_for_a_report().into(), stale, kept: false, probed: false };
        if !stale {
            slot.open(self.sink.connect()).await.map_err(fail)?;
        }
        let connection = slot.connection().expect("it has one, or it was just opened");
        if probe || batches.is_empty() {
            connection.probe().await.map_err(fail)?;
        }
        let outcome = if batches.is_empty() {
            Ok(Vec::new())
        } else {
            transact(connection, &with_tries(batches, &self.tried), &self.health.metrics).await
        };
        let kept = connection.usable();
        if kept {
            slot.keep();
        }
        outcome.map_err(|error| Failure { error, stale, kept, probed: probe })
    }

    /// Notes that the sink may have all of these.
    fn note_tried(&mut self, batches: &[Batch]) {
        if cfg!(forebay_plant = "forget_tries") {
            return;
        }
        for Batch { id, records, .. } in batches {
            let through = self.tried.entry(*id).or_default();
            *through = records.last().map_or(*through, |last| last.position.max(*through));
        }
    }
}

/// The batches with what is known of tries to store them.
fn with_tries<'a>(batches: &'a [Batch], tried: &HashMap<Id, Position>) -> Cow<'a, [Batch]> {
    if tried.is_empty() {
        return Cow::Borrowed(batches);
    }
    let with = |batch: &Batch| {
        let through = match cfg!(forebay_plant = "tried_as_a_whole") {
            true => Position(u64::MAX),
            false => tried.get(&batch.id).copied().unwrap_or_default(),
        };
        Batch { tried_through: batch.tried_through.max(through), ..batch.clone() }
    };
    batches.iter().map(with).collect()
}

/// Makes dead letters of reports that cannot be stored.
async fn bury(graves: Option<Arc<dyn Bury>>, batch: &Batch, refused: &[Refused], outcome: &mut Outcome) {
    if let Some(graves) = graves {
        let Burial { new, known } = graves.bury(batch, refused).await.unwrap_or_default();
        outcome.buried.new += new;
        outcome.buried.known += known;
    }
    outcome.refused.extend_from_slice(refused);
}

/// One transaction, which is counted if it is committed.
async fn transact(
    connection: &mut impl Connection,
    batches: &[Batch],
    metrics: &Metrics,
) -> Result<Vec<Stored>, StoreError> {
    let began = Instant::now();
    let stored = connection.store(batches).await?;
    metrics.transactions.observe(began.elapsed());
    metrics.transaction_rows.observe(batches.iter().map(|batch| batch.records.len() as u64).sum());
    metrics.batches.add(batches.len() as u64);
    Ok(stored)
}

impl Refused {
    /// A report that stood alone in a transaction that failed for what it is.
    pub fn because(index: usize, error: StoreError) -> Self {
        match error {
            StoreError::Failed(error) | StoreError::Unknown(error) => {
                let SinkError { code, message: reason, .. } = error;
                Self { index, kind: LetterKind::Refused, holder: None, code, reason }
            }
            StoreError::Taken(mut taken) => Self::by(index, taken.pop().map(|taken| taken.holder).unwrap_or_default()),
        }
    }

    /// One whose key is taken.
    pub(super) fn by(index: usize, holder: Holder) -> Self {
        let reason = "the sink has another report under this key: its client numbered two reports alike".to_owned();
        Self { index, kind: LetterKind::KeyTaken, holder: Some(Box::new(holder)), code: None, reason }
    }
}

#[cfg(test)]
mod tests;
