//! What the live tables must be like. Pure: what the server says of them in, faults out.

use crate::config::TableName;
use crate::sink::shape::{Fault, foreign};

/// A table as the server describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// `BASE TABLE`, `VIEW` or another.
    pub kind: String,
    pub engine: String,
    pub has_transactions: bool,
    pub columns: Vec<Column>,
    pub keys: Vec<UniqueKey>,
    /// Triggers that may change a row that is there already.
    pub changing_triggers: Vec<String>,
}

/// A column.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Column {
    pub name: String,
    /// In small letters, such as `bigint(20) unsigned`.
    pub kind: String,
    pub is_nullable: bool,
    pub has_default: bool,
    /// In small letters: `auto_increment`, `stored generated` and others.
    pub extra: String,
    /// Characters, or bytes of a column without characters.
    pub length: Option<u64>,
    pub precision: Option<u64>,
    pub scale: Option<u64>,
    /// Digits of a second's fraction.
    pub fraction: Option<u64>,
    pub collation: Option<String>,
}

/// A unique key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UniqueKey {
    pub name: String,
    /// An expression has no name.
    pub columns: Vec<Option<String>>,
    /// Whether it takes the beginning of a column only.
    pub is_partial: bool,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Id,
    /// Integers from the first to the second.
    Integer(i128, i128),
    Seconds,
    /// Text of so many characters.
    Text(u64),
    Json,
    Instant,
    /// So many bytes, or none.
    Bytes(u64),
}

/// A column that a table must have, and the words that make it.
struct Wanted {
    name: &'static str,
    holds: Holds,
    ddl: &'static str,
}

const fn wanted(name: &'static str, holds: Holds, ddl: &'static str) -> Wanted {
    Wanted { name, holds, ddl }
}

const NUMBER: Holds = Holds::Integer(0, (1 << 53) - 1);
/// Also negative is all that a signed column may be: a count stays far below.
const RANDOM: Holds = Holds::Integer(0, u64::MAX as i128);
const ID: Wanted = wanted("id", Holds::Id, "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL");

const REPORTS: &[Wanted] = &[
    ID,
    wanted("source", Holds::Integer(0, 65_535), "SMALLINT UNSIGNED NOT NULL"),
    wanted("seq", NUMBER, "BIGINT UNSIGNED NOT NULL"),
    wanted("time", Holds::Seconds, "DECIMAL(17,6) NULL"),
    wanted("code", Holds::Integer(i32::MIN as i128, i32::MAX as i128), "INT NOT NULL DEFAULT 0"),
    wanted("peer", Holds::Text(45), "VARCHAR(45) CHARACTER SET ascii COLLATE ascii_bin NULL"),
    wanted("data", Holds::Json, "JSON NULL"),
    wanted("accepted_at", Holds::Instant, "DATETIME(6) NOT NULL"),
    wanted("digest", Holds::Bytes(16), "BINARY(16) NULL"),
];

const STREAMS: &[Wanted] = &[
    ID,
    wanted("state", Holds::Text(12), "ENUM('open','done','disconnected') NOT NULL DEFAULT 'open'"),
    wanted("reports", NUMBER, "BIGINT UNSIGNED NOT NULL DEFAULT 0"),
    wanted("first_at", Holds::Instant, "DATETIME(6) NOT NULL"),
    wanted("last_at", Holds::Instant, "DATETIME(6) NOT NULL"),
    wanted("state_position", NUMBER, "BIGINT UNSIGNED NOT NULL DEFAULT 0"),
    wanted("settled", Holds::Bytes(240), "VARBINARY(240) NULL"),
];

const NODES: &[Wanted] = &[
    wanted("node_id", Holds::Integer(0, 65_535), "SMALLINT UNSIGNED NOT NULL"),
    wanted("journal", RANDOM, "BIGINT UNSIGNED NOT NULL"),
    wanted("start", NUMBER, "BIGINT UNSIGNED NOT NULL"),
    wanted("nonce", RANDOM, "BIGINT UNSIGNED NOT NULL"),
    wanted("claimed_at", Holds::Instant, "DATETIME(6) NOT NULL"),
];

/// Columns that earlier versions did not make.
const ADDED: [&str; 2] = ["digest", "settled"];

/// What is wanted of each table: its columns, and the key that alone makes a row unique.
fn all_wanted(table: &TableName) -> [(String, &'static [Wanted], &'static [&'static str]); 3] {
    [
        (table.reports().to_owned(), REPORTS, &["id", "source", "seq"]),
        (table.streams(), STREAMS, &["id"]),
        (table.nodes(), NODES, &["node_id"]),
    ]
}

/// Statements that bring tables of an earlier version up to this one.
pub(super) fn upgrades(table: &TableName, find: impl Fn(&str) -> Option<Table>) -> Vec<String> {
    let mut statements = Vec::new();
    for (name, columns, key) in all_wanted(table) {
        let Some(live) = find(&name) else { continue };
        if live.kind != BASE_TABLE || key.iter().any(|column| live.column(column).is_none()) {
            continue;
        }
        let missing =
            columns.iter().filter(|wanted| ADDED.contains(&wanted.name) && live.column(wanted.name).is_none());
        statements.extend(missing.map(|wanted| add_column(&name, wanted)));
    }
    statements
}

fn add_column(table: &str, wanted: &Wanted) -> String {
    format!("ALTER TABLE `{table}` ADD COLUMN `{}` {}", wanted.name, wanted.ddl)
}

const BASE_TABLE: &str = "BASE TABLE";

/// Everything that keeps the tables from what is promised. `missing` gives the statement that makes a table.
pub(super) fn faults(
    table: &TableName,
    find: impl Fn(&str) -> Option<Table>,
    missing: impl Fn(usize) -> String,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (nth, (name, columns, key)) in all_wanted(table).into_iter().enumerate() {
        match find(&name) {
            None => faults.push(Fault {
                found: format!("there is no table `{name}`"),
                needed: "Forebay makes tables at its start only, and with create_tables".to_owned(),
                mend: missing(nth),
            }),
            Some(live) => of_table(&name, &live, columns, key, &mut faults),
        }
    }
    faults
}

fn of_table(name: &str, live: &Table, columns: &[Wanted], key: &[&str], faults: &mut Vec<Fault>) {
    let lacks: Vec<&str> = key.iter().copied().filter(|column| live.column(column).is_none()).collect();
    if live.kind != BASE_TABLE {
        return faults.push(Fault {
            found: format!("`{name}` is a {}", live.kind.to_ascii_lowercase()),
            needed: "it must be a table: rows are counted as they are inserted".to_owned(),
            mend: "set sink.table to another name, whose tables are then made".to_owned(),
        });
    }
    if !lacks.is_empty() {
        return faults.push(foreign(&format!("the table `{name}`"), &lacks));
    }
    if !live.has_transactions {
        faults.push(Fault {
            found: format!("`{name}` has the engine {}", live.engine),
            needed: "a transaction is stored whole or not at all, which needs an engine with transactions".to_owned(),
            mend: format!("ALTER TABLE `{name}` ENGINE=InnoDB"),
        });
    }
    of_columns(name, live, columns, faults);
    of_keys(name, live, key, faults);
    faults.extend(live.changing_triggers.iter().map(|trigger| Fault {
        found: format!("`{name}` has the trigger `{trigger}` before updates"),
        needed: "a row that is there already must stay as it is, or it counts as a new one".to_owned(),
        mend: format!("DROP TRIGGER `{trigger}`, or make it AFTER UPDATE"),
    }));
}

fn of_columns(name: &str, live: &Table, columns: &[Wanted], faults: &mut Vec<Fault>) {
    for wanted in columns {
        let Some(column) = live.column(wanted.name) else {
            faults.push(Fault {
                found: format!("`{name}` has no column `{}`", wanted.name),
                needed: "Forebay writes it".to_owned(),
                mend: add_column(name, wanted),
            });
            continue;
        };
        if let Some(needed) = misfit(wanted, column) {
            let collation = column.collation.as_ref().map(|collation| format!(" {collation}")).unwrap_or_default();
            let null = if column.is_nullable { "" } else { " NOT NULL" };
            faults.push(Fault {
                found: format!("`{name}`.`{}` is {}{collation}{null} {}", column.name, column.kind, column.extra)
                    .trim_end()
                    .to_owned(),
                needed: needed.to_owned(),
                mend: format!("ALTER TABLE `{name}` MODIFY `{}` {}", column.name, wanted.ddl),
            });
        }
    }
    let is_ours = |column: &Column| columns.iter().any(|wanted| wanted.name.eq_ignore_ascii_case(&column.name));
    for column in live.columns.iter().filter(|column| !is_ours(column) && column.must_be_given()) {
        faults.push(Fault {
            found: format!("`{name}`.`{}` is NOT NULL without a default", column.name),
            needed: "Forebay gives it no value, so each row would be refused".to_owned(),
            mend: format!("ALTER TABLE `{name}` MODIFY `{}` {} NULL", column.name, column.kind),
        });
    }
}

fn of_keys(name: &str, live: &Table, key: &[&str], faults: &mut Vec<Fault>) {
    let drop = |unique: &UniqueKey| match unique.name.as_str() {
        "PRIMARY" => format!("ALTER TABLE `{name}` DROP PRIMARY KEY"),
        other => format!("ALTER TABLE `{name}` DROP INDEX `{other}`"),
    };
    let columns = key.join(", ");
    let is_key = |unique: &&UniqueKey| unique.is_over(key) && live.never_null(key);
    if live.keys.iter().find(is_key).is_none() {
        let how = match live.keys.iter().find(|unique| unique.name == "PRIMARY") {
            None => "ADD PRIMARY KEY",
            Some(primary) if live.counts_by_itself(primary) => "ADD UNIQUE KEY",
            Some(_) => "DROP PRIMARY KEY, ADD PRIMARY KEY",
        };
        faults.push(Fault {
            found: format!("`{name}` has no unique key over exactly ({columns}), without NULL; {}", live.keys_shown()),
            needed: "it alone may tell a report that is there from one that is new".to_owned(),
            mend: format!("ALTER TABLE `{name}` {how} ({columns})"),
        });
    }
    let harms = |unique: &&UniqueKey| !unique.holds(key) && !live.counts_by_itself(unique);
    let is_the_primary = |unique: &UniqueKey| unique.name == "PRIMARY" && !live.keys.iter().any(|other| is_key(&other));
    for unique in live.keys.iter().filter(harms).filter(|unique| !is_the_primary(unique)) {
        faults.push(Fault {
            found: format!("`{name}` has another unique key, {}", unique.shown()),
            needed: "with it a report whose value in it is taken counts as a duplicate, and is gone".to_owned(),
            mend: format!("{} (or make it not unique)", drop(unique)),
        });
    }
}

impl Table {
    fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name))
    }

    fn never_null(&self, key: &[&str]) -> bool {
        key.iter().all(|name| self.column(name).is_some_and(|column| !column.is_nullable))
    }

    /// Whether the key is over a number that the server counts up itself, so that it refuses no row.
    fn counts_by_itself(&self, unique: &UniqueKey) -> bool {
        let column = match &unique.columns[..] {
            [Some(only)] => self.column(only),
            _ => None,
        };
        column.is_some_and(|column| column.extra.contains("auto_increment"))
    }

    fn keys_shown(&self) -> String {
        let keys: Vec<_> = self.keys.iter().map(UniqueKey::shown).collect();
        if keys.is_empty() { "it has none at all".to_owned() } else { format!("it has {}", keys.join(", ")) }
    }
}

impl UniqueKey {
    fn names(&self, name: &str) -> bool {
        self.columns.iter().flatten().any(|column| column.eq_ignore_ascii_case(name))
    }

    /// Whether it is over exactly these columns.
    fn is_over(&self, key: &[&str]) -> bool {
        self.columns.len() == key.len() && self.holds(key)
    }

    /// Whether it is over all of these columns, whole; then it refuses nothing that a key over exactly them takes.
    fn holds(&self, key: &[&str]) -> bool {
        !self.is_partial && key.iter().all(|name| self.names(name))
    }

    fn shown(&self) -> String {
        let columns: Vec<_> = self.columns.iter().map(|name| name.as_deref().unwrap_or("an expression")).collect();
        let partly = if self.is_partial { ", of some only the beginning" } else { "" };
        format!("`{}` ({}{partly})", self.name, columns.join(", "))
    }
}

impl Column {
    fn must_be_given(&self) -> bool {
        let by_itself = self.extra.contains("auto_increment") || self.extra.contains("generated");
        !self.is_nullable && !self.has_default && !by_itself
    }

    /// The type's name, such as `bigint`.
    fn base(&self) -> &str {
        self.kind.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default()
    }

    fn is_unsigned(&self) -> bool {
        self.kind.contains("unsigned")
    }

    fn holds_integers(&self, least: i128, most: i128) -> bool {
        let bits = match self.base() {
            "tinyint" => 8,
            "smallint" => 16,
            "mediumint" => 24,
            "int" => 32,
            "bigint" => 64,
            _ => return false,
        };
        let (min, max) = if self.is_unsigned() {
            (0, (1_i128 << bits) - 1)
        } else {
            (-(1_i128 << (bits - 1)), (1 << (bits - 1)) - 1)
        };
        min <= least && most <= max
    }

    fn has_room(&self, most: u64) -> bool {
        self.length.is_some_and(|length| length >= most)
    }

    fn collates(&self, with: &[&str]) -> bool {
        self.collation.as_deref().is_some_and(|collation| with.iter().any(|start| collation.starts_with(start)))
    }
}

/// What is needed of the column, where it is not that.
fn misfit(wanted: &Wanted, column: &Column) -> Option<&'static str> {
    // MySQL calls a default that is an expression `DEFAULT_GENERATED`.
    if column.extra.contains(" generated") {
        return Some("Forebay writes it, so the server must not make it up");
    }
    if wanted.ddl.ends_with(" NULL") && !wanted.ddl.ends_with("NOT NULL") && !column.is_nullable {
        return Some("it must take NULL, for a report that has none");
    }
    let (fits, needed) = match wanted.holds {
        Holds::Id => return misfit_of_id(column),
        Holds::Integer(least, most) => {
            (column.holds_integers(least, most), "it must be an integer that holds all values that Forebay writes")
        }
        Holds::Seconds => {
            let (precision, scale) = (column.precision.unwrap_or(0), column.scale.unwrap_or(0));
            let fits = column.base() == "decimal" && !column.is_unsigned() && scale >= 6 && precision >= scale + 11;
            (fits, "it must be a signed decimal with 11 digits before the point and 6 behind it")
        }
        Holds::Text(most) => {
            let is_text = matches!(column.base(), "varchar" | "char" | "enum" | "text" | "mediumtext" | "longtext");
            let states = column.base() != "enum"
                || ["'open'", "'done'", "'disconnected'"].iter().all(|state| column.kind.contains(state));
            (is_text && states && column.has_room(most), "it must hold every text that Forebay writes")
        }
        Holds::Json => {
            let is_text = matches!(column.base(), "mediumtext" | "longtext");
            let fits = matches!(column.base(), "json" | "mediumblob" | "longblob")
                || is_text && column.collates(&["utf8mb4_", "utf16", "utf32", "uca1400_", "gb18030_"]);
            (fits, "it must hold every character, in up to 96 KiB")
        }
        Holds::Instant => {
            let fits = column.base() == "datetime" && column.fraction == Some(6);
            (fits, "it must be a DATETIME with microseconds")
        }
        Holds::Bytes(most) => {
            let is_bytes = matches!(column.base(), "varbinary" | "blob" | "mediumblob" | "longblob")
                || column.base() == "binary" && column.length == Some(most);
            (is_bytes && column.has_room(most), "it must hold that many bytes")
        }
    };
    (!fits).then_some(needed)
}

fn misfit_of_id(column: &Column) -> Option<&'static str> {
    match column.base() {
        // `BINARY` adds zero bytes to what it is given.
        "varbinary" if column.has_room(64) => None,
        "varchar" | "char" if !column.has_room(64) => Some("it must hold 64 characters"),
        "varchar" | "char" => {
            let tells_apart = column.collation.as_deref().is_some_and(|collation| collation.ends_with("_bin"));
            (!tells_apart)
                .then_some("its collation must tell `Gate` from `gate`, which are two ids: one that ends in _bin")
        }
        _ => Some("it must be a text of 64 characters"),
    }
}
