//! What was sent and what was answered, and what must follow from that for the sink and the dead letters.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use forebay::journal::{Ack, Answer, Content, DeadLetter};
use forebay::report::{Draft, LetterKind, Marker, Number};

use super::sink::{Row, Stored};
use super::steps::IDS;

/// The node that numbers reports.
pub const NODE: u16 = 7;
/// The `code` of reports that the sink refuses while it refuses.
pub const POISON: i32 = 13;
/// Bytes of a large report: past what reports of one commit share.
const LARGE: usize = 33 << 10;

/// What the model found to be broken, and the figures of a case.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// Kills and restarts.
    pub faults: u64,
    /// Reports that were acknowledged.
    pub acknowledged: u64,
    /// Acknowledged, and neither in the sink nor in the dead letters.
    pub lost: Vec<String>,
    /// Stored twice, or a position that was given out twice.
    pub doubled: Vec<String>,
    /// Anything else.
    pub wrong: Vec<String>,
}

impl Findings {
    /// Whether all promises were kept.
    pub fn none(&self) -> bool {
        self.lost.is_empty() && self.doubled.is_empty() && self.wrong.is_empty()
    }
}

/// Everything that was sent; its place in `sent` is its ticket, and for a report its data.
#[derive(Default)]
pub struct Model {
    sent: Vec<Sent>,
    positions: HashSet<u64>,
    /// The last position that was answered, of all and of each id.
    highest: u64,
    last: [u64; IDS],
    /// The ticket that was answered last by the node of now.
    answered: Option<usize>,
    /// The state of each id's stream; `None` where a report or marker may have changed it of which nobody knows.
    states: [Option<&'static str>; IDS],
    /// Tickets of reports whose dead letters were discarded.
    discarded: HashSet<usize>,
    /// Tickets of markers that are said to be in the sink.
    drained: HashSet<u64>,
    /// Clients were told that all of these ids before these positions is in the sink.
    told: Vec<(usize, u64)>,
    pub findings: Findings,
}

struct Sent {
    id: usize,
    what: What,
    /// The highest position that had been answered when it was sent.
    above: u64,
    fate: Fate,
}

#[derive(Clone, Copy)]
pub enum What {
    Report { seq: Option<u64>, poison: bool, large: bool },
    Marker(Marker),
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// No answer yet.
    Open,
    Acked(u64),
    Refused,
    /// The node died before it answered.
    Unknown,
}

/// A place for one row: id, source, seq.
type Slot = (usize, u16, u64);

/// What is known of one.
#[derive(Default)]
struct Place {
    /// Reports for it that were acknowledged: position, ticket.
    acked: Vec<(u64, usize)>,
    /// There may be others.
    unsure: bool,
    row: Option<usize>,
    /// Dead letters.
    dead: HashSet<usize>,
}

/// The data of the report with this ticket.
fn data(ticket: usize, large: bool) -> String {
    let filler = "x".repeat(if large { LARGE } else { 0 });
    format!("{{\"n\":{ticket},\"x\":\"{filler}\"}}")
}

fn ticket_of(data: &str) -> Option<usize> {
    data.strip_prefix("{\"n\":")?.split_once(',')?.0.parse().ok()
}

impl Model {
    /// Notes that something is about to be sent; gives its ticket and content.
    pub fn send(&mut self, id: usize, what: What) -> (u64, Content) {
        let ticket = self.sent.len();
        self.sent.push(Sent { id, what, above: self.highest, fate: Fate::Open });
        let content = match what {
            What::Marker(marker) => Content::Marker(marker),
            What::Report { seq, poison, large } => {
                let data = Some(Bytes::from(data(ticket, large)));
                Content::Report(Draft { seq, time: None, code: if poison { POISON } else { 0 }, peer: None, data })
            }
        };
        (ticket as u64, content)
    }

    /// Whether an answer is due.
    pub fn is_open(&self) -> bool {
        self.sent.iter().any(|sent| sent.fate == Fate::Open)
    }

    /// Notes an answer.
    pub fn answered(&mut self, ticket: u64, answer: &Answer) {
        let ticket = ticket as usize;
        if self.answered.is_some_and(|before| before >= ticket) || self.sent[ticket].fate != Fate::Open {
            self.findings.wrong.push(format!("{ticket} is answered after {:?}", self.answered));
        }
        self.answered = Some(ticket);
        match answer {
            Answer::Refused(_) => self.sent[ticket].fate = Fate::Refused,
            Answer::Kept(ack) => self.acked(ticket, ack),
        }
    }

    fn acked(&mut self, ticket: usize, ack: &Ack) {
        let position = ack.position().0;
        let Sent { id, what, above, .. } = self.sent[ticket];
        self.sent[ticket].fate = Fate::Acked(position);
        if !self.positions.insert(position) {
            self.findings.doubled.push(format!("position {position} is given out twice"));
        }
        if position <= above || position <= self.last[id] {
            let last = self.last[id];
            self.findings.wrong.push(format!("position {position} of {ticket}: not above {above} and {last}"));
        }
        self.last[id] = position;
        self.highest = self.highest.max(position);
        let (number, state) = match what {
            What::Report { seq, poison, .. } => {
                self.findings.acknowledged += 1;
                let number = seq.map_or(Number { source: NODE, seq: position }, |seq| Number { source: 0, seq });
                // One that is not stored opens nothing.
                let is_new = !poison && !self.is_used(id, seq, ticket);
                (Some(number), is_new.then_some("open"))
            }
            What::Marker(Marker::Done) => (None, Some("done")),
            What::Marker(Marker::Disconnected) => (None, Some("disconnected")),
        };
        self.states[id] = state;
        if self.drained.contains(&(ticket as u64)) {
            self.told.push((id, position));
        }
        if ack.number() != number {
            self.findings.wrong.push(format!("{ticket} is numbered {:?}, not {number:?}", ack.number()));
        }
    }

    /// Whether another report was sent for the place of this one.
    fn is_used(&self, id: usize, seq: Option<u64>, ticket: usize) -> bool {
        let same = |sent: &Sent| {
            sent.id == id && seq.is_some() && matches!(sent.what, What::Report { seq: other, .. } if other == seq)
        };
        self.sent.iter().enumerate().any(|(other, sent)| other != ticket && same(sent))
    }

    /// Notes that the `done` marker of this ticket is said to be in the sink, with all before it. An outlet may hear
    /// that before its answer: the flusher does not wait for the commit thread to say it.
    pub fn drained(&mut self, ticket: u64) {
        self.drained.insert(ticket);
        let Sent { id, fate, .. } = self.sent[ticket as usize];
        match fate {
            Fate::Acked(position) => self.told.push((id, position)),
            Fate::Open => {}
            _ => self.findings.wrong.push(format!("{ticket} is drained and was not acknowledged")),
        }
    }

    /// Whether that was said of this ticket.
    pub fn is_drained(&self, ticket: u64) -> bool {
        self.drained.contains(&ticket)
    }

    /// Whether the marker of this ticket was refused.
    pub fn is_refused(&self, ticket: u64) -> bool {
        self.sent[ticket as usize].fate == Fate::Refused
    }

    /// Notes that the node is gone, and that another one answers from now on.
    pub fn node_is_gone(&mut self) {
        self.answered = None;
        for sent in &mut self.sent {
            if sent.fate == Fate::Open {
                sent.fate = Fate::Unknown;
                self.states[sent.id] = None;
            }
        }
    }

    /// Notes that a dead letter was discarded by request.
    pub fn discarded(&mut self, letter: &DeadLetter) {
        let data = letter.report.data.as_deref().unwrap_or_default();
        self.discarded.extend(ticket_of(&String::from_utf8_lossy(data)));
    }

    /// Holds what is stored, and then the dead letters, against what is known. `all` when the backlog is empty.
    pub fn judge(&mut self, stored: &Stored, letters: &[DeadLetter], all: bool) {
        let mut places = self.places();
        let mut seen = HashSet::new();
        for row in &stored.rows {
            let Some(ticket) = self.report(row) else { continue };
            if !seen.insert(ticket) {
                self.findings.doubled.push(format!("{ticket} has two rows"));
            }
            places.entry((row.id, row.source, row.seq)).or_default().row = Some(ticket);
        }
        for letter in letters {
            let number = letter.report.number;
            let row = Row {
                id: letter.id.as_str().parse().expect("ids are numbers"),
                source: number.source,
                seq: number.seq,
                code: letter.report.code,
                data: String::from_utf8_lossy(letter.report.data.as_deref().unwrap_or_default()).into_owned(),
            };
            if row.code != POISON && letter.kind != LetterKind::KeyTaken {
                self.findings.wrong.push(format!("a dead letter that is no poison: {row:?}"));
            }
            if let Some(ticket) = self.report(&row) {
                let place = places.entry((row.id, row.source, row.seq)).or_default();
                if !place.dead.insert(ticket) {
                    self.findings.doubled.push(format!("{ticket} has two dead letters"));
                }
            }
        }
        let told = std::mem::take(&mut self.told);
        let due = |id: usize, position: u64| all || told.iter().any(|&(of, below)| of == id && position < below);
        places.iter().for_each(|(slot, place)| self.judge_place(*slot, place, &due));
        (0..IDS).for_each(|id| self.judge_order(id, &places));
        self.judge_streams(stored, all);
    }

    /// The ticket of a row or dead letter, if it is one that was sent.
    fn report(&mut self, row: &Row) -> Option<usize> {
        let ticket = ticket_of(&row.data).filter(|ticket| *ticket < self.sent.len());
        let is_sent = ticket.is_some_and(|ticket| {
            let Sent { id, what, fate, .. } = self.sent[ticket];
            let What::Report { seq, poison, large } = what else { return false };
            let number = match (seq, fate) {
                (Some(seq), _) => (0, seq),
                (None, Fate::Acked(position)) => (NODE, position),
                (None, _) => (NODE, row.seq),
            };
            let as_sent = (row.source, row.seq) == number && row.code == if poison { POISON } else { 0 };
            fate != Fate::Refused && id == row.id && as_sent && row.data == data(ticket, large)
        });
        if !is_sent {
            let Row { id, source, seq, code, .. } = row;
            let fault = format!("nobody was told to keep ({id}, {source}, {seq}) with code {code}, ticket {ticket:?}");
            self.findings.wrong.push(fault);
        }
        ticket.filter(|_| is_sent)
    }

    fn places(&self) -> BTreeMap<Slot, Place> {
        let mut places = BTreeMap::<Slot, Place>::new();
        for (ticket, sent) in self.sent.iter().enumerate() {
            let What::Report { seq, .. } = sent.what else { continue };
            match (sent.fate, seq) {
                (Fate::Acked(position), _) => {
                    let slot = seq.map_or((sent.id, NODE, position), |seq| (sent.id, 0, seq));
                    places.entry(slot).or_default().acked.push((position, ticket));
                }
                (Fate::Open | Fate::Unknown, Some(seq)) => {
                    places.entry((sent.id, 0, seq)).or_default().unsure = true;
                }
                _ => {}
            }
        }
        places
    }

    fn is_poison(&self, ticket: usize) -> bool {
        matches!(self.sent[ticket].what, What::Report { poison: true, .. })
    }

    /// The first report for a place that no sink refuses: position, ticket.
    fn firm(&self, place: &Place) -> Option<(u64, usize)> {
        place.acked.iter().copied().filter(|(_, ticket)| !self.is_poison(*ticket)).min()
    }

    /// First write wins, and what is due is a row or a dead letter, each report that was sent under one number.
    fn judge_place(&mut self, slot: Slot, place: &Place, due: &impl Fn(usize, u64) -> bool) {
        let firm = self.firm(place);
        if let (Some((first, by)), Some(row)) = (firm, place.row)
            && let Fate::Acked(position) = self.sent[row].fate
            && first < position
        {
            self.findings.wrong.push(format!("{slot:?} has {row}, and {by} was first"));
        }
        for (position, ticket) in &place.acked {
            let is_kept = place.row == Some(*ticket) || place.dead.contains(ticket) || self.discarded.contains(ticket);
            if !is_kept && due(slot.0, *position) {
                self.findings.lost.push(format!("{ticket} at {position}, for {slot:?}"));
            }
        }
    }

    /// What is stored of an id goes up to some position, and nothing before that is missing.
    fn judge_order(&mut self, id: usize, places: &BTreeMap<Slot, Place>) {
        let of_id = || places.iter().filter(|(slot, _)| slot.0 == id).map(|(_, place)| place);
        let missing = of_id().filter(|place| place.row.is_none()).filter_map(|place| self.firm(place)).min();
        // Reports that are refused for a while, or that nobody knows of, may have been first in their place.
        let sure = |place: &&Place| {
            place.row.is_some() && !place.unsure && !place.acked.iter().any(|(_, ticket)| self.is_poison(*ticket))
        };
        let stored = of_id().filter(sure).filter_map(|place| self.firm(place)).max();
        if let (Some(missing), Some(stored)) = (missing, stored)
            && missing < stored
        {
            self.findings.wrong.push(format!("of {id}, {stored:?} is stored and {missing:?} is not"));
        }
    }

    fn judge_streams(&mut self, stored: &Stored, all: bool) {
        let mut rows = HashMap::<usize, u64>::new();
        for row in &stored.rows {
            *rows.entry(row.id).or_default() += 1;
        }
        for id in 0..IDS {
            let (state, reports) = stored.streams.get(&id).map_or((None, 0), |(state, n)| (Some(state.as_str()), *n));
            let rows = rows.get(&id).copied().unwrap_or(0);
            if reports != rows {
                self.findings.wrong.push(format!("stream {id} counts {reports}, and has {rows} rows"));
            }
            let expected = self.states[id];
            if all && expected.is_some() && state != expected {
                self.findings.wrong.push(format!("stream {id} is {state:?}, not {expected:?}"));
            }
        }
    }
}
