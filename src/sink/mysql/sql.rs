//! The statements of the MySQL sink, written as bytes into a buffer that is used again. Pure: no connection, no clock.
//!
//! Everything a client chose and that is not held to a safe alphabet by its type is escaped in one place, [`text`].

use std::io::Write as _;

use crate::config::TableName;
use crate::report::{Batch, Id, Number, Report};
use crate::sink::mark::mark;
use crate::sink::record::{StreamRow, write_instant};

/// Where `YYYY-MM-DD HH:MM:SS.ffffff` has anything but digits and its point; the last first.
const INSTANT_SEPARATORS: [usize; 5] = [16, 13, 10, 7, 4];

/// One statement that inserts all reports, in the order given; a row whose key is there already is left as it is.
pub fn insert_reports<'a>(out: &mut Vec<u8>, table: &TableName, rows: impl IntoIterator<Item = (&'a Id, &'a Report)>) {
    out.clear();
    put(
        out,
        format_args!("INSERT INTO `{}` (id,source,seq,time,code,peer,data,accepted_at,digest) VALUES", table.reports()),
    );
    for (count, (id, report)) in rows.into_iter().enumerate() {
        if count > 0 {
            out.push(b',');
        }
        row(out, id, report);
    }
    if cfg!(forebay_plant = "plain_insert") {
        return;
    }
    out.extend_from_slice(b" ON DUPLICATE KEY UPDATE id=id");
}

/// One statement that brings the streams up to date. The order of its assignments matters: each sees those before it.
pub fn upsert_streams(out: &mut Vec<u8>, table: &TableName, rows: &[StreamRow<'_>]) {
    out.clear();
    let (streams, has_marks) = (table.streams(), rows.iter().any(|row| row.settled_by.is_some()));
    let settled = if has_marks { ",settled" } else { "" };
    put(
        out,
        format_args!("INSERT INTO `{streams}` (id,state,reports,first_at,last_at,state_position{settled}) VALUES"),
    );
    for (count, row) in rows.iter().enumerate() {
        if count > 0 {
            out.push(b',');
        }
        safe(out, b"('", row.id.as_bytes());
        safe(out, b"','", row.state.as_bytes());
        integer(out, b"',", row.inserted);
        let first_at = out.len();
        instant(out, row.first_at);
        if row.last_at == row.first_at {
            out.extend_from_within(first_at..);
        } else {
            instant(out, row.last_at);
        }
        integer(out, b",", row.state_position.0);
        match row.settled_by {
            Some(journal) => hex(out, b",0x", &mark(journal, row.position)),
            None if has_marks => out.extend_from_slice(b",NULL"),
            None => {}
        }
        out.push(b')');
    }
    out.extend_from_slice(
        b" ON DUPLICATE KEY UPDATE reports=reports+VALUES(reports),\
        first_at=LEAST(first_at,VALUES(first_at)),last_at=GREATEST(last_at,VALUES(last_at)),\
        state=IF(VALUES(state_position)>state_position,VALUES(state),state),\
        state_position=GREATEST(state_position,VALUES(state_position))",
    );
    if has_marks {
        out.extend_from_slice(REMEMBER);
    }
}

/// The new value of `settled`, as of [`crate::sink::mark`]: nearly always the one mark that is there goes on. The id of
/// a journal is found at the beginning of a mark alone: elsewhere its eight random bytes come up by no chance worth a
/// statement.
const REMEMBER: &[u8] = b",settled=CASE WHEN VALUES(settled) IS NULL THEN settled \
    WHEN settled IS NULL OR LENGTH(settled)=16 AND LEFT(settled,8)=LEFT(VALUES(settled),8) THEN VALUES(settled) \
    WHEN LOCATE(LEFT(VALUES(settled),8),settled)%16=1 THEN CONCAT(VALUES(settled),\
        LEFT(settled,LOCATE(LEFT(VALUES(settled),8),settled)-1),\
        SUBSTRING(settled,LOCATE(LEFT(VALUES(settled),8),settled)+16)) \
    ELSE CONCAT(VALUES(settled),LEFT(settled,224)) END";

/// Whether there is a stream from one id to another, in the order of the ids.
pub fn select_any_stream(out: &mut Vec<u8>, table: &TableName, from: &Id, to: &Id) {
    out.clear();
    put(out, format_args!("SELECT 1 FROM `{}` WHERE id BETWEEN '{from}' AND '{to}' LIMIT 1", table.streams()));
}

/// The column `settled` of these ids; where it `waits`, once nobody writes to them.
pub fn select_settled<'a>(out: &mut Vec<u8>, table: &TableName, ids: impl IntoIterator<Item = &'a Id>, waits: bool) {
    out.clear();
    put(out, format_args!("SELECT id,settled FROM `{}` WHERE id IN (", table.streams()));
    for (count, id) in ids.into_iter().enumerate() {
        safe(out, if count > 0 { b",'" } else { b"'" }, id.as_bytes());
        out.push(b'\'');
    }
    out.extend_from_slice(if waits { &b") LOCK IN SHARE MODE"[..] } else { b")" });
}

/// The keys of these that are there, with their digests, locked as they are.
pub fn select_keys<'a>(out: &mut Vec<u8>, table: &TableName, rows: impl IntoIterator<Item = (&'a Id, &'a Report)>) {
    out.clear();
    put(out, format_args!("SELECT id,source,seq,digest FROM `{}` WHERE ", table.reports()));
    of_keys(out, rows);
    out.extend_from_slice(b" LOCK IN SHARE MODE");
}

/// What the rows of these keys have, as text, behind the key.
pub fn select_holders<'a>(out: &mut Vec<u8>, table: &TableName, rows: impl IntoIterator<Item = (&'a Id, &'a Report)>) {
    out.clear();
    out.extend_from_slice(
        b"SELECT id,source,seq,CAST(time AS CHAR),CAST(code AS CHAR),LEFT(CAST(data AS CHAR),4096),LENGTH(data),\
        CAST(accepted_at AS CHAR)",
    );
    put(out, format_args!(" FROM `{}` WHERE ", table.reports()));
    of_keys(out, rows);
}

/// The condition that a row has one of these keys; at least one, and those of one id and source beside each other.
fn of_keys<'a>(out: &mut Vec<u8>, rows: impl IntoIterator<Item = (&'a Id, &'a Report)>) {
    let mut last = None;
    for (id, report) in rows {
        let of = Some((id, report.number.source));
        if of == last {
            integer(out, b",", report.number.seq);
            continue;
        }
        out.extend_from_slice(if last.is_some() { b")) OR (id='" } else { b"(id='" });
        safe(out, b"", id.as_bytes());
        integer(out, b"' AND source=", report.number.source);
        integer(out, b" AND seq IN (", report.number.seq);
        last = of;
    }
    out.extend_from_slice(b"))");
}

/// Whether the row of this key, which has no digest, has this content. JSON that the server keeps in a form of its own
/// is compared in that form.
pub fn compare(out: &mut Vec<u8>, table: &TableName, id: &Id, report: &Report) {
    out.clear();
    out.extend_from_slice(b"SELECT time<=>");
    match report.time {
        Some(micros) => seconds(out, micros),
        None => out.extend_from_slice(b"NULL"),
    }
    integer(out, b" AND code=", report.code);
    match &report.data {
        Some(data) => {
            out.extend_from_slice(b" AND COALESCE(CAST(data AS CHAR)=");
            text(out, data);
            out.extend_from_slice(b" OR CAST(data AS CHAR)=CAST(JSON_EXTRACT(");
            text(out, data);
            out.extend_from_slice(b",'$') AS CHAR),FALSE)");
        }
        None => out.extend_from_slice(b" AND data IS NULL"),
    }
    let (reports, Number { source, seq }) = (table.reports(), report.number);
    put(out, format_args!(" FROM `{reports}` WHERE id='{id}' AND source={source} AND seq={seq}"));
}

/// The greatest `seq` that a node gave to a report of this id.
pub fn select_greatest(out: &mut Vec<u8>, table: &TableName, id: &Id, source: u16) {
    out.clear();
    put(out, format_args!("SELECT MAX(seq) FROM `{}` WHERE id='{id}' AND source={source}", table.reports()));
}

/// How many reports the streams of these batches have by now.
pub fn select_totals<'a>(out: &mut Vec<u8>, table: &TableName, batches: impl IntoIterator<Item = &'a Batch>) {
    out.clear();
    put(out, format_args!("SELECT id,reports FROM `{}` WHERE id IN (", table.streams()));
    for (count, batch) in batches.into_iter().enumerate() {
        let comma = if count > 0 { "," } else { "" };
        put(out, format_args!("{comma}'{}'", batch.id));
    }
    out.push(b')');
}

/// Two statements that would write, but write nothing: they need the tables, all columns, the rights and a server that
/// takes writes.
pub fn probes(table: &TableName) -> [String; 2] {
    let (reports, streams) = (table.reports(), table.streams());
    [
        format!(
            "INSERT INTO `{reports}` (id,source,seq,time,code,peer,data,accepted_at,digest) \
             SELECT '',0,0,NULL,0,NULL,NULL,'2000-01-01',NULL FROM DUAL WHERE FALSE ON DUPLICATE KEY UPDATE id=id"
        ),
        format!(
            "INSERT INTO `{streams}` (id,state,reports,first_at,last_at,state_position,settled) \
             SELECT '','open',0,'2000-01-01','2000-01-01',0,NULL FROM DUAL WHERE FALSE ON DUPLICATE KEY UPDATE id=id"
        ),
    ]
}

fn row(out: &mut Vec<u8>, id: &Id, report: &Report) {
    safe(out, b"('", id.as_bytes());
    integer(out, b"',", report.number.source);
    integer(out, b",", report.number.seq);
    out.push(b',');
    match report.time {
        Some(micros) => seconds(out, micros),
        None => out.extend_from_slice(b"NULL"),
    }
    integer(out, b",", report.code);
    out.push(b',');
    match report.peer {
        Some(peer) => put(out, format_args!("'{peer}',")),
        None => out.extend_from_slice(b"NULL,"),
    }
    match &report.data {
        Some(data) => text(out, data),
        None => out.extend_from_slice(b"NULL"),
    }
    instant(out, report.accepted_at);
    hex(out, b",0x", &report.digest());
    out.push(b')');
}

/// Bytes as a hexadecimal literal.
fn hex(out: &mut Vec<u8>, before: &[u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(before);
    out.extend(bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]));
}

/// Bytes that no client chose freely: an id's alphabet has nothing that ends a literal.
fn safe(out: &mut Vec<u8>, before: &[u8], bytes: &[u8]) {
    out.extend_from_slice(before);
    out.extend_from_slice(bytes);
}

fn integer(out: &mut Vec<u8>, before: &[u8], value: impl itoa::Integer) {
    safe(out, before, itoa::Buffer::new().format(value).as_bytes());
}

/// Microseconds as a decimal number of seconds; exact, which a float is not.
pub fn seconds(out: &mut Vec<u8>, micros: i64) {
    let sign = if micros < 0 { "-" } else { "" };
    let (whole, rest) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
    put(out, format_args!("{sign}{whole}.{rest:06}"));
}

/// A comma, and an instant, in microseconds of the epoch, as a `DATETIME(6)` in UTC: the number
/// `YYYYMMDDhhmmss.ffffff`, which the server reads faster than text.
fn instant(out: &mut Vec<u8>, micros: u64) {
    out.push(b',');
    let start = out.len();
    write_instant(out, micros);
    for separator in INSTANT_SEPARATORS {
        out.remove(start + separator);
    }
}

/// A string literal. The session has neither `NO_BACKSLASH_ESCAPES` nor a character set in which a `\` or a `'` can be
/// the second byte of a character, so nothing but these two can end or alter the literal; NUL is escaped
/// for tools on the way.
fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'\'');
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\'' | 0)) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(match rest[at] {
            b'\\' => b"\\\\",
            b'\'' => b"\\'",
            _ => b"\\0",
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'\'');
}

fn put(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("a Vec takes all that is written to it, and no value here fails to format");
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::report::{Body, Marker, Position, Record};
    use crate::sink::record::by_key;

    /// What the server reads from a literal, by the rules of its manual.
    fn read_literal(literal: &[u8]) -> Option<Vec<u8>> {
        let inner = literal.strip_prefix(b"'")?.strip_suffix(b"'")?;
        let mut bytes = inner.iter();
        let mut value = Vec::new();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\'' => return None,
                b'\\' => match bytes.next()? {
                    b'0' => value.push(0),
                    escaped => value.push(*escaped),
                },
                plain => value.push(*plain),
            }
        }
        Some(value)
    }

    fn literal(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        text(&mut out, bytes);
        out
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_from_their_literal(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(read_literal(&literal(&bytes)), Some(bytes));
        }

        #[test]
        fn nasty_bytes_come_back_from_their_literal(bytes in proptest::collection::vec(
            prop_oneof![Just(b'\''), Just(b'\\'), Just(0), Just(b'"'), Just(b'n'), Just(0xbf), Just(0x5c)], 0..40)) {
            prop_assert_eq!(read_literal(&literal(&bytes)), Some(bytes));
        }

        #[test]
        fn seconds_are_exact(micros: i64) {
            let mut out = Vec::new();
            seconds(&mut out, micros);
            let text = String::from_utf8(out).expect("digits");
            let (whole, rest) = text.split_once('.').expect("a point");
            prop_assert_eq!(rest.len(), 6);
            prop_assert_eq!(format!("{whole}{rest}").parse::<i64>().expect("a number"), micros);
        }
    }

    #[test]
    fn strings_that_break_out_elsewhere_do_not_break_out_here() {
        for nasty in
            ["'); DROP TABLE reports; -- ", "\\'", "\\\\'", "\\", "'", "''", "\0", "\u{1a}", "/*", "é'", "%", "_"]
        {
            assert_eq!(read_literal(&literal(nasty.as_bytes())).as_deref(), Some(nasty.as_bytes()), "{nasty:?}");
        }
    }

    fn report(seq: u64, data: Option<&'static str>) -> Report {
        Report {
            number: Number { source: 0, seq },
            time: None,
            code: -1,
            peer: Some("::1".parse().expect("an address")),
            data: data.map(|text| Bytes::from_static(text.as_bytes())),
            accepted_at: 1,
        }
    }

    #[test]
    fn a_statement_has_all_rows_in_order_of_key() {
        let record = |position, body| Record { position: Position(position), body };
        let (with_data, without) = (report(9, Some("{\"it's\":1}")), report(2, None));
        let digest = |report: &Report| report.digest().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let digests = [digest(&without), digest(&with_data)];
        let records = vec![
            record(1, Body::Report(with_data)),
            record(2, Body::Marker(Marker::Done, 1)),
            record(3, Body::Report(without)),
        ];
        let batch = Batch::new(Id::new("a").expect("an id"), records);
        let mut out = b"left over".to_vec();
        let mut rows = Vec::new();
        by_key(&batch, &mut rows);
        insert_reports(&mut out, &TableName("reports".to_owned()), rows);
        assert_eq!(
            String::from_utf8(out).expect("text"),
            format!(
                "INSERT INTO `reports` (id,source,seq,time,code,peer,data,accepted_at,digest) VALUES\
                 ('a',0,2,NULL,-1,'::1',NULL,19700101000000.000001,0x{}),\
                 ('a',0,9,NULL,-1,'::1','{{\"it\\'s\":1}}',19700101000000.000001,0x{}) ON DUPLICATE KEY UPDATE id=id",
                digests[0], digests[1]
            )
        );
    }
}
