//! Holds the sink against a ledger: both in order of id and number, side by side, so that memory is that of the rows of
//! one id (24 bytes each), however many ids there are.
//!
//! 1. An acknowledged report is exactly one row, with the data that was sent, under the key that its ack named.
//! 2. A report that was not acknowledged is at most one row; one that was refused is none.
//! 3. No other row has an id with the load's prefix.
//! 4. `report_streams.reports` is the number of the id's rows, and its state one that a load leaves.
//! 5. Each row has the time and the code that were sent, and is from an address of the load. Where no row is (a proxy or
//!    a translation of addresses is on the way), addresses are not compared.
//!
//! Of a ledger that was cut, ids behind the last whole line are left out.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use forebay::config;
use forebay::report::Id;
use forebay::sink::readback::{self, Cursor, StoredReport, StoredStream};
use serde::Serialize;

use super::arguments::{Numbering, Shape};
use super::ledger::{Entry, count, holds, key_digest};
use super::message::{CODE, TIME, Template};
use super::progress::Progress;

/// Differences that are told one by one.
const MAX_EXAMPLES: usize = 20;

/// How often the sink is asked how far it is.
const PAUSE: Duration = Duration::from_millis(200);

/// How ledger and sink differ; counts of reports, unless they say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether nothing differs.
    pub clean: bool,
    /// Acknowledged.
    pub acknowledged: u64,
    /// Acknowledged, and a row.
    pub stored: u64,
    /// Not acknowledged, and a row all the same, which they may be.
    pub stored_unacknowledged: u64,
    /// Acknowledged, and no row.
    pub lost: u64,
    /// Rows beyond the first of a report.
    pub doubled: u64,
    /// Rows with other data, time, code or peer than was sent, once for each of them; ids whose rows have other keys
    /// than their acks named, or whose stream is in a state that no load leaves.
    pub altered: u64,
    /// Refused, and a row all the same.
    pub refused_yet_stored: u64,
    /// Rows that this load never sent.
    pub unknown: u64,
    /// Ids whose `report_streams.reports` is not the number of their rows.
    pub miscounted: u64,
    /// Rows from addresses that the load did not have, where all are: then addresses are not compared.
    pub from_elsewhere: u64,
    /// Whether the ledger was cut: ids behind its last whole line are not compared.
    pub cut: bool,
    /// The first differences, for people.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Whether all that differs may be only late.
    fn may_be_early(&self) -> bool {
        self.lost + self.miscounted > 0 && self.doubled + self.altered + self.refused_yet_stored + self.unknown == 0
    }

    fn example(&mut self, what: impl FnOnce() -> String) {
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(what());
        }
    }
}

/// What is held against what.
pub struct Case<'a> {
    /// The sink.
    pub sink: &'a config::Sink,
    /// What the reports look like.
    pub shape: &'a Shape,
    /// Where they are from.
    pub addresses: &'a [IpAddr],
    /// Whether the ledger ends within a line.
    pub is_cut: bool,
    /// How long the sink may go without a new row.
    pub timeout: Duration,
}

impl Case<'_> {
    /// Waits until the sink has all, or nothing new comes, and compares. `entries` reads the ledger from its start.
    ///
    /// # Errors
    /// Where the ledger or the sink cannot be read.
    pub async fn settle<I>(
        &self,
        mut entries: impl FnMut() -> anyhow::Result<I>,
        progress: &mut Progress,
    ) -> anyhow::Result<Verdict>
    where
        I: Iterator<Item = anyhow::Result<Entry>>,
    {
        let (prefix, template) = self.shape.check().context("the ledger's first line")?;
        let wanted = entries()?.try_fold(0, |sum, entry| anyhow::Ok(sum + count(&entry?.acked)))?;
        let (mut seen, mut since) = (None, Instant::now());
        let mut looked_at = None;
        loop {
            let total = readback::total(self.sink, &prefix).await;
            if let Ok(total) = total {
                progress.draining(total, wanted);
                if seen != Some(total) {
                    (seen, since) = (Some(total), Instant::now());
                }
            }
            let stalled = since.elapsed() > self.timeout;
            let enough = total.as_ref().is_ok_and(|total| *total >= wanted);
            if stalled || enough && looked_at != seen {
                progress.clear();
                let verdict = self.compare(&prefix, template.clone(), entries()?).await;
                let verdict = verdict.context("the sink was not held against the ledger")?;
                if stalled || !verdict.may_be_early() {
                    return Ok(verdict);
                }
                looked_at = seen;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn compare(
        &self,
        prefix: &Id,
        template: Template,
        mut entries: impl Iterator<Item = anyhow::Result<Entry>>,
    ) -> anyhow::Result<Verdict> {
        let mut rows = readback::reports(self.sink, prefix);
        let mut streams = Streams::new(readback::streams(self.sink, prefix)).await?;
        let mut tally = Tally::new(self.shape, self.addresses, template);
        tally.verdict.cut = self.is_cut;
        let (mut row, mut entry) = (rows.next().await?, entries.next().transpose()?);
        // Whichever has the lower id is next; both, where they have the same.
        while let Some(id) = lower(row.as_ref().map(|row| &row.id), entry.as_ref().map(|entry| &entry.id)) {
            if self.is_cut && entry.is_none() {
                break;
            }
            let own = match entry.take_if(|entry| entry.id == id) {
                Some(own) => {
                    entry = entries.next().transpose()?;
                    own
                }
                None => Entry { id: id.clone(), ..Entry::default() },
            };
            let mut rows_of_id = 0;
            while let Some(found) = row.take_if(|row| row.id == id) {
                tally.row(&own, &found);
                rows_of_id += 1;
                row = rows.next().await?;
            }
            tally.finish(&own);
            streams.check(&id, rows_of_id, &mut tally.verdict).await?;
        }
        if !self.is_cut {
            streams.rest(&mut tally.verdict).await?;
        }
        let mut verdict = tally.end();
        let Verdict { lost, doubled, altered, refused_yet_stored, unknown, miscounted, .. } = verdict;
        verdict.clean = lost + doubled + altered + refused_yet_stored + unknown + miscounted == 0;
        Ok(verdict)
    }
}

fn lower(a: Option<&String>, b: Option<&String>) -> Option<String> {
    a.into_iter().chain(b).min().cloned()
}

/// Compares the rows of one id after the other.
struct Tally<'a> {
    shape: &'a Shape,
    template: Template,
    /// Number, source and seq of the id's rows so far.
    found: Vec<(u64, u16, u64)>,
    addresses: &'a [IpAddr],
    /// Rows from one of these, from others, and the keys of the first of the latter.
    from_here: u64,
    from_elsewhere: u64,
    elsewhere: Vec<String>,
    verdict: Verdict,
}

impl<'a> Tally<'a> {
    fn new(shape: &'a Shape, addresses: &'a [IpAddr], template: Template) -> Self {
        let (found, elsewhere, verdict) = (Vec::new(), Vec::new(), Verdict::default());
        Self { shape, template, found, addresses, from_here: 0, from_elsewhere: 0, elsewhere, verdict }
    }

    fn row(&mut self, entry: &Entry, row: &StoredReport) {
        let StoredReport { id, source, seq, data, time, code, peer } = row;
        let key = || format!("{}~{source}~{seq}", id.escape_debug());
        let data = data.as_deref().unwrap_or_default();
        let number = match self.shape.numbering {
            Numbering::Client => (*source == 0).then_some(*seq),
            Numbering::Server => self.template.number_in(data).filter(|_| *source != 0),
        };
        let sent = |number: &u64| [&entry.acked, &entry.refused, &entry.unknown].iter().any(|is| holds(is, *number));
        let known = self.shape.number_of(id).zip(number.filter(sent));
        let Some((id, number)) = known else {
            self.verdict.unknown += 1;
            return self.verdict.example(|| format!("unknown: {}", key()));
        };
        if !is_same(self.template.data(id, number), data) {
            self.verdict.altered += 1;
            self.verdict.example(|| format!("altered: the data of {}", key()));
        }
        for (is_so, what) in [(*time == Some(TIME), "time"), (*code == Some(CODE), "code")] {
            if !is_so {
                self.verdict.altered += 1;
                self.verdict.example(|| format!("altered: the {what} of {}", key()));
            }
        }
        let peer = peer.as_deref().and_then(|peer| peer.parse().ok());
        if peer.is_some_and(|peer| self.addresses.contains(&peer)) {
            self.from_here += 1;
        } else {
            self.from_elsewhere += 1;
            if self.elsewhere.len() < MAX_EXAMPLES {
                self.elsewhere.push(key());
            }
        }
        self.found.push((number, *source, *seq));
    }

    /// After the last row of all.
    fn end(mut self) -> Verdict {
        if self.from_here == 0 {
            self.verdict.from_elsewhere = self.from_elsewhere;
            return self.verdict;
        }
        self.verdict.altered += self.from_elsewhere;
        for key in self.elsewhere {
            self.verdict.example(|| format!("altered: the peer of {key}"));
        }
        self.verdict
    }

    /// After the last row of the id.
    fn finish(&mut self, entry: &Entry) {
        let verdict = &mut self.verdict;
        let id = &entry.id;
        self.found.sort_unstable();
        let mut stored = 0;
        let mut keys = 0_u64;
        let mut last = None;
        for &(number, source, seq) in &self.found {
            let is_first = last.replace(number) != Some(number);
            if !is_first {
                verdict.doubled += 1;
                verdict.example(|| format!("doubled: report {number} of {id}"));
            } else if holds(&entry.refused, number) {
                verdict.refused_yet_stored += 1;
                verdict.example(|| format!("refused and yet stored: report {number} of {id}"));
            } else if holds(&entry.acked, number) {
                stored += 1;
                keys = keys.wrapping_add(key_digest(number, source, seq));
            } else {
                verdict.stored_unacknowledged += 1;
            }
        }
        let acknowledged = count(&entry.acked);
        verdict.acknowledged += acknowledged;
        verdict.stored += stored;
        verdict.lost += acknowledged - stored;
        if stored < acknowledged {
            let found = |number: &u64| self.found.binary_search_by_key(number, |(found, ..)| *found).is_ok();
            let missing = entry.acked.iter().flat_map(|(from, to)| *from..=*to).find(|number| !found(number));
            let missing = missing.unwrap_or_default();
            verdict.example(|| format!("lost: {} of {id}, first report {missing}", acknowledged - stored));
        } else if entry.keys.is_some_and(|told| told != keys) {
            verdict.altered += 1;
            verdict.example(|| format!("altered: the keys of {id} are not those that its acks named"));
        }
        self.found.clear();
    }
}

/// Whether the data is what was sent: byte for byte, or, in a server that writes JSON in its own way, the same value.
fn is_same(sent: &[u8], stored: &[u8]) -> bool {
    let value = |text| serde_json::from_slice::<serde_json::Value>(text).ok();
    sent == stored || value(stored).is_some_and(|stored| value(sent) == Some(stored))
}

/// The streams, looked at as the rows go by.
struct Streams {
    cursor: Cursor<StoredStream>,
    next: Option<StoredStream>,
}

impl Streams {
    async fn new(mut cursor: Cursor<StoredStream>) -> anyhow::Result<Self> {
        let next = cursor.next().await?;
        Ok(Self { cursor, next })
    }

    /// Holds the count of the next id against its rows.
    async fn check(&mut self, id: &str, rows: u64, verdict: &mut Verdict) -> anyhow::Result<()> {
        while let Some(before) = self.next.take_if(|stream| stream.id.as_str() < id) {
            differs(&before.id, 0, before.reports, verdict);
            self.next = self.cursor.next().await?;
        }
        let counted = match self.next.take_if(|stream| stream.id == id) {
            Some(own) => {
                self.next = self.cursor.next().await?;
                if !matches!(own.state.as_str(), "open" | "disconnected") {
                    verdict.altered += 1;
                    let state = own.state.escape_debug();
                    verdict.example(|| format!("altered: the state of {}, which is {state}", id.escape_debug()));
                }
                own.reports
            }
            None => 0,
        };
        differs(id, rows, counted, verdict);
        Ok(())
    }

    /// Those behind the last row.
    async fn rest(mut self, verdict: &mut Verdict) -> anyhow::Result<()> {
        while let Some(stream) = self.next.take() {
            differs(&stream.id, 0, stream.reports, verdict);
            self.next = self.cursor.next().await?;
        }
        Ok(())
    }
}

fn differs(id: &str, rows: u64, counted: u64, verdict: &mut Verdict) {
    if rows != counted {
        verdict.miscounted += 1;
        verdict.example(|| format!("miscounted: {} has {rows} rows and counts {counted}", id.escape_debug()));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::message::FIRST;
    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn tally(shape: &Shape) -> Tally<'_> {
        let template = Template::new(shape).expect("300 bytes are enough");
        Tally::new(shape, &[LOCAL], template)
    }

    fn entry(keys: Option<u64>) -> Entry {
        let (acked, refused, unknown) =
            (vec![(FIRST, FIRST + 2)], vec![(FIRST + 3, FIRST + 3)], vec![(FIRST + 4, FIRST + 4)]);
        Entry { id: "p-1".to_owned(), acked, refused, unknown, keys }
    }

    fn row(tally: &mut Tally<'_>, number: u64, source: u16, seq: u64) -> StoredReport {
        let data = Some(tally.template.data(1, number).to_vec());
        let (time, code, peer) = (Some(TIME), Some(CODE), Some(LOCAL.to_string()));
        StoredReport { id: "p-1".to_owned(), source, seq, data, time, code, peer }
    }

    #[test]
    fn each_way_to_differ_has_its_name() {
        let shape = Shape { ids: 2, id_prefix: "p-".to_owned(), size: 300, numbering: Numbering::Client };
        let (mut tally, entry) = (tally(&shape), entry(None));
        for at in [0, 2, 3, 4, 5] {
            let mut row = row(&mut tally, FIRST + at, 0, FIRST + at);
            if at == 2 {
                row.data = Some(b"{}".to_vec());
            }
            tally.row(&entry, &row);
        }
        tally.finish(&entry);
        let Verdict { acknowledged, stored, stored_unacknowledged, lost, .. } = tally.verdict;
        assert_eq!((acknowledged, stored, stored_unacknowledged, lost), (3, 2, 1, 1));
        let Verdict { doubled, altered, refused_yet_stored, unknown, .. } = tally.verdict;
        assert_eq!((doubled, altered, refused_yet_stored, unknown), (0, 1, 1, 1));
    }

    #[test]
    fn reports_that_the_node_numbered_are_known_by_their_data() {
        let shape = Shape { ids: 2, id_prefix: "p-".to_owned(), size: 300, numbering: Numbering::Server };
        let keys = (0..3).map(|at| key_digest(FIRST + at, 1, 70 + at)).fold(0, u64::wrapping_add);
        let (mut sound, mut doubled, mut renumbered) = (tally(&shape), tally(&shape), tally(&shape));
        let entry = entry(Some(keys));
        for at in 0..3 {
            for (tally, seq) in [(&mut sound, 70 + at), (&mut doubled, 70 + at), (&mut renumbered, 80 + at)] {
                let row = row(tally, FIRST + at, 1, seq);
                tally.row(&entry, &row);
            }
        }
        let again = row(&mut doubled, FIRST + 1, 1, 99);
        doubled.row(&entry, &again);
        for tally in [&mut sound, &mut doubled, &mut renumbered] {
            tally.finish(&entry);
        }
        let wrong = |tally: &Tally<'_>| (tally.verdict.lost, tally.verdict.doubled, tally.verdict.altered);
        assert_eq!((wrong(&sound), wrong(&doubled), wrong(&renumbered)), ((0, 0, 0), (0, 1, 0), (0, 0, 1)));
    }

    #[test]
    fn json_that_a_server_wrote_anew_is_the_same() {
        assert!(is_same(br#"{"id":"a","n":1}"#, br#"{"n": 1, "id": "a"}"#));
        assert!(!is_same(br#"{"id":"a","n":1}"#, br#"{"n": 2, "id": "a"}"#));
        assert!(!is_same(br#"{"id":"a","n":1}"#, b""));
    }
}
