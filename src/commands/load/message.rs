//! The reports of a load: what number which of them has, and its text. Pure: the same report always has the same text,
//! so that a ledger of numbers is enough to check the data of every row.

use std::ops::Range;

use forebay::report::Id;

use super::arguments::{Numbering, Shape};

/// The number of an id's first report. All have 16 digits, so that all messages of a load have one length.
pub const FIRST: u64 = 1_000_000_000_000_000;

/// The time of every report, in microseconds of the epoch, and its code.
pub const TIME: i64 = 1_714_972_800_000_000;
pub const CODE: i64 = 0;

/// Where connections share an id, the numbers of each of them begin this far apart.
const STRIDE: u64 = 1 << 40;

/// Connections that may share an id; with [`STRIDE`] their numbers stay below 2^53.
pub const MAX_SHARING: u64 = 4096;

/// What stands before the number in the data.
const NAME: &str = "\",\"n\":";

/// References have 10 digits, and begin anew after a billion.
const FIRST_REFERENCE: u64 = 1_000_000_000;

/// The reference of a connection's nth message.
pub fn reference(n: u64) -> u64 {
    FIRST_REFERENCE + n % FIRST_REFERENCE
}

/// The reports of one connection, which it counts from 0: it goes round its ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The number of its first id.
    first_id: u64,
    /// From one of its ids to the next.
    step: u64,
    /// How many ids it has, at least 1.
    ids: u64,
    /// How many connections with lower numbers report for its id too.
    writer: u64,
}

impl Share {
    /// Connection number `connection` of `connections` has every so-manieth of `ids`; or shares one, where there are
    /// fewer ids than connections.
    pub fn new(connection: u64, connections: u64, ids: u64) -> Self {
        if ids < connections {
            return Self { first_id: connection % ids, step: ids, ids: 1, writer: connection / ids };
        }
        let own = (ids - connection).div_ceil(connections);
        Self { first_id: connection, step: connections, ids: own, writer: 0 }
    }

    /// How many ids it has.
    pub fn ids(self) -> u64 {
        self.ids
    }

    /// Which of its own ids its nth report is for.
    pub fn own(self, nth: u64) -> u64 {
        nth % self.ids
    }

    /// The number of that id.
    pub fn id(self, nth: u64) -> u64 {
        self.first_id + self.own(nth) * self.step
    }

    /// The number that the report has among those of its id.
    pub fn number(self, nth: u64) -> u64 {
        FIRST + self.writer * STRIDE + nth / self.ids
    }

    /// Those of the reports in `nths` that are for its own id number `own`, by their numbers.
    pub fn numbers(self, own: u64, nths: Range<u64>) -> Range<u64> {
        let at = |nth: u64| FIRST + self.writer * STRIDE + nth.saturating_sub(own).div_ceil(self.ids);
        at(nths.start)..at(nths.end)
    }
}

/// A report's message, whose digits are written over for each report.
#[derive(Debug, Clone)]
pub struct Template {
    text: Vec<u8>,
    /// The digits of the id, in the message and in its data.
    ids: [Range<usize>; 2],
    seq: Option<Range<usize>>,
    reference: Range<usize>,
    /// The number, in the data.
    number: Range<usize>,
    data: Range<usize>,
}

impl Template {
    /// The template of a load's messages.
    ///
    /// # Errors
    /// The least number of bytes that a message needs, where `size` is less.
    pub fn new(shape: &Shape) -> Result<Self, usize> {
        let id = shape.id(0);
        let mut text = Vec::new();
        let mut put = |part: &str| {
            text.extend_from_slice(part.as_bytes());
            text.len() - part.len()..text.len()
        };
        let digits = |of: Range<usize>| of.end - shape.id_digits()..of.end;
        put(r#"{"op":"report","id":""#);
        let first_id = digits(put(&id));
        put("\"");
        let seq = (shape.numbering == Numbering::Client).then(|| {
            put(",\"seq\":");
            put(&FIRST.to_string())
        });
        put(",\"ref\":");
        let reference = put(&FIRST_REFERENCE.to_string());
        put(",\"time\":\"1714972800\",\"data\":");
        let data = put("{\"id\":\"").start;
        let second_id = digits(put(&id));
        put(NAME);
        let number = put(&FIRST.to_string());
        put(",\"agent\":\"");
        let tail = "\"},\"code\":0}";
        let least = number.end + ",\"agent\":\"".len() + tail.len();
        let padding = shape.size.checked_sub(least).ok_or(least)?;
        put(&"m4Vq-".chars().cycle().take(padding).collect::<String>());
        let end = put(tail).start + "\"}".len();
        Ok(Self { text, ids: [first_id, second_id], seq, reference, number, data: data..end })
    }

    /// Puts one message at the end of `out`.
    pub fn write(&mut self, out: &mut Vec<u8>, id: u64, number: u64, reference: u64) {
        self.set(id, number);
        if let Some(seq) = self.seq.clone() {
            put_digits(&mut self.text[seq], number);
        }
        put_digits(&mut self.text[self.reference.clone()], reference);
        out.extend_from_slice(&self.text);
    }

    /// The data of one report.
    pub fn data(&mut self, id: u64, number: u64) -> &[u8] {
        self.set(id, number);
        &self.text[self.data.clone()]
    }

    /// The number that a report's data says that it has: where it was sent, or, in a sink that keeps the JSON value and
    /// writes it in its own way, under its name.
    pub fn number_in(&self, data: &[u8]) -> Option<u64> {
        let at = self.number.start - self.data.start..self.number.end - self.data.start;
        let as_sent = data.get(..at.start).is_some_and(|before| before.ends_with(NAME.as_bytes()));
        match data.get(at) {
            Some(digits) if as_sent => std::str::from_utf8(digits).ok()?.parse().ok(),
            _ => serde_json::from_slice::<serde_json::Value>(data).ok()?.get("n")?.as_u64(),
        }
    }

    fn set(&mut self, id: u64, number: u64) {
        for at in self.ids.clone() {
            put_digits(&mut self.text[at], id);
        }
        put_digits(&mut self.text[self.number.clone()], number);
    }
}

/// Writes the number in exactly the digits that there is room for.
fn put_digits(room: &mut [u8], mut number: u64) {
    for digit in room.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

impl Shape {
    /// The name of the id with this number; ids sort as their numbers do.
    pub fn id(&self, number: u64) -> String {
        format!("{}{number:0width$}", self.id_prefix, width = self.id_digits())
    }

    /// The number of an id with this name.
    pub fn number_of(&self, id: &str) -> Option<u64> {
        let digits = id.strip_prefix(self.id_prefix.as_str())?;
        let sound = digits.len() == self.id_digits() && digits.bytes().all(|digit| digit.is_ascii_digit());
        digits.parse().ok().filter(|number| sound && *number < self.ids)
    }

    fn id_digits(&self) -> usize {
        (self.ids - 1).max(1).ilog10() as usize + 1
    }

    /// The prefix as an id, where it and all ids of the load are some.
    pub fn prefix(&self) -> Result<Id, String> {
        let name = |error| format!("--id-prefix: an id of this load {error}");
        Id::new(&self.id(self.ids - 1)).map_err(name)?;
        Id::new(&self.id_prefix).map_err(|error| format!("--id-prefix: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn shape(ids: u64, numbering: Numbering) -> Shape {
        Shape { ids, numbering, size: 300, id_prefix: "p-".to_owned() }
    }

    #[test]
    fn every_message_has_the_size_asked_for_and_is_json() {
        for numbering in [Numbering::Client, Numbering::Server] {
            let mut template = Template::new(&shape(1_000, numbering)).expect("300 bytes are enough");
            let mut out = Vec::new();
            template.write(&mut out, 42, FIRST + 7, reference(3));
            assert_eq!(out.len(), 300);
            let message: serde_json::Value = serde_json::from_slice(&out).expect("it is JSON");
            assert_eq!((&message["id"], &message["ref"]), (&"p-042".into(), &(FIRST_REFERENCE + 3).into()));
            assert_eq!(message["seq"].as_u64(), (numbering == Numbering::Client).then_some(FIRST + 7));
            let data = template.data(42, FIRST + 7).to_vec();
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&data).expect("it is JSON"), message["data"]);
            assert_eq!(template.number_in(&data), Some(FIRST + 7));
            // As MySQL shows it.
            let value: serde_json::Value = serde_json::from_slice(&data).expect("it is JSON");
            let shown = format!(r#"{{"n": {}, "id": {}, "agent": {}}}"#, value["n"], value["id"], value["agent"]);
            assert_eq!(template.number_in(shown.as_bytes()), Some(FIRST + 7));
            assert_ne!(template.data(42, FIRST + 8), data);
            assert_ne!(template.data(43, FIRST + 7), data);
        }
    }

    #[test]
    fn a_size_that_is_too_small_is_refused_with_the_least_one() {
        let mut small = Shape { size: 10, ..shape(10, Numbering::Client) };
        small.size = Template::new(&small).expect_err("10 bytes are too few");
        assert!(Template::new(&small).is_ok(), "{}", small.size);
        small.size -= 1;
        assert!(Template::new(&small).is_err(), "{}", small.size);
    }

    #[test]
    fn no_two_reports_of_a_load_have_one_key() {
        for (connections, ids) in [(1, 1), (3, 10), (10, 10), (10, 3), (7, 1)] {
            let mut keys = BTreeSet::new();
            for connection in 0..connections {
                let share = Share::new(connection, connections, ids);
                for nth in 0..100 {
                    assert!(share.id(nth) < ids);
                    assert!(keys.insert((share.id(nth), share.number(nth))), "{connections} {ids} {connection} {nth}");
                    let (own, number) = (share.own(nth), share.number(nth));
                    assert_eq!(share.numbers(own, nth..nth + 1), number..number + 1);
                }
                let all: u64 = (0..share.ids()).map(|own| share.numbers(own, 13..100)).map(|r| r.end - r.start).sum();
                assert_eq!(all, 87);
            }
        }
        let last = Share::new(MAX_SHARING - 1, MAX_SHARING, 1);
        assert!(last.number(STRIDE - 1) < 1 << 53);
    }

    #[test]
    fn names_of_ids_are_read_back_and_sort_as_their_numbers() {
        let shape = shape(1_001, Numbering::Client);
        assert_eq!((shape.id(0).as_str(), shape.id(1_000).as_str()), ("p-0000", "p-1000"));
        assert_eq!(
            (shape.number_of("p-0042"), shape.number_of("p-42"), shape.number_of("p-1001")),
            (Some(42), None, None)
        );
        assert_eq!(shape.number_of("p-+042"), None);
    }
}
