//! What the sink has under the keys of a transaction, where it has some of them: repetitions, keys that are taken, and
//! numbers that this node gave out and somebody else's report has.
//!
//! A report that its client numbered is a duplicate where the row has its content, and cannot be stored where it has
//! another. One that a node numbered, and nobody tried to store before, has nothing to do with the row that has its
//! number, whatever that holds: the journal or the clock was set back. It gets another number.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::MysqlConnection;
use super::read::{bytes, integer, text};
use super::sql;
use crate::report::key::MAX_EXACT;
use crate::report::{Batch, Body, Digest, Holder, Id, Key, Number, Report};
use crate::sink::record::write_instant;
use crate::sink::{SinkError, StoreError, Taken};

/// Keys that one statement asks for; and such whose rows it asks for, of which each may have some KiB.
const KEYS_AT_ONCE: usize = 1_000;
const HOLDERS_AT_ONCE: usize = 100;

/// A report in the place that it has in its transaction.
#[derive(Clone, Copy)]
struct Place<'a> {
    batch: usize,
    index: usize,
    id: &'a Id,
    report: &'a Report,
    /// Somebody may have tried to store it before.
    is_tried: bool,
}

/// What a transaction is to insert, now that its keys were looked at.
pub(super) struct Sorted {
    /// In order of key.
    pub rows: Vec<(Id, Report)>,
    /// New rows of each batch.
    pub inserted: Vec<u64>,
    /// Reports that have another number than they were acknowledged with: the first, and how many.
    pub renumbered: Vec<(Key, u64)>,
}

/// What is under a key.
enum Row<'a> {
    /// A row with this digest.
    Of(Digest),
    /// A row without a digest.
    Unknown,
    /// A report of the transaction itself.
    New(&'a Report),
}

/// All keys of a transaction.
struct Keys<'a> {
    found: HashMap<Key, Row<'a>>,
    own: HashSet<Key>,
    /// The greatest number of a node's reports of an id.
    greatest: HashMap<(Id, u16), u64>,
}

impl MysqlConnection {
    /// Looks at the keys of all reports, and says what is to be inserted.
    ///
    /// # Errors
    /// [`StoreError::Taken`] with all keys that are taken.
    pub(super) async fn sort(&mut self, batches: &[Batch]) -> Result<Sorted, StoreError> {
        let places = places(batches);
        let own = places.iter().map(Place::key).collect();
        let mut keys = Keys { found: self.look(&places).await?, own, greatest: HashMap::new() };
        let mut sorted = Sorted { rows: Vec::new(), inserted: vec![0; batches.len()], renumbered: Vec::new() };
        let mut taken = Vec::new();
        for place in places {
            let key = place.key();
            let is_same = match keys.found.get(&key) {
                None => {
                    keys.found.insert(key, Row::New(place.report));
                    sorted.insert(place, place.report.clone());
                    continue;
                }
                Some(Row::Of(digest)) => *digest == place.report.digest(),
                Some(Row::New(report)) => report.digest() == place.report.digest(),
                Some(Row::Unknown) => self.is_same(place).await?,
            };
            let is_same = is_same || cfg!(forebay_plant = "any_content_is_a_duplicate");
            let is_ours = key.number.source == 0 || place.is_tried;
            let number = if key.number.source == 0 || is_same && is_ours {
                None
            } else {
                self.free_number(key, &mut keys).await?
            };
            match number {
                Some(number) => {
                    sorted.renumbered.push((key, number.seq));
                    sorted.insert(place, Report { number, ..place.report.clone() });
                }
                None if is_same => {}
                None => taken.push(place),
            }
        }
        if !taken.is_empty() {
            return Err(StoreError::Taken(self.taken(taken, &keys).await?));
        }
        sorted.rows.sort_by_key(|(id, report)| (*id, report.number));
        Ok(sorted)
    }

    async fn look<'a>(&mut self, places: &[Place<'a>]) -> Result<HashMap<Key, Row<'a>>, SinkError> {
        let mut keys: Vec<_> = places.iter().map(|place| (place.id, place.report)).collect();
        keys.sort_by_key(|(id, report)| (**id, report.number));
        let mut found = HashMap::new();
        for keys in keys.chunks(KEYS_AT_ONCE) {
            sql::select_keys(&mut self.sql, &self.table, keys.iter().copied());
            for row in self.rows("looking for keys").await? {
                let digest = bytes(&row, 3).and_then(|digest| Digest::try_from(digest).ok());
                found.extend(key(&row).map(|key| (key, digest.map_or(Row::Unknown, Row::Of))));
            }
        }
        Ok(found)
    }

    async fn is_same(&mut self, place: Place<'_>) -> Result<bool, SinkError> {
        sql::compare(&mut self.sql, &self.table, place.id, place.report);
        let rows = self.rows("comparing a report with its row").await?;
        Ok(rows.first().and_then(|row| integer(row, 0)) == Some(1))
    }

    /// What has the keys of these: reports of the same transaction, or rows.
    async fn taken(&mut self, places: Vec<Place<'_>>, keys: &Keys<'_>) -> Result<Vec<Taken>, SinkError> {
        let new = |key: &Key| match keys.found.get(key) {
            Some(Row::New(report)) => Some(holder_of(report)),
            Some(Row::Of(_) | Row::Unknown) | None => None,
        };
        let mut in_rows: Vec<_> = places.iter().filter(|place| new(&place.key()).is_none()).collect();
        in_rows.sort_by_key(|place| place.key());
        in_rows.dedup_by_key(|place| place.key());
        let mut rows = HashMap::new();
        for places in in_rows.chunks(HOLDERS_AT_ONCE) {
            sql::select_holders(&mut self.sql, &self.table, places.iter().map(|place| (place.id, place.report)));
            for row in self.rows("reading the rows that have the keys of reports").await? {
                rows.extend(key(&row).map(|key| (key, holder(&row))));
            }
        }
        let taken = |place: Place<'_>| {
            let holder = new(&place.key()).or_else(|| rows.get(&place.key()).cloned()).unwrap_or_default();
            Taken { batch: place.batch, index: place.index, holder }
        };
        Ok(places.into_iter().map(taken).collect())
    }

    /// A number that no report of the node has, behind all that it gave out; none where there is none left.
    async fn free_number(&mut self, key: Key, keys: &mut Keys<'_>) -> Result<Option<Number>, SinkError> {
        let Key { id, number: Number { source, .. } } = key;
        let greatest = match keys.greatest.entry((id, source)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                sql::select_greatest(&mut self.sql, &self.table, &id, source);
                let rows = self.rows("looking for a free number").await?;
                unknown.insert(rows.first().and_then(|row| integer(row, 0)).unwrap_or(0))
            }
        };
        let is_own = |seq| keys.own.contains(&Key { id, number: Number { source, seq } });
        let seq = (greatest.saturating_add(1)..=MAX_EXACT).find(|seq| !is_own(*seq));
        seq.inspect(|seq| *greatest = *seq);
        Ok(seq.map(|seq| Number { source, seq }))
    }
}

impl Place<'_> {
    fn key(&self) -> Key {
        Key { id: *self.id, number: self.report.number }
    }
}

/// The key that a row begins with; none where it is none of ours.
fn key(row: &mysql_async::Row) -> Option<Key> {
    let (id, source) = (Id::new(&text(row, 0)?).ok()?, integer(row, 1)?.try_into().ok()?);
    Some(Key { id, number: Number { source, seq: integer(row, 2)? } })
}

/// What stands behind the key in a row.
fn holder(row: &mysql_async::Row) -> Holder {
    let holder = Holder {
        time: text(row, 3),
        code: text(row, 4),
        data: text(row, 5),
        data_bytes: integer(row, 6).unwrap_or(0),
        accepted_at: text(row, 7),
    };
    holder.cut()
}

/// What a report of the same transaction will have in the sink.
fn holder_of(report: &Report) -> Holder {
    let (mut time, mut accepted_at) = (Vec::new(), Vec::new());
    if let Some(micros) = report.time {
        sql::seconds(&mut time, micros);
    }
    write_instant(&mut accepted_at, report.accepted_at);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
    let holder = Holder {
        time: report.time.and_then(|_| text(time)),
        code: Some(report.code.to_string()),
        data: report.data.as_ref().and_then(|data| text(data.to_vec())),
        data_bytes: report.data.as_ref().map_or(0, |data| data.len() as u64),
        accepted_at: text(accepted_at),
    };
    holder.cut()
}

impl Sorted {
    fn insert(&mut self, place: Place<'_>, report: Report) {
        self.inserted[place.batch] += 1;
        self.rows.push((*place.id, report));
    }
}

/// All reports of the batches, in the order in which they were accepted.
fn places(batches: &[Batch]) -> Vec<Place<'_>> {
    let mut places = Vec::new();
    for (n, batch) in batches.iter().enumerate() {
        places.extend(batch.records.iter().enumerate().filter_map(|(index, record)| match &record.body {
            Body::Report(report) => {
                let is_tried = batch.is_tried(record.position);
                Some(Place { batch: n, index, id: &batch.id, report, is_tried })
            }
            Body::Marker(..) => None,
        }));
    }
    places
}
