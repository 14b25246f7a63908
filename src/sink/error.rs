//! What a sink can answer instead of "stored", in four classes. Classification is pure: a code in, a class out.

use std::fmt::Write as _;

/// What to do about a sink's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// A deadlock, a lock wait: the same transaction again, after a short delay. Unknown codes are of this class too.
    Transient,
    /// Not reachable, read-only, full: one prober asks, all flushers wait, nothing is dropped.
    Outage,
    /// Wrong password, missing table or right: as an outage, but a person must act, and is told loudly.
    Operator,
    /// A row is refused for what it is. Which one is known once a record stands alone: it goes to the dead letters.
    Poison,
}

impl Class {
    /// `transient`, `outage`, `operator` or `poison`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Outage => "outage",
            Self::Operator => "operator",
            Self::Poison => "poison",
        }
    }
}

/// An error of the sink; its text names no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    /// What to do about it.
    pub class: Class,
    /// The server's error number, where it gave one.
    pub code: Option<u32>,
    /// What happened, for a person.
    pub message: String,
}

/// Characters of a server's text that are kept: some servers quote the row that they refuse.
const MAX_QUOTED: usize = 400;

/// `ER_NET_PACKET_TOO_LARGE`: the statement, not the row, is too long, unless the row stands alone.
pub const PACKET_TOO_LARGE: u16 = 1153;

impl SinkError {
    /// An error without a server's number.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, code: None, message: message.into() }
    }

    /// What a MySQL or MariaDB server answered while `doing` something.
    pub fn mysql(doing: &str, code: u16, text: &str) -> Self {
        let message = format!("{doing}: {} (server error {code})", quoted(text));
        Self { class: mysql_class(code), code: Some(u32::from(code)), message }
    }

    /// What SQLite answered while `doing` something; `extended` is its extended result code.
    pub fn sqlite(doing: &str, extended: i32, text: &str) -> Self {
        let message = format!("{doing}: {} (SQLite error {extended})", quoted(text));
        Self { class: sqlite_class(extended, text), code: u32::try_from(extended).ok(), message }
    }

    /// The same error where no report can be to blame, because none was at hand: then a table is not what it should be.
    /// A statement that was too long stays what it is; fewer rows make a shorter one.
    pub(super) fn not_for_a_report(self) -> Self {
        match self.class {
            Class::Poison if self.code != Some(u32::from(PACKET_TOO_LARGE)) => Self { class: Class::Operator, ..self },
            _ => self,
        }
    }

    /// Whether a statement took longer than the server lets one take: fewer rows take less.
    pub(super) fn is_too_slow(&self) -> bool {
        matches!(self.code, Some(1969 | 3024))
    }

    /// Whether the server refuses a connection because there are too many: of all (1040), or of this user (1203, 1226).
    pub(super) fn is_of_too_many_connections(&self) -> bool {
        matches!(self.code, Some(1040 | 1203 | 1226))
    }

    /// Whether it may be the table, rather than the row, that the server refuses: it says so by a number, and not by
    /// one that is known to pass.
    pub(super) fn may_be_the_tables(&self) -> bool {
        let passes = |code| u16::try_from(code).is_ok_and(is_known_to_pass);
        self.class == Class::Transient && !self.is_too_slow() && self.code.is_some_and(|code| !passes(code))
    }

    /// The same error where a session is set up. No row is at hand, and what a server refuses there it refuses the next
    /// time too, unless the number is one that is known to pass.
    pub(super) fn in_set_up(self) -> Self {
        Self { class: self.in_set_up_class(), ..self }
    }

    /// Its class, see [`SinkError::in_set_up`].
    pub(super) fn in_set_up_class(&self) -> Class {
        let passes = self.code.is_none_or(|code| u16::try_from(code).is_ok_and(is_known_to_pass));
        match self.class {
            Class::Transient if !passes => Class::Operator,
            Class::Poison => Class::Operator,
            class => class,
        }
    }
}

/// The numbers of a deadlock, a lock wait and the like, as opposed to those that nobody knows.
fn is_known_to_pass(code: u16) -> bool {
    matches!(code, 1205 | 1213 | 1020 | 1180 | 1047 | 8002 | 8022 | 8028 | 9007)
}

/// The class of a MySQL, MariaDB, Galera or TiDB server's error number.
///
/// [`PACKET_TOO_LARGE`] is poison, because poison is what the writer splits; a record that stands alone and still does
/// not fit can never be stored.
pub fn mysql_class(code: u16) -> Class {
    match code {
        _ if is_known_to_pass(code) => Class::Transient,
        // More connections, or more of this user, than the server allows.
        1040 | 1203 | 1226 | 1053 | 1158..=1161 | 1927 | 2006 | 2013 | 4031 => Class::Outage,
        1290 | 1792 | 1836 | 3100 | 1036 | 1874 => Class::Outage, // Read-only; a reconnect may find the primary.
        1021 | 1114 => Class::Outage, // The disk or the tablespace is full; no row is to blame.
        1044 | 1045 | 1049 | 1054 | 1064 | 1142 | 1143 | 1146 | 1227 => Class::Operator,
        // Who logs in, or from where, is refused.
        1129 | 1130 | 1251 | 1524 | 1698 | 1820 | 1862 | 3118 | 3159 | 3878 | 3955 | 4151 => Class::Operator,
        1406 | 1264 | 1265 | 1292 | 1366 | 1048 | 3140 | 3141 | 3157 | 4025 | 3819 | PACKET_TOO_LARGE => Class::Poison,
        _ if cfg!(forebay_plant = "bury_on_unknown") => Class::Poison,
        _ => Class::Transient,
    }
}

/// The class of an SQLite result code, extended or not.
///
/// A missing table has no code of its own there, only `SQLITE_ERROR` and a text, so this one case goes by the text.
pub fn sqlite_class(extended: i32, text: &str) -> Class {
    const ERROR: i32 = 1;
    let missing = ["no such table", "no such column", "has no column named"];
    match extended & 0xff {
        18..=20 => Class::Poison,              // TOOBIG, CONSTRAINT, MISMATCH
        5 | 6 => Class::Transient,             // BUSY, LOCKED
        13 | 10 | 14 | 8 | 7 => Class::Outage, // FULL, IOERR, CANTOPEN, READONLY, NOMEM
        11 | 26 | 23 | 3 => Class::Operator,   // CORRUPT, NOTADB, AUTH, PERM
        ERROR if missing.iter().any(|part| text.contains(part)) => Class::Operator,
        _ => Class::Transient,
    }
}

/// A server's text made safe for a log line: it may quote what a client sent.
pub(super) fn quoted(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars().take(MAX_QUOTED) {
        match character {
            '\'' | '"' => safe.push(character),
            _ => write!(safe, "{}", character.escape_debug()).expect("a String takes all that is written to it"),
        }
    }
    if text.chars().nth(MAX_QUOTED).is_some() {
        safe.push('…');
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_of_a_server_has_its_class() {
        let table: [(Class, &[u16]); 5] = [
            (Class::Transient, &[1205, 1213, 1020, 1180, 1047, 8002, 8022, 8028, 9007]),
            (
                Class::Outage,
                &[
                    1040, 1203, 1226, 1053, 1158, 1159, 1160, 1161, 1927, 2006, 2013, 4031, 1290, 1792, 1836, 3100,
                    1021, 1114,
                ],
            ),
            (Class::Operator, &[1044, 1045, 1049, 1054, 1064, 1142, 1143, 1146, 1227]),
            (Class::Operator, &[1129, 1130, 1251, 1524, 1698, 1820, 1862, 3118, 3159, 3878, 3955, 4151]),
            (Class::Poison, &[1406, 1264, 1265, 1292, 1366, 1048, 3140, 3141, 3157, 4025, 3819, 1153]),
        ];
        for (class, codes) in table {
            for code in codes {
                assert_eq!(mysql_class(*code), class, "{code}");
            }
        }
    }

    #[test]
    fn an_unknown_code_is_retried_and_never_poison() {
        let known = [1406, 1264, 1265, 1292, 1366, 1048, 3140, 3141, 3157, 4025, 3819, 1153];
        for code in (0..=u16::MAX).filter(|code| !known.contains(code)) {
            assert_ne!(mysql_class(code), Class::Poison, "{code}");
        }
        assert_eq!(mysql_class(12_345), Class::Transient);
        assert_eq!(sqlite_class(1, "near \"x\": syntax error"), Class::Transient);
        assert_eq!(sqlite_class(21, ""), Class::Transient);
    }

    #[test]
    fn each_code_of_sqlite_has_its_class() {
        let table: [(Class, &[i32]); 4] = [
            (Class::Poison, &[19, 18, 20, 275, 1299]),
            (Class::Transient, &[5, 6, 261, 517]),
            (Class::Outage, &[13, 10, 14, 8, 7, 266, 1032]),
            (Class::Operator, &[11, 26, 23, 3]),
        ];
        for (class, codes) in table {
            for code in codes {
                assert_eq!(sqlite_class(*code, ""), class, "{code}");
            }
        }
        assert_eq!(sqlite_class(1, "no such table: reports"), Class::Operator);
        assert_eq!(sqlite_class(1, "table reports has no column named peer"), Class::Operator);
    }

    #[test]
    fn what_a_session_is_refused_blocks_unless_it_is_known_to_pass() {
        let class = |code| SinkError::mysql("setting up the session", code, "").in_set_up().class;
        for code in [1232, 1231, 1193, 1238, 1366, 12_345] {
            assert_eq!(class(code), Class::Operator, "{code}");
        }
        for (code, expected) in [(1205, Class::Transient), (1047, Class::Transient), (1040, Class::Outage)] {
            assert_eq!(class(code), expected, "{code}");
        }
        assert_eq!(SinkError::new(Class::Transient, "").in_set_up().class, Class::Transient);
    }

    #[test]
    fn a_servers_text_cannot_forge_a_log_line() {
        let error = SinkError::mysql("storing", 1366, "Incorrect value: '\n2026 INFO all is well\u{1b}[2J'");
        assert_eq!(error.message, "storing: Incorrect value: '\\n2026 INFO all is well\\u{1b}[2J' (server error 1366)");
        assert!(SinkError::mysql("storing", 1, &"x".repeat(10_000)).message.len() < 500);
    }
}
