//! One database file that is open, and what is known of it over openings.
//!
//! The file may be moved, removed or replaced at any time by people who compact, archive or restore it. So it is held
//! against its path before a transaction, once the lock for writing is had, and after the commit: what was committed
//! into a file that is not at the path is not settled. The one that is there then is gone on with only if it has the
//! last transaction that this node committed; and none is made anew in the place of one that was there.
//!
//! Each transaction writes page 1, so that a file and a `-wal` can be told from those of other states (`wal.rs`).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};

use super::opening::{check_last, check_log, making, prepare_path, set_up, still_has};
use super::place::{Identity, Whereabouts, beside, wal_of};
use super::{claim, classify, shape, wal};
use crate::config::{self, SinkTarget, TableName};
use crate::report::{Id, Key, Position};
use crate::sink::{Claim, Class, SinkError, StoreError, schema};

/// What SQLite leaves of a `-wal` that was carried into the file, in bytes; and from where on the node cuts it down
/// itself, though readers may have to be waited for.
pub(super) const KEPT_WAL: u32 = 8 << 20;
const LARGE_WAL: u64 = 32 << 20;
/// The least time between two tries to cut down a large one, and how long such a try waits for readers.
const BETWEEN_CUTS: Duration = Duration::from_secs(1);
const CUT_PATIENCE: Duration = Duration::from_millis(100);

/// What is known of the file over openings.
#[derive(Default)]
pub(super) struct Known {
    /// The file that was open last, and its `-wal`.
    pub(super) files: Option<(Identity, Option<Identity>)>,
    /// The tables were made or found: those that vanish later are not made again, except in a file that is new.
    has_tables: bool,
    /// What the file is known by.
    pub(super) last: Last,
    /// The file as it was seen last, without its `-wal`.
    state: Option<wal::State>,
    /// What was committed into the `-wal` since that began anew.
    in_wal: InWal,
    /// What became of a file that was lost, until another is gone on with.
    pub(super) loss: Option<Loss>,
    cut_at: Option<Instant>,
}

/// What was committed last, as far as nobody removed it from the file while that was open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Last {
    /// A stream, and the record that made it what it is.
    pub(super) stream: Option<(Id, Position)>,
    /// A report.
    pub(super) report: Option<Key>,
}

/// What was committed into a `-wal`: more than is not in the file yet, not less.
#[derive(Debug, Clone, Default)]
struct InWal {
    generation: Option<[u8; 32]>,
    transactions: u64,
    reports: u64,
}

/// A file that is not at its path any more.
pub(super) struct Loss {
    /// What happened, and what is left of it.
    pub(super) text: String,
    is_said: bool,
}

/// An open file; every call blocks.
pub(super) struct File {
    pub(super) connection: Connection,
    pub(super) table: TableName,
    timeout: Duration,
    place: Place,
}

/// What is held against the path. Its open file outlives SQLite's: to close it drops SQLite's locks.
struct Place {
    path: PathBuf,
    wal_path: PathBuf,
    file: std::fs::File,
    identity: Identity,
    /// Its `-wal` and its `-shm`.
    beside: Vec<(PathBuf, Identity)>,
}

/// How a file is not the one at its path any more.
enum Moved {
    /// It has no name, or another.
    Away,
    /// Its `-wal` or its `-shm` has.
    Log,
    /// Another was copied over it.
    Overwritten,
}

impl File {
    /// Opens the file at the path; makes it and its tables only where it was never there before.
    pub(super) fn open(
        path: &Path,
        settings: &config::Sink,
        known: &mut Known,
        claim: Option<&Claim>,
    ) -> Result<Self, SinkError> {
        let opened = Self::open_known(path, settings, known, claim);
        match &opened {
            Ok(_) => {
                if let Some(Loss { text, .. }) = known.loss.take() {
                    let path = path.display();
                    let what = match known.last == Last::default() {
                        true => "what was stored last had been removed from the former",
                        false => "it has what was stored last",
                    };
                    tracing::info!(%path, "a file was put in the place of the SQLite file, and {what}: {text}");
                }
            }
            Err(_) => known.say_loss(),
        }
        opened
    }

    fn open_known(
        path: &Path,
        settings: &config::Sink,
        known: &mut Known,
        claim: Option<&Claim>,
    ) -> Result<Self, SinkError> {
        let is_new = prepare_path(path, settings, known)?;
        // SQLite names the files beside it after where a link leads.
        let real = std::fs::canonicalize(path).map_err(making("looking for it"))?;
        let file = std::fs::File::open(path).map_err(making("opening it"))?;
        let identity = Identity::of(path).map_err(making("opening it"))?.filter(|identity| identity.is(&file));
        let identity = identity.ok_or_else(|| SinkError::new(Class::Outage, "it was replaced while it was opened"))?;
        check_log(&real, &file, &identity, known)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection =
            Connection::open_with_flags(path, flags).map_err(|error| classify("opening the file", error))?;
        connection.busy_timeout(settings.timeout).map_err(|error| classify("setting up the file", error))?;
        let table = settings.table.clone();
        if known.may_be_another(&identity, &file) {
            check_last(&connection, &table, known, &identity)?;
        }
        set_up(&connection).map_err(|error| classify("setting up the file", error))?;
        let wal_path = wal_of(&real);
        let mut beside_it = Vec::new();
        for path in [wal_path.clone(), beside(&real, "-shm")] {
            let identity = Identity::of(&path).map_err(making("looking for its -wal and its -shm"))?;
            beside_it.extend(identity.map(|identity| (path, identity)));
        }
        let place = Place { path: path.to_owned(), wal_path, file, identity, beside: beside_it };
        let mut file = Self { connection, table, timeout: settings.timeout, place };
        if !file.place.identity.is_at(path) {
            return Err(SinkError::new(Class::Outage, "it was replaced while it was opened"));
        }
        if settings.create_tables && (is_new || !known.has_tables) {
            file.make_tables()?;
        }
        shape::check_kind(&file.connection, &file.table)?;
        file.add_columns(settings.create_tables)?;
        file.inspect(claim)?;
        known.has_tables = true;
        known.state = wal::State::of(&file.place.file).map_err(making("reading it"))?;
        known.files = Some(file.place.identities()?);
        Ok(file)
    }

    fn make_tables(&self) -> Result<(), SinkError> {
        let count = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name IN (?1, ?2, ?3)";
        let names = params![self.table.reports(), self.table.streams(), self.table.nodes()];
        let count = self.connection.query_row(count, names, |row| row.get::<_, i64>(0));
        if count.map_err(|error| classify("looking for the tables", error))? == 3 {
            return Ok(());
        }
        for statement in schema::statements(&SinkTarget::Sqlite(self.place.path.clone()), &self.table) {
            self.connection.execute_batch(&statement).map_err(|error| classify("making the tables", error))?;
        }
        Ok(())
    }

    /// Looks at the live tables, and takes the claim or sees that it is held.
    fn inspect(&mut self, claim: Option<&Claim>) -> Result<(), SinkError> {
        let claiming = |error| classify("claiming the node_id", error).not_for_a_report();
        let begun = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(claiming)?;
        shape::check(&transaction, &SinkTarget::Sqlite(self.place.path.clone()), &self.table)?;
        let Some(claim) = claim else { return Ok(()) };
        if claim::take(&transaction, &self.table, claim)? {
            touch_first_page(&transaction).and_then(|()| transaction.commit()).map_err(claiming)?;
            claim.taken();
        }
        Ok(())
    }

    /// Brings tables of an earlier version to what this one writes, or says by what statements that is done.
    fn add_columns(&self, may_change: bool) -> Result<(), SinkError> {
        let looking = |error| classify("looking at the columns", error);
        let find = "SELECT COUNT(*), SUM(name = ?2) FROM pragma_table_info(?1)";
        let mut missing = Vec::new();
        for (table, column, kind) in schema::sqlite_added(&self.table) {
            let found = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?));
            let (columns, found) = self.connection.query_row(find, params![table, column], found).map_err(looking)?;
            // A table that is not there is seen by what is stored into it.
            if columns > 0 && found == Some(0) {
                missing.push(format!("ALTER TABLE \"{table}\" ADD COLUMN {column} {kind}"));
            }
        }
        if !may_change && !missing.is_empty() {
            let missing = missing.join("; ");
            let message = format!("the tables are of an earlier version, and create_tables is false: run {missing}");
            return Err(SinkError::new(Class::Operator, message));
        }
        for statement in missing {
            self.connection.execute_batch(&statement).map_err(|error| classify("adding a column", error))?;
            tracing::info!(%statement, "a table of an earlier version was brought up to this one");
        }
        Ok(())
    }

    /// Runs `work` in a transaction of the file that is at the path: before it, within it, and still after its commit.
    /// `done` says how many reports are new, and what the file can be known by from then on. Dropped before its commit
    /// it rolls back.
    pub(super) fn transact<T>(
        &mut self,
        known: &mut Known,
        work: impl FnOnce(&Transaction<'_>, &TableName) -> Result<T, StoreError>,
        done: impl FnOnce(&T) -> (u64, Last),
    ) -> Result<T, StoreError> {
        let Self { connection, table, place, .. } = self;
        place.check(known)?;
        let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(|error| classify("beginning a transaction", error))?;
        if cfg!(not(forebay_plant = "trust_the_path")) {
            // Whoever had the lock may have put another file in its place.
            place.check(known)?;
        }
        touch_first_page(&transaction).map_err(|error| classify("beginning a transaction", error))?;
        let outcome = work(&transaction, table)?;
        let committed = transaction.commit().map_err(|error| classify("committing", error).not_for_a_report());
        committed.map_err(StoreError::Unknown)?;
        if cfg!(not(forebay_plant = "trust_the_path")) {
            // What is at the path now may have been copied before or after.
            place.check(known).map_err(StoreError::Unknown)?;
        }
        known.committed(&place.wal_path, done(&outcome));
        self.cut_large_wal(known);
        Ok(outcome)
    }

    /// Takes the lock for writing and changes nothing.
    pub(super) fn probe(&mut self, known: &mut Known, claim: Option<&Claim>) -> Result<(), SinkError> {
        self.place.check(known)?;
        self.inspect(claim)?;
        let (reports, streams) = (self.table.reports(), self.table.streams());
        let probe = format!(
            "BEGIN IMMEDIATE; UPDATE \"{reports}\" SET code = code WHERE FALSE; \
             UPDATE \"{streams}\" SET state = state WHERE FALSE; ROLLBACK"
        );
        let outcome = self.connection.execute_batch(&probe);
        if outcome.is_err() && !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK").map_err(|error| classify("ending a probe", error))?;
        }
        outcome.map_err(|error| classify("asking whether the sink takes writes", error))
    }

    /// Carries the `-wal` into the file and empties it, unless a reader needs it.
    /// Whether there is nothing left to carry.
    pub(super) fn cut_wal(&self, known: &mut Known) -> bool {
        let length = std::fs::metadata(&self.place.wal_path).map_or(0, |found| found.len());
        if length == 0 || self.place.check(known).is_err() {
            return true;
        }
        let cut = self.with_patience(CUT_PATIENCE, || self.checkpoint("TRUNCATE"));
        match cut {
            Ok(true) => known.in_wal = InWal::default(),
            Ok(false) => tracing::debug!(bytes = length, "a reader keeps the -wal of the SQLite file from being cut"),
            Err(error) => tracing::debug!(%error, "the -wal of the SQLite file cannot be cut"),
        }
        known.in_wal.transactions == 0
    }

    fn cut_large_wal(&self, known: &mut Known) {
        let length = std::fs::metadata(&self.place.wal_path).map_or(0, |found| found.len());
        if length > LARGE_WAL && known.cut_at.is_none_or(|at| at.elapsed() >= BETWEEN_CUTS) {
            known.cut_at = Some(Instant::now());
            self.cut_wal(known);
        }
    }

    fn with_patience<T>(&self, patience: Duration, work: impl FnOnce() -> T) -> T {
        // Where it cannot be set, the work waits for longer.
        let _ = self.connection.busy_timeout(patience.min(self.timeout));
        let done = work();
        let _ = self.connection.busy_timeout(self.timeout);
        done
    }

    /// Whether all of the `-wal` is in the file then.
    fn checkpoint(&self, mode: &str) -> rusqlite::Result<bool> {
        let pragma = format!("PRAGMA wal_checkpoint({mode})");
        self.connection.query_row(&pragma, [], |row| {
            let (busy, pages, done): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok((busy == 0 || mode == "PASSIVE") && pages == done)
        })
    }

    /// Closes the file. Where it is not at its path any more, what its `-wal` has is carried into it before: else that
    /// would be in no file.
    pub(super) fn close(self, known: &mut Known) {
        let Err(moved) = self.place.look(known) else { return };
        if !matches!(moved, Moved::Overwritten)
            && cfg!(not(forebay_plant = "miss_what_was_removed"))
            && let Ok(last) = still_has(&self.connection, &self.table, known.last)
        {
            // What somebody removed from it, no file that takes its place needs to have.
            known.last = last;
        }
        let is_carried = !matches!(moved, Moved::Overwritten)
            && self.with_patience(CUT_PATIENCE, || self.checkpoint("PASSIVE")).unwrap_or(false);
        // What lies at the path by now is not its own, or not the same.
        if let Err(error) = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
            tracing::error!(%error, "SQLite may carry a -wal into a file that was replaced");
        }
        let identity = known.files.as_ref().map_or(&self.place.identity, |(identity, _)| identity);
        let text = loss(&moved, identity, is_carried, &known.in_wal);
        known.loss = Some(Loss { text, is_said: false });
    }
}

impl Place {
    /// Whether the file is the one at the path, and what is beside it likewise: without the `-shm`, another program has
    /// locks of its own.
    fn look(&self, known: &mut Known) -> Result<(), Moved> {
        if !self.identity.is_at(&self.path) {
            return Err(Moved::Away);
        }
        if self.beside.iter().any(|(path, identity)| !identity.is_at(path)) {
            return Err(Moved::Log);
        }
        let state = wal::State::of(&self.file).ok().flatten();
        match (state, &known.state) {
            (Some(state), Some(before)) if state.is_before(before) => return Err(Moved::Overwritten),
            (None, Some(_)) => return Err(Moved::Overwritten),
            (state, _) => known.state = state,
        }
        Ok(())
    }

    fn check(&self, known: &mut Known) -> Result<(), SinkError> {
        self.look(known).map_err(|moved| {
            let what = match moved {
                Moved::Away => format!("it was moved, removed or replaced ({})", self.identity.whereabouts()),
                Moved::Log => "its -wal or its -shm was moved, removed or replaced".to_owned(),
                Moved::Overwritten => "it was overwritten".to_owned(),
            };
            SinkError::new(Class::Outage, what)
        })
    }

    fn identities(&self) -> Result<(Identity, Option<Identity>), SinkError> {
        let again = |path: &Path| Identity::of(path).map_err(making("opening it"));
        let identity = again(&self.path)?.filter(|identity| *identity == self.identity);
        let identity = identity.ok_or_else(|| SinkError::new(Class::Outage, "it was replaced while it was opened"))?;
        Ok((identity, again(&self.wal_path)?))
    }
}

/// What an operator is told.
fn loss(moved: &Moved, identity: &Identity, is_carried: bool, in_wal: &InWal) -> String {
    let InWal { transactions, reports, .. } = in_wal;
    let last = format!("{transactions} transactions with {reports} reports that were stored last");
    match moved {
        Moved::Away => {
            let whereabouts = identity.whereabouts();
            let left = match (&whereabouts, is_carried) {
                (_, false) => format!("{last} may be in no file but its -wal"),
                (Whereabouts::Nameless, true) => {
                    let bytes = identity.bytes();
                    format!("all that was stored in it is in {bytes} until this process ends, and nowhere else")
                }
                (_, true) => "all that was stored is in it, also what was in its -wal".to_owned(),
            };
            format!("{whereabouts}; {left}")
        }
        Moved::Log if is_carried => {
            "its -wal or its -shm was taken away; all that was stored is in the file".to_owned()
        }
        Moved::Log => format!("its -wal or its -shm was taken away; {last} may be in no file"),
        Moved::Overwritten => format!(
            "an earlier state was copied over it; {last} are in its -wal, which does not belong to that, and what \
             was stored since that state and before is in no file"
        ),
    }
}

impl Known {
    /// Says once in the log what became of a file that was lost.
    pub(super) fn say_loss(&mut self) {
        if let Some(Loss { text, is_said: is_said @ false }) = &mut self.loss {
            *is_said = true;
            tracing::error!("the SQLite file was moved, removed or replaced under this node: {text}");
        }
    }

    /// Whether a file is not the one that was open last, or that one as it was earlier.
    fn may_be_another(&self, identity: &Identity, file: &std::fs::File) -> bool {
        let went_back = || {
            let state = wal::State::of(file).ok().flatten();
            state.zip(self.state).is_none_or(|(state, before)| state.is_before(&before))
        };
        self.files.as_ref().is_some_and(|(former, _)| former != identity || went_back())
    }

    fn committed(&mut self, wal: &Path, (reports, last): (u64, Last)) {
        let Last { stream, report } = self.last;
        self.last = Last { stream: last.stream.or(stream), report: last.report.or(report) };
        let generation = wal::generation(wal);
        if self.in_wal.generation != generation {
            self.in_wal = InWal { generation, ..InWal::default() };
        }
        self.in_wal.transactions += 1;
        self.in_wal.reports += reports;
    }
}

/// Writes what is there: the number is its user's, who may have set it.
fn touch_first_page(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let version = transaction.query_row("PRAGMA user_version", [], |row| row.get::<_, i32>(0))?;
    transaction.pragma_update(None, "user_version", version)
}
