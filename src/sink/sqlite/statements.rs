//! The statements of a transaction, prepared once for all its rows.
//!
//! What the sink has under the keys is looked at as in MySQL (`mysql/keys.rs`), row by row.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _, Statement, params};

use super::{classify, instant, integer, time};
use crate::config::TableName;
use crate::report::key::MAX_EXACT;
use crate::report::{Batch, Body, Holder, Id, JournalId, Key, Number, Position, Report};
use crate::sink::mark::{mark, may_be_settled, remember, settled_through, without_settled};
use crate::sink::record::{self, StreamRow};
use crate::sink::{SinkError, StoreError, Stored, Taken};

/// The statements of a transaction.
pub(super) struct Statements<'a> {
    journal: Option<JournalId>,
    insert: Statement<'a>,
    holder: Statement<'a>,
    greatest: Statement<'a>,
    settled: Statement<'a>,
    upsert: Statement<'a>,
    total: Statement<'a>,
    /// Reports that have another number than they were acknowledged with.
    renumbered: Vec<(Key, u64)>,
}

/// What became of a report.
enum Inserted {
    New,
    Duplicate,
    Taken(Holder),
}

impl<'a> Statements<'a> {
    pub(super) fn prepare(
        connection: &'a Connection,
        table: &TableName,
        journal: Option<JournalId>,
    ) -> rusqlite::Result<Self> {
        let (reports, streams) = (table.reports(), table.streams());
        let insert = format!(
            "INSERT INTO \"{reports}\" (id, source, seq, time, code, peer, data, accepted_at, digest, time_us) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (id, source, seq) DO NOTHING"
        );
        let holder = format!(
            "SELECT COALESCE(digest = ?7, time IS ?4 AND code = ?5 AND data IS ?6), time, \
             CAST(code AS TEXT), CAST(data AS TEXT), octet_length(data), CAST(accepted_at AS TEXT), time_us \
             FROM \"{reports}\" WHERE id = ?1 AND source = ?2 AND seq = ?3"
        );
        let greatest = format!("SELECT MAX(seq) FROM \"{reports}\" WHERE id = ?1 AND source = ?2");
        let settled = format!("SELECT settled FROM \"{streams}\" WHERE id = ?1");
        // Every expression sees the row as it was, in whatever order they stand.
        let upsert = format!(
            "INSERT INTO \"{streams}\" AS s (id, state, reports, first_at, last_at, state_position, settled) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO UPDATE SET \
             reports = s.reports + excluded.reports, \
             first_at = min(s.first_at, excluded.first_at), last_at = max(s.last_at, excluded.last_at), \
             state = iif(excluded.state_position > s.state_position, excluded.state, s.state), \
             state_position = max(s.state_position, excluded.state_position), \
             settled = coalesce(excluded.settled, s.settled)"
        );
        let total = format!("SELECT reports FROM \"{streams}\" WHERE id = ?1");
        Ok(Self {
            journal,
            insert: connection.prepare(&insert)?,
            holder: connection.prepare(&holder)?,
            greatest: connection.prepare(&greatest)?,
            settled: connection.prepare(&settled)?,
            upsert: connection.prepare(&upsert)?,
            total: connection.prepare(&total)?,
            renumbered: Vec::new(),
        })
    }

    /// Stores the batches, or says which of their keys are taken.
    pub(super) fn store(&mut self, batches: &[Batch]) -> Result<Vec<Stored>, StoreError> {
        let marks = self.read_marks(batches).map_err(updating)?;
        let (rest, settled) = without_settled(batches, &marks);
        let mut taken = Vec::new();
        let mut stored = Vec::with_capacity(batches.len());
        for (n, (batch, settled)) in rest.iter().zip(settled).enumerate() {
            let left_out = batches[n].records.len() - batch.records.len();
            let mut inserted = 0;
            for (index, report, is_tried) in by_key(batch) {
                match self.insert(&batch.id, report, is_tried).map_err(storing)? {
                    Inserted::New => inserted += 1,
                    Inserted::Duplicate => {}
                    Inserted::Taken(holder) => taken.push(Taken { batch: n, index: index + left_out, holder }),
                }
            }
            if let Some(row) = StreamRow::of(batch, inserted, self.journal) {
                self.upsert(&row).map_err(updating)?;
            }
            let total = match record::has_marker(&batches[n]) {
                true => self.total(&batch.id).map_err(updating)?,
                false => None,
            };
            stored.push(Stored { inserted, duplicates: record::reports(&batch.records) - inserted + settled, total });
        }
        taken.sort_by_key(|taken| (taken.batch, taken.index));
        if !taken.is_empty() {
            return Err(StoreError::Taken(taken));
        }
        record::say_renumbered(&self.renumbered);
        Ok(stored)
    }

    fn read_marks(&mut self, batches: &[Batch]) -> rusqlite::Result<HashMap<Id, Position>> {
        let mut marks = HashMap::new();
        let Some(journal) = self.journal else { return Ok(marks) };
        for batch in batches.iter().filter(|batch| may_be_settled(batch)) {
            if let Some(settled) = self.settled(&batch.id)? {
                marks.insert(batch.id, settled_through(&settled, journal));
            }
        }
        Ok(marks)
    }

    /// The column `settled` of an id; a value of another kind says nothing.
    fn settled(&mut self, id: &Id) -> rusqlite::Result<Option<Vec<u8>>> {
        let column =
            self.settled.query_row([id.as_str()], |row| Ok(row.get_ref(0)?.as_blob().ok().map(<[u8]>::to_vec)));
        Ok(column.optional()?.flatten())
    }

    fn insert(&mut self, id: &Id, report: &Report, is_tried: bool) -> rusqlite::Result<Inserted> {
        if self.insert_row(id, report)? {
            return Ok(Inserted::New);
        }
        let (is_same, holder) = self.holder(id, report)?;
        let Number { source, seq } = report.number;
        let is_same = is_same || cfg!(forebay_plant = "any_content_is_a_duplicate");
        if source == 0 || is_same && (is_tried || cfg!(forebay_plant = "a_number_is_ours")) {
            return Ok(if is_same { Inserted::Duplicate } else { Inserted::Taken(holder) });
        }
        // Whatever has the number that this node gave out, it is another report.
        let greatest = self.greatest.query_row(params![id.as_str(), source], |row| row.get::<_, Option<i64>>(0))?;
        let free = greatest.and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0).saturating_add(1);
        if free > MAX_EXACT {
            return Ok(Inserted::Taken(holder));
        }
        self.renumbered.push((Key { id: *id, number: report.number }, free));
        self.insert_row(id, &Report { number: Number { source, seq: free }, ..report.clone() })?;
        debug_assert!(free != seq, "a number behind all others is another one");
        Ok(Inserted::New)
    }

    /// False where its key is there already.
    fn insert_row(&mut self, id: &Id, report: &Report) -> rusqlite::Result<bool> {
        let changed = self.insert.execute(params![
            id.as_str(),
            report.number.source,
            integer(report.number.seq),
            seconds(report),
            report.code,
            report.peer.map(|peer| peer.to_string()),
            data(report)?,
            instant(report.accepted_at),
            report.digest(),
            report.time.and_then(time::rest),
        ])?;
        Ok(changed == 1)
    }

    /// Whether the row of a report's key has its content, and what it has.
    fn holder(&mut self, id: &Id, report: &Report) -> rusqlite::Result<(bool, Holder)> {
        let Number { source, seq } = report.number;
        let key =
            params![id.as_str(), source, integer(seq), seconds(report), report.code, data(report)?, report.digest()];
        self.holder.query_row(key, |row| {
            let text = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_str().ok().map(str::to_owned));
            // Of another kind than the column's, by hand: it says nothing.
            let found = row.get_ref(1)?.as_f64().ok();
            let rest = row.get_ref(6)?.as_i64().ok();
            let holder = Holder {
                time: found.map(|seconds| time::text(time::micros(seconds, rest))),
                code: text(2)?,
                data: text(3)?,
                data_bytes: row.get::<_, Option<i64>>(4)?.and_then(|bytes| bytes.try_into().ok()).unwrap_or(0),
                accepted_at: text(5)?,
            };
            Ok((row.get::<_, Option<bool>>(0)?.unwrap_or(false), holder.cut()))
        })
    }

    fn upsert(&mut self, row: &StreamRow<'_>) -> rusqlite::Result<()> {
        let (first_at, last_at) = (instant(row.first_at), instant(row.last_at));
        let (inserted, position) = (integer(row.inserted), integer(row.state_position.0));
        let settled = match row.settled_by {
            Some(journal) => {
                let others = self.settled(row.id)?.unwrap_or_default();
                Some(remember(&others, mark(journal, row.position)))
            }
            None => None,
        };
        self.upsert.execute(params![row.id.as_str(), row.state, inserted, first_at, last_at, position, settled])?;
        Ok(())
    }

    fn total(&mut self, id: &Id) -> rusqlite::Result<Option<u64>> {
        let total = self.total.query_row([id.as_str()], |row| Ok(row.get_ref(0)?.as_i64().ok())).optional()?;
        Ok(total.flatten().and_then(|total| u64::try_from(total).ok()))
    }
}

fn storing(error: rusqlite::Error) -> SinkError {
    classify("storing reports", error)
}

fn updating(error: rusqlite::Error) -> SinkError {
    classify("updating streams", error).not_for_a_report()
}

fn seconds(report: &Report) -> Option<f64> {
    report.time.map(time::seconds)
}

/// JSON is UTF-8; MySQL refuses other bytes too.
fn data(report: &Report) -> rusqlite::Result<Option<&str>> {
    let data = report.data.as_deref().map(std::str::from_utf8).transpose();
    data.map_err(|error| rusqlite::Error::Utf8Error(6, error))
}

/// The reports of a batch in the order of their keys, with their place in it, and whether somebody may have tried to
/// store them before; of one key, the first accepted first.
fn by_key(batch: &Batch) -> Vec<(usize, &Report, bool)> {
    let reports = batch.records.iter().enumerate().filter_map(|(index, record)| match &record.body {
        Body::Report(report) => Some((index, report, batch.is_tried(record.position))),
        Body::Marker(..) => None,
    });
    let mut reports: Vec<_> = reports.collect();
    reports.sort_by_key(|(_, report, _)| report.number);
    reports
}
