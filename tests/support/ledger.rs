//! The ledger: what every client sent and what it was told, held against what is in the sink.
//!
//! 1. An acknowledged report is exactly one row, with the identical data: the same bytes, or the same JSON value where
//!    the sink keeps no more ([`Form`]).
//! 2. A report that was not acknowledged is at most one row; one that was refused each time it was sent is none.
//! 3. Nothing else is in the sink.
//! 4. `report_streams.reports` is the number of the id's rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::node::Node;
use super::stored::{Form, Row, Stream};

/// `(id, source, seq)`.
type Key = (String, u64, u64);

/// Shared by all clients of a test; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    /// Reports that a client numbered.
    numbered: BTreeMap<(String, u64), Entry>,
    /// Reports that the node numbers, by id and data.
    unnumbered: BTreeMap<(String, String), Entry>,
    /// Acks, over all reports and resends.
    acks: u64,
    /// Error replies.
    refusals: u64,
    /// Reports that are known to be dead letters.
    buried: u64,
}

#[derive(Debug, Default)]
struct Entry {
    data: String,
    sent: usize,
    refused: usize,
    acked: Vec<Key>,
}

/// One report, as its client knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The stream.
    pub id: String,
    /// The client's number.
    pub seq: Option<u64>,
    /// The text of its data.
    pub data: String,
}

impl Book {
    fn entry(&mut self, report: &Sent) -> &mut Entry {
        let entry = match report.seq {
            Some(seq) => self.numbered.entry((report.id.clone(), seq)).or_default(),
            None => self.unnumbered.entry((report.id.clone(), report.data.clone())).or_default(),
        };
        if entry.sent == 0 {
            entry.data.clone_from(&report.data);
        }
        entry
    }
}

impl Ledger {
    /// A report is about to be sent; to be called before its first byte leaves.
    pub fn sent(&self, report: &Sent) {
        self.lock().entry(report).sent += 1;
    }

    /// Books the reply to a report; whether it was an ack. Panics where it is neither an ack nor an error.
    pub fn replied(&self, report: &Sent, reply: &Value) -> bool {
        let mut book = self.lock();
        if reply["op"] == "error" {
            book.refusals += 1;
            book.entry(report).refused += 1;
            return false;
        }
        assert_eq!((&reply["op"], &reply["code"]), (&Value::from("ack"), &Value::from(200)), "{reply}");
        let number = |name: &str| reply[name].as_u64().unwrap_or_else(|| panic!("no {name} in {reply}"));
        let key = (report.id.clone(), number("source"), number("seq"));
        if let Some(seq) = report.seq {
            assert_eq!((key.1, key.2), (0, seq), "the ack of a report that its client numbered: {reply}");
        }
        book.acks += 1;
        book.entry(report).acked.push(key);
        true
    }

    /// An acknowledged report that its client numbered is a dead letter: from now on it is to be no row.
    pub fn buried(&self, id: &str, seq: u64) {
        let mut book = self.lock();
        let entry = book.numbered.remove(&(id.to_owned(), seq));
        assert!(entry.is_some_and(|entry| !entry.acked.is_empty()), "{id} {seq} is dead and was not acknowledged");
        book.buried += 1;
    }

    /// Acks so far.
    pub fn acks(&self) -> u64 {
        self.lock().acks
    }

    /// Waits until the backlog is empty, then holds the sink of `node` against the ledger.
    pub async fn settle(&self, node: &Node) -> Verdict {
        let audit = node.drained().await;
        assert!(!node.stderr().contains("the journal is damaged"), "a sound journal was taken for a damaged one");
        let stored = node.stored();
        let rows = stored.rows().await.expect("the sink can be read");
        let streams = stored.streams().await.expect("the sink can be read");
        let form = stored.form().await.expect("the sink can be read");
        let mut verdict = self.compare(form, &rows, &streams);
        verdict.dead = audit["dead"].as_u64().expect("dead is a number").abs_diff(self.lock().buried);
        verdict
    }

    /// Holds rows and streams against the ledger.
    pub fn compare(&self, form: Form, rows: &[Row], streams: &[Stream]) -> Verdict {
        let book = self.lock();
        let mut verdict = Verdict { acks: book.acks, refusals: book.refusals, ..Verdict::default() };
        let mut left: BTreeMap<Key, &Row> = BTreeMap::new();
        let mut by_data: BTreeMap<(&str, String), usize> = BTreeMap::new();
        for row in rows {
            left.insert((row.id.clone(), row.source, row.seq), row);
            if row.source != 0 {
                *by_data.entry((&row.id, shown(form, row))).or_default() += 1;
            }
        }
        verdict.rows = rows.len();
        let mut given = BTreeSet::new();
        let numbered = book.numbered.iter().map(|((id, seq), entry)| (Some((id.clone(), 0, *seq)), id, entry));
        let unnumbered = book.unnumbered.iter().map(|((id, _), entry)| (None, id, entry));
        for (own_key, id, entry) in numbered.chain(unnumbered) {
            verdict.acked += usize::from(!entry.acked.is_empty());
            let mut keys = entry.acked.clone();
            keys.sort_unstable();
            keys.dedup();
            if own_key.is_none() {
                for key in &entry.acked {
                    if !given.insert(key) {
                        verdict.reused.push(format!("{key:?} was given twice, the second time to {}", entry.data));
                    }
                }
            }
            for key in &keys {
                match left.remove(key) {
                    None => verdict.lost.push(format!("{key:?} {}", entry.data)),
                    Some(row) => verdict.compare_data(form, row, entry),
                }
            }
            if let (Some(key), true) = (&own_key, keys.is_empty()) {
                verdict.unacked(form, left.remove(key), entry);
            }
            if own_key.is_none() {
                let count = by_data.get(&(id.as_str(), form.of(&entry.data))).copied().unwrap_or_default();
                let most = entry.sent - entry.refused;
                if count > most {
                    verdict.doubled.push(format!("{id}: {count} rows, at most {most} wanted, of {}", entry.data));
                }
            }
        }
        let sent: BTreeSet<_> = book.unnumbered.keys().map(|(id, data)| (id.as_str(), form.of(data))).collect();
        for (key, row) in left {
            // What is left of the reports that the node numbered was sent and not acknowledged, or is unknown.
            if key.1 == 0 || !sent.contains(&(key.0.as_str(), shown(form, row))) {
                verdict.unknown.push(format!("{row:?}"));
            }
        }
        verdict.count_streams(rows, streams);
        verdict
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The data of a row, as far as its sink keeps it.
fn shown(form: Form, row: &Row) -> String {
    form.of(row.data.as_deref().unwrap_or("NULL"))
}

/// How ledger and sink differ.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Acks, over all reports and resends.
    pub acks: u64,
    /// Error replies.
    pub refusals: u64,
    /// Reports that were acknowledged.
    pub acked: usize,
    /// Rows in the sink.
    pub rows: usize,
    /// Dead letters, beside those that the ledger knows to be some.
    pub dead: u64,
    /// Acknowledged, and no row.
    pub lost: Vec<String>,
    /// More rows than reports.
    pub doubled: Vec<String>,
    /// Two acknowledged reports with one key.
    pub reused: Vec<String>,
    /// Rows that nobody sent.
    pub unknown: Vec<String>,
    /// Rows whose data is not what was sent.
    pub altered: Vec<String>,
    /// Refused, and a row all the same.
    pub refused_yet_stored: Vec<String>,
    /// Streams whose count is not that of their rows.
    pub miscounted: Vec<String>,
}

impl Verdict {
    fn compare_data(&mut self, form: Form, row: &Row, entry: &Entry) {
        if shown(form, row) != form.of(&entry.data) {
            self.altered.push(format!("{} was sent, {row:?} is there", entry.data));
        }
    }

    fn unacked(&mut self, form: Form, row: Option<&Row>, entry: &Entry) {
        let Some(row) = row else { return };
        self.compare_data(form, row, entry);
        if entry.refused == entry.sent {
            self.refused_yet_stored.push(format!("{row:?}"));
        }
    }

    fn count_streams(&mut self, rows: &[Row], streams: &[Stream]) {
        let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for row in rows {
            counts.entry(&row.id).or_default().0 += 1;
        }
        for stream in streams {
            counts.entry(&stream.id).or_default().1 += stream.reports;
        }
        for (id, (rows, counted)) in counts {
            if rows != counted {
                self.miscounted.push(format!("{id}: {rows} rows, report_streams says {counted}"));
            }
        }
    }

    /// Whether nothing differs and no report is a dead letter.
    pub fn is_clean(&self) -> bool {
        let faults = [
            &self.lost,
            &self.doubled,
            &self.reused,
            &self.unknown,
            &self.altered,
            &self.refused_yet_stored,
            &self.miscounted,
        ];
        faults.iter().all(|list| list.is_empty()) && self.dead == 0
    }

    /// Panics, with all that differs, unless nothing does and no report is a dead letter.
    pub fn assert_clean(&self) {
        assert!(self.is_clean(), "{self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "acks {}, refusals {}, dead letters {}", self.acks, self.refusals, self.dead)?;
        write!(f, "reports acknowledged {}, rows {}", self.acked, self.rows)?;
        for (name, list) in [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("keys reused", &self.reused),
            ("unknown", &self.unknown),
            ("altered", &self.altered),
            ("refused and yet stored", &self.refused_yet_stored),
            ("miscounted", &self.miscounted),
        ] {
            write!(f, "\n{name}: {}", list.len())?;
            for item in list.iter().take(10) {
                write!(f, "\n    {item}")?;
            }
        }
        Ok(())
    }
}
