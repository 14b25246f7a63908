//! What an operator does with dead letters: look, try again, discard.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};

use crate::config;
use crate::journal::{DeadLetter, Journal, JournalError, Revision};
use crate::report::{Batch, Body, Id, LetterKey, LetterKind, Position, Record};
use crate::sink::{AnySink, Class, Refused, SinkError, StoreError, Stored, Writer};

/// Letters that a retry reads at a time, and how many may be reading at a time: each letter is up to 100 KiB.
const MAX_READ: usize = 200;
const MAX_READING: usize = 4;

/// The dead letters of a node; a cheap handle.
#[derive(Clone)]
pub struct DeadLetters {
    journal: Journal,
    writer: Arc<Writer<AnySink>>,
    max_rows: usize,
    max_bytes: usize,
    /// One retry at a time, so that each letter is counted as what became of it.
    turn: Arc<Mutex<()>>,
    reading: Arc<Semaphore>,
}

/// Held until all that was begun in a turn is done.
type Turn = Arc<OwnedMutexGuard<()>>;

/// What became of dead letters that were tried again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retried {
    /// New rows of the sink.
    pub stored: u64,
    /// Reports whose key the sink had already.
    pub duplicates: u64,
    /// Reports that the sink refused again; they are dead letters as before, with the new reason.
    pub refused: u64,
    /// The last of those.
    pub last_refusal: Option<(LetterKey, SinkError)>,
}

/// Why dead letters could not be tried, or not all of them.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// No such letter.
    #[error("there is no dead letter with the key {0}")]
    Unknown(LetterKey),
    /// It was set aside, and lies in the journal with reports that wait: without its letter it would be one of them.
    #[error(
        "the dead letter {0} was set aside, and reports that were accepted with it still wait for the sink: it can be \
         discarded once these are stored"
    )]
    InBacklog(LetterKey),
    /// The sink takes nothing now; what was not stored is a dead letter as before.
    #[error("the sink takes nothing now ({error}); {} were stored before, the rest are dead letters as before", .so_far.stored + .so_far.duplicates)]
    Sink {
        /// What it said.
        error: SinkError,
        /// What became of others before.
        so_far: Retried,
    },
    /// The journal cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The node stops.
    #[error("the node is stopping")]
    Stopping,
}

impl DeadLetters {
    pub(super) fn new(journal: &Journal, writer: Writer<AnySink>, settings: &config::Sink) -> Self {
        let (journal, writer) = (journal.clone(), Arc::new(writer));
        let (max_rows, max_bytes) = (settings.max_rows.min(MAX_READ), settings.max_bytes);
        let reading = Arc::new(Semaphore::new(MAX_READING));
        Self { journal, writer, max_rows, max_bytes, turn: Arc::default(), reading }
    }

    /// Up to `limit` of them in order of key, those behind `after`, of one id or of all, of one
    /// kind or of all.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn list(
        &self,
        of: Option<Id>,
        kind: Option<LetterKind>,
        after: Option<LetterKey>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, JournalError> {
        self.reading(move |journal| journal.dead_letters(of.as_ref(), kind, after, limit)).await
    }

    /// The one with this key.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn get(&self, key: LetterKey) -> Result<Option<DeadLetter>, JournalError> {
        self.reading(move |journal| journal.dead_letter(key)).await
    }

    /// Discards one for good, durably; false when there is none with this key.
    ///
    /// # Errors
    /// When the journal cannot be read, or the node stops; [`RetryError::InBacklog`].
    pub async fn discard(&self, key: LetterKey) -> Result<bool, RetryError> {
        let _turn = self.turn.lock().await;
        // A damaged one, too.
        let is_there = self.reading(move |journal| journal.has_dead_letter(key)).await?;
        if is_there {
            if self.journal.is_aside(&key) {
                return Err(RetryError::InBacklog(key));
            }
            self.revise(vec![Revision::Discarded(key)]).await?;
            tracing::warn!(%key, "a dead letter was discarded by request");
        }
        Ok(is_there)
    }

    /// Gives one to the sink again.
    ///
    /// # Errors
    /// [`RetryError`]; that the sink refuses it is none, see [`Retried`].
    pub async fn retry(&self, key: LetterKey) -> Result<Retried, RetryError> {
        let turn = self.turn().await;
        let letter = self.get(key).await?.ok_or(RetryError::Unknown(key))?;
        let mut retried = Retried::default();
        self.attempt(vec![letter], &mut retried, &turn).await?;
        Ok(retried)
    }

    /// Gives all of one id, or all there are, to the sink again, in order of key.
    ///
    /// # Errors
    /// As [`DeadLetters::retry`]; the first ends it.
    pub async fn retry_all(&self, of: Option<Id>) -> Result<Retried, RetryError> {
        let turn = self.turn().await;
        let mut retried = Retried::default();
        let mut after = None;
        loop {
            let mut letters = self.list(of, None, after, self.max_rows).await?;
            let Some(last) = letters.last().map(DeadLetter::key) else { return Ok(retried) };
            after = Some(last);
            while !letters.is_empty() {
                let rest = letters.split_off(fitting(&letters, self.max_bytes));
                self.attempt(std::mem::replace(&mut letters, rest), &mut retried, &turn).await?;
            }
        }
    }

    async fn turn(&self) -> Turn {
        Arc::new(Arc::clone(&self.turn).lock_owned().await)
    }

    /// Tries these to the end, also where nobody waits for the answer any more: a row that is in the sink is no letter.
    async fn attempt(&self, letters: Vec<DeadLetter>, retried: &mut Retried, turn: &Turn) -> Result<(), RetryError> {
        let (this, turn, mut so_far) = (self.clone(), Arc::clone(turn), std::mem::take(retried));
        let attempt = async move {
            let _turn = turn;
            this.store_or_refuse(letters, &mut so_far).await.map(|()| so_far)
        };
        *retried = tokio::spawn(attempt).await.expect("trying letters does not panic")?;
        Ok(())
    }

    /// All in one transaction; where the sink refuses that, each in its own.
    async fn store_or_refuse(&self, letters: Vec<DeadLetter>, retried: &mut Retried) -> Result<(), RetryError> {
        match self.store(&letters).await {
            Ok(stored) => self.settle(&letters, &stored, retried).await,
            Err(StoreError::Failed(error) | StoreError::Unknown(error)) if takes_nothing(&error) => {
                Err(sink_error(error, retried))
            }
            Err(error) if letters.len() == 1 => self.refused(letters, error, retried).await,
            Err(_) => {
                for letter in letters {
                    let letter = vec![letter];
                    match self.store(&letter).await {
                        Ok(stored) => self.settle(&letter, &stored, retried).await?,
                        Err(StoreError::Failed(error) | StoreError::Unknown(error)) if takes_nothing(&error) => {
                            return Err(sink_error(error, retried));
                        }
                        Err(error) => self.refused(letter, error, retried).await?,
                    }
                }
                Ok(())
            }
        }
    }

    /// One transaction, by turns with the drainers, which hold no connection while they wait out an outage.
    async fn store(&self, letters: &[DeadLetter]) -> Result<Vec<Stored>, StoreError> {
        self.writer.store_once(&batches(letters)).await
    }

    /// Which letter of an id was new is not known where only some were: new ones are counted first, the sums are right.
    async fn settle(&self, letters: &[DeadLetter], stored: &[Stored], retried: &mut Retried) -> Result<(), RetryError> {
        let groups = letters.chunk_by(|a, b| a.id == b.id).zip(stored);
        let revisions = groups.flat_map(|(letters, stored)| {
            let is_new =
                |(n, letter): (u64, &DeadLetter)| Revision::Stored { key: letter.key(), is_new: n < stored.inserted };
            (0..).zip(letters).map(is_new)
        });
        self.revise(revisions.collect()).await?;
        retried.stored += stored.iter().map(|stored| stored.inserted).sum::<u64>();
        retried.duplicates += stored.iter().map(|stored| stored.duplicates).sum::<u64>();
        Ok(())
    }

    async fn refused(
        &self,
        letters: Vec<DeadLetter>,
        error: StoreError,
        retried: &mut Retried,
    ) -> Result<(), RetryError> {
        for letter in letters {
            let Refused { kind, holder, code, reason, .. } = Refused::because(0, error.clone());
            retried.last_refusal =
                Some((letter.key(), SinkError { class: Class::Poison, code, message: reason.clone() }));
            retried.refused += 1;
            let letter = DeadLetter { kind, holder, code, reason, ..letter };
            self.revise(vec![Revision::Refused(Box::new(letter))]).await?;
        }
        Ok(())
    }

    async fn revise(&self, revisions: Vec<Revision>) -> Result<(), RetryError> {
        if self.journal.revise(revisions).await { Ok(()) } else { Err(RetryError::Stopping) }
    }

    pub(super) async fn reading<T: Send + 'static>(&self, read: impl FnOnce(&Journal) -> T + Send + 'static) -> T {
        let reading = Arc::clone(&self.reading).acquire_owned().await.expect("the semaphore is never closed");
        let journal = self.journal.clone();
        let read = move || {
            let _reading = reading;
            read(&journal)
        };
        tokio::task::spawn_blocking(read).await.expect("reading the journal does not panic")
    }
}

/// Whether it is the sink's state that is at fault. A lock or a code that nobody knows is a matter of one letter, which
/// stays what it is, with that reason, and holds up no other.
fn takes_nothing(error: &SinkError) -> bool {
    matches!(error.class, Class::Outage | Class::Operator)
}

fn sink_error(error: SinkError, so_far: &mut Retried) -> RetryError {
    RetryError::Sink { error, so_far: std::mem::take(so_far) }
}

/// How many of the first letters stay below `max_bytes` of data; at least one.
fn fitting(letters: &[DeadLetter], max_bytes: usize) -> usize {
    let mut bytes = 0;
    let fits = |letter: &&DeadLetter| {
        bytes += letter.report.data.as_ref().map_or(0, bytes::Bytes::len);
        bytes <= max_bytes
    };
    letters.iter().take_while(fits).count().max(1)
}

/// A batch an id. Position 0 is below any of the stream, so its state stays as it is, and nothing is said of what is
/// settled. It counts as tried: nobody knows what became of an earlier retry.
fn batches(letters: &[DeadLetter]) -> Vec<Batch> {
    let record = |letter: &DeadLetter| Record { position: Position(0), body: Body::Report(letter.report.clone()) };
    let batch = |letters: &[DeadLetter]| Batch {
        is_gapless: false,
        ..Batch::new(letters[0].id, letters.iter().map(record).collect())
    };
    letters.chunk_by(|a, b| a.id == b.id).map(batch).collect()
}
