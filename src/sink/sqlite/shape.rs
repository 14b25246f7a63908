//! What the tables of an SQLite file must be like: read from the file, and held against that.

use rusqlite::{Connection, OptionalExtension as _};

use crate::config::{SinkTarget, TableName};
use crate::sink::SinkError;
use crate::sink::schema;
use crate::sink::shape::{Fault, foreign, refuse};

use super::classify;

/// Columns that a table must have; those of text with `true`, which numbers would bend.
const REPORTS: &[(&str, bool)] = &[
    ("id", true),
    ("source", false),
    ("seq", false),
    ("time", false),
    ("code", false),
    ("peer", true),
    ("data", true),
    ("accepted_at", true),
    ("digest", false),
    ("time_us", false),
];
const STREAMS: &[(&str, bool)] = &[
    ("id", true),
    ("state", true),
    ("reports", false),
    ("first_at", true),
    ("last_at", true),
    ("state_position", false),
    ("settled", false),
];
const NODES: &[(&str, bool)] =
    &[("node_id", false), ("journal", true), ("start", true), ("nonce", true), ("claimed_at", true)];

/// What makes a row of each unique.
const KEYS: [&[&str]; 3] = [&["id", "source", "seq"], &["id"], &["node_id"]];

struct Column {
    name: String,
    kind: String,
    must_be_given: bool,
}

struct UniqueKey {
    name: String,
    /// An expression has no name.
    columns: Vec<(Option<String>, String)>,
    is_partial: bool,
}

/// Whether what has the names of the tables is Forebay's, as far as it is there: nothing else is changed.
///
/// # Errors
/// What is not.
pub(super) fn check_kind(connection: &Connection, table: &TableName) -> Result<(), SinkError> {
    let looking = |error| classify("looking at the tables", error).not_for_a_report();
    let mut faults = Vec::new();
    for (name, key) in names(table).iter().zip(KEYS) {
        if let Some(kind) = kind(connection, name).map_err(looking)? {
            faults.extend(of_kind(connection, name, &kind, key).map_err(looking)?);
        }
    }
    refuse(&faults)
}

fn names(table: &TableName) -> [String; 3] {
    [table.reports().to_owned(), table.streams(), table.nodes()]
}

/// `table` or `view`; none where there is neither.
fn kind(connection: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    let kind = "SELECT type FROM sqlite_master WHERE name = ?1 COLLATE NOCASE AND type IN ('table', 'view')";
    connection.query_row(kind, [name], |row| row.get(0)).optional()
}

fn of_kind(connection: &Connection, name: &str, kind: &str, key: &[&str]) -> rusqlite::Result<Option<Fault>> {
    if kind != "table" {
        return Ok(Some(Fault {
            found: format!("{name} is a {kind}"),
            needed: "it must be a table: rows are counted as they are inserted".to_owned(),
            mend: "set sink.table to another name, whose tables are then made".to_owned(),
        }));
    }
    let columns = columns(connection, name)?;
    let has = |wanted: &str| columns.iter().any(|column| column.name.eq_ignore_ascii_case(wanted));
    let lacks: Vec<&str> = key.iter().copied().filter(|column| !has(column)).collect();
    Ok((!lacks.is_empty()).then(|| foreign(&format!("the table {name}"), &lacks)))
}

/// Whether the tables can keep what is promised.
///
/// # Errors
/// All that they cannot, each with what mends it.
pub(super) fn check(connection: &Connection, target: &SinkTarget, table: &TableName) -> Result<(), SinkError> {
    let names = names(table);
    let statements = schema::statements(target, table);
    let mut faults = Vec::new();
    for (((name, statement), columns), key) in names.iter().zip(statements).zip([REPORTS, STREAMS, NODES]).zip(KEYS) {
        of_table(connection, name, &statement, columns, key, &mut faults)
            .map_err(|error| classify("looking at the tables", error).not_for_a_report())?;
    }
    refuse(&faults)
}

fn of_table(
    connection: &Connection,
    name: &str,
    statement: &str,
    wanted: &[(&str, bool)],
    key: &[&str],
    faults: &mut Vec<Fault>,
) -> rusqlite::Result<()> {
    let anew = format!("rename it; what makes it anew is {}", statement.replace('\n', " "));
    let mut fault = |found: String, needed: &str, mend: String| {
        faults.push(Fault { found, needed: needed.to_owned(), mend });
    };
    let Some(kind) = kind(connection, name)? else {
        let needed = "Forebay makes tables at its start only, and with create_tables";
        fault(format!("there is no table {name}"), needed, statement.replace('\n', " "));
        return Ok(());
    };
    if let Some(fault) = of_kind(connection, name, &kind, key)? {
        faults.push(fault);
        return Ok(());
    }
    let columns = columns(connection, name)?;
    let find = |wanted: &str| columns.iter().find(|column| column.name.eq_ignore_ascii_case(wanted));
    for (column, is_text) in wanted {
        match find(column) {
            None => fault(format!("{name} has no column {column}"), "Forebay writes it", anew.clone()),
            Some(found) if *is_text && found.bends_text() => {
                let needed = "it must be TEXT: another type takes 007 for 7, and writes numbers anew";
                fault(format!("{name}.{column} is {}", found.kind), needed, anew.clone());
            }
            Some(_) => {}
        }
    }
    let others =
        columns.iter().filter(|column| !wanted.iter().any(|(name, _)| name.eq_ignore_ascii_case(&column.name)));
    for column in others.filter(|column| column.must_be_given) {
        let needed = "Forebay gives it no value, so each row would be refused";
        fault(format!("{name}.{} is NOT NULL without a default", column.name), needed, anew.clone());
    }
    let keys = unique_keys(connection, name)?;
    let is_by_row_id = key.len() == 1 && find(key[0]).is_some_and(|column| column.kind.eq_ignore_ascii_case("INTEGER"));
    if !is_by_row_id && !keys.iter().any(|unique| unique.is_over(key)) {
        let needed = "it alone may tell a report that is there from one that is new, and `Gate` from `gate`";
        let found = format!("{name} has no unique key over exactly ({}) that compares bytes", key.join(", "));
        fault(found, needed, anew.clone());
    }
    for unique in keys.iter().filter(|unique| !unique.holds(key)) {
        let columns: Vec<_> =
            unique.columns.iter().map(|(name, _)| name.as_deref().unwrap_or("an expression")).collect();
        let needed = "with it a report whose value in it is taken counts as a duplicate, or is refused";
        let mend = if unique.name.starts_with("sqlite_autoindex") {
            anew.clone()
        } else {
            format!("DROP INDEX \"{}\"", unique.name)
        };
        fault(format!("{name} has another unique key, {} ({})", unique.name, columns.join(", ")), needed, mend);
    }
    Ok(())
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Column>> {
    let query = "SELECT name, type, \"notnull\", dflt_value IS NOT NULL, pk, hidden FROM pragma_table_xinfo(?1)";
    let column = |row: &rusqlite::Row<'_>| {
        let (not_null, has_default, pk, hidden): (bool, bool, i64, i64) =
            (row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?);
        let kind: String = row.get(1)?;
        // The one column that is another name of the row's number fills itself.
        let by_itself = pk > 0 && kind.eq_ignore_ascii_case("INTEGER");
        let must_be_given = not_null && !has_default && hidden == 0 && !by_itself;
        Ok(Column { name: row.get(0)?, kind, must_be_given })
    };
    connection.prepare(query)?.query_map([table], column)?.collect()
}

fn unique_keys(connection: &Connection, table: &str) -> rusqlite::Result<Vec<UniqueKey>> {
    let query = "SELECT name, partial FROM pragma_index_list(?1) WHERE \"unique\" = 1";
    let key = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let keys: Vec<(String, bool)> = connection.prepare(query)?.query_map([table], key)?.collect::<Result<_, _>>()?;
    let columns = |name: &str| -> rusqlite::Result<_> {
        let query = "SELECT name, coll FROM pragma_index_xinfo(?1) WHERE key = 1";
        let column = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        connection.prepare(query)?.query_map([name], column)?.collect()
    };
    let key = |(name, is_partial): (String, bool)| Ok(UniqueKey { columns: columns(&name)?, name, is_partial });
    keys.into_iter().map(key).collect()
}

impl UniqueKey {
    /// Whether it is over exactly these columns, and tells all values of them apart.
    fn is_over(&self, key: &[&str]) -> bool {
        self.columns.len() == key.len() && self.holds(key) && self.columns.iter().all(|(_, coll)| coll == "BINARY")
    }

    /// Whether it is over all of these columns; then it refuses nothing that a key over exactly them takes.
    fn holds(&self, key: &[&str]) -> bool {
        let names = |wanted: &str| {
            self.columns.iter().any(|(name, _)| name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(wanted)))
        };
        !self.is_partial && key.iter().all(|wanted| names(wanted))
    }
}

impl Column {
    /// Whether the column's affinity makes numbers of text that looks like one, by SQLite's rules.
    fn bends_text(&self) -> bool {
        let kind = self.kind.to_ascii_uppercase();
        let has = |part: &str| kind.contains(part);
        if has("INT") {
            return true;
        }
        let keeps = has("CHAR") || has("CLOB") || has("TEXT") || has("BLOB") || has("ANY") || kind.is_empty();
        !keeps
    }
}
