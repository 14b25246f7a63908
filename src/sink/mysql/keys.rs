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

/// Keys that one statement asks for.
const KEYS_AT_ONCE: usize = 1_000;

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
    pub(super) async fn sort(&mut self, batches: &[Batch], again: bool) -> Result<Sorted, StoreError> {
        let places = places(batches, again);
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
                None => taken.push(self.taken(place, &keys).await?),
            }
        }
        sorted.rows.sort_by_key(|(id, report)| (*id, report.number));
        if taken.is_empty() { Ok(sorted) } else { Err(StoreError::Taken(taken)) }
    }

    async fn look<'a>(&mut self, places: &[Place<'a>]) -> Result<HashMap<Key, Row<'a>>, SinkError> {
        let mut keys: Vec<_> = places.iter().map(|place| (place.id, place.report)).collect();
        keys.sort_by_key(|(id, report)| (**id, report.number));
        let mut found = HashMap::new();
        for keys in keys.chunks(KEYS_AT_ONCE) {
            sql::select_keys(&mut self.sql, &self.table, keys.iter().copied());
            for row in self.rows("looking for keys").await? {
                let id = text(&row, 0).and_then(|id| Id::new(&id).ok());
                let (source, seq) = (integer(&row, 1).and_then(|source| source.try_into().ok()), integer(&row, 2));
                let (Some(id), Some(source), Some(seq)) = (id, source, seq) else { continue };
                let digest = bytes(&row, 3).and_then(|digest| Digest::try_from(digest).ok());
                found.insert(Key { id, number: Number { source, seq } }, digest.map_or(Row::Unknown, Row::Of));
            }
        }
        Ok(found)
    }

    async fn is_same(&mut self, place: Place<'_>) -> Result<bool, SinkError> {
        sql::compare(&mut self.sql, &self.table, place.id, place.report);
        let rows = self.rows("comparing a report with its row").await?;
        Ok(rows.first().and_then(|row| integer(row, 0)) == Some(1))
    }

    async fn taken(&mut self, place: Place<'_>, keys: &Keys<'_>) -> Result<Taken, SinkError> {
        let Place { batch, index, id, report, .. } = place;
        if let Some(Row::New(holder)) = keys.found.get(&place.key()) {
            return Ok(Taken { batch, index, holder: holder_of(holder) });
        }
        sql::select_holder(&mut self.sql, &self.table, id, report);
        let rows = self.rows("reading the row that has a report's key").await?;
        let holder = rows.first().map(|row| Holder {
            time: text(row, 0),
            code: text(row, 1),
            data: text(row, 2),
            data_bytes: integer(row, 3).unwrap_or(0),
            accepted_at: text(row, 4),
        });
        Ok(Taken { batch, index, holder: holder.unwrap_or_default().cut() })
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
fn places(batches: &[Batch], again: bool) -> Vec<Place<'_>> {
    let mut places = Vec::new();
    for (batch, Batch { id, records, tried_through, .. }) in batches.iter().enumerate() {
        places.extend(records.iter().enumerate().filter_map(|(index, record)| match &record.body {
            Body::Report(report) => {
                let is_tried = again || record.position <= *tried_through;
                Some(Place { batch, index, id, report, is_tried })
            }
            Body::Marker(..) => None,
        }));
    }
    places
}
