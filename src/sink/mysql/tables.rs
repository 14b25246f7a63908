//! The live tables: read in one round trip, brought up to this version where that is asked for, and held against what
//! they must be like.

use std::collections::HashMap;

use mysql_async::Row;
use mysql_async::prelude::Queryable;

use super::read::{integer, text};
use super::shape::{self, Column, Table, UniqueKey};
use super::{MysqlConnection, within};
use crate::config::{SinkTarget, TableName};
use crate::sink::shape::refuse;
use crate::sink::{Class, SinkError, schema};

/// The tables that are there, by name in small letters: a server may keep names so.
pub(super) type Live = HashMap<String, Table>;

/// Another session made the table or column first.
const MADE_BY_ANOTHER: [u32; 2] = [1050, 1060];

/// Reads what the server says of the tables.
pub(super) async fn look(connection: &mut MysqlConnection) -> Result<Live, SinkError> {
    let [tables, columns, keys, triggers] = questions(&connection.table);
    let all = [tables, columns, keys, triggers].join("; ");
    let conn = &mut connection.conn;
    let asking = async {
        let mut answers = conn.query_iter(all).await?;
        let mut sets: Vec<Vec<Row>> = Vec::new();
        while !answers.is_empty() {
            sets.push(answers.collect().await?);
        }
        Ok(sets)
    };
    let sets = within(connection.timeout, "looking at the tables", asking).await?;
    // Reading metadata may have begun a transaction, which would hold locks on it.
    connection.run("looking at the tables", "ROLLBACK").await?;
    let [tables, columns, keys, triggers] = &sets[..] else {
        let text = format!("looking at the tables: the server gave {} answers to 4 questions", sets.len());
        return Err(SinkError::new(Class::Operator, text));
    };
    let mut live: Live = tables.iter().filter_map(table).collect();
    for (row, column) in columns.iter().filter_map(|row| Some((row, column(row)?))) {
        if let Some(table) = of(&mut live, row) {
            table.columns.push(column);
        }
    }
    for row in keys {
        if let Some(table) = of(&mut live, row) {
            add_key_column(table, row);
        }
    }
    for row in triggers {
        if let Some(table) = of(&mut live, row) {
            table.changing_triggers.extend(text(row, 1));
        }
    }
    Ok(live)
}

/// Four queries, each with the table's name first.
fn questions(table: &TableName) -> [String; 4] {
    let names = format!("IN ('{}', '{}', '{}')", table.reports(), table.streams(), table.nodes());
    let of = |schema: &str, table: &str| format!("WHERE {schema} = DATABASE() AND {table} {names}");
    [
        format!(
            "SELECT t.table_name, t.table_type, t.engine, e.transactions FROM information_schema.tables t \
             LEFT JOIN information_schema.engines e ON e.engine = t.engine {}",
            of("t.table_schema", "t.table_name")
        ),
        format!(
            "SELECT table_name, column_name, column_type, is_nullable, column_default IS NOT NULL, extra, \
             character_maximum_length, numeric_precision, numeric_scale, datetime_precision, collation_name \
             FROM information_schema.columns {} ORDER BY ordinal_position",
            of("table_schema", "table_name")
        ),
        format!(
            "SELECT table_name, index_name, column_name, sub_part FROM information_schema.statistics {} \
             AND non_unique = 0 ORDER BY index_name, seq_in_index",
            of("table_schema", "table_name")
        ),
        format!(
            "SELECT event_object_table, trigger_name FROM information_schema.triggers {} \
             AND event_manipulation = 'UPDATE' AND action_timing = 'BEFORE'",
            of("event_object_schema", "event_object_table")
        ),
    ]
}

fn of<'a>(live: &'a mut Live, row: &Row) -> Option<&'a mut Table> {
    live.get_mut(&text(row, 0)?.to_ascii_lowercase())
}

fn table(row: &Row) -> Option<(String, Table)> {
    let has_transactions = text(row, 3).is_some_and(|answer| answer.eq_ignore_ascii_case("YES"));
    let (kind, engine) = (text(row, 1)?, text(row, 2).unwrap_or_default());
    Some((text(row, 0)?.to_ascii_lowercase(), Table { kind, engine, has_transactions, ..Table::default() }))
}

fn column(row: &Row) -> Option<Column> {
    Some(Column {
        name: text(row, 1)?,
        kind: text(row, 2)?.to_ascii_lowercase(),
        is_nullable: text(row, 3)?.eq_ignore_ascii_case("YES"),
        has_default: integer(row, 4) == Some(1),
        extra: text(row, 5).unwrap_or_default().to_ascii_lowercase(),
        length: integer(row, 6),
        precision: integer(row, 7),
        scale: integer(row, 8),
        fraction: integer(row, 9),
        collation: text(row, 10),
    })
}

/// A key comes as a row for each of its columns, one behind the other.
fn add_key_column(table: &mut Table, row: &Row) {
    let Some(name) = text(row, 1) else { return };
    if table.keys.last().is_none_or(|key| key.name != name) {
        table.keys.push(UniqueKey { name, ..UniqueKey::default() });
    }
    if let Some(key) = table.keys.last_mut() {
        key.columns.push(text(row, 2));
        key.is_partial |= integer(row, 3).is_some();
    }
}

/// Makes the tables that are missing, where they may be made, and adds the columns that tables of an earlier version
/// lack; whether anything was done.
pub(super) async fn bring_up(connection: &mut MysqlConnection, live: &Live, make: bool) -> Result<bool, SinkError> {
    let mut statements = shape::upgrades(&connection.table, |name| live.get(&name.to_ascii_lowercase()).cloned());
    if make {
        let names = [connection.table.reports().to_owned(), connection.table.streams(), connection.table.nodes()];
        let all = schema::statements(&SinkTarget::Mysql(String::new()), &connection.table);
        let missing = names.iter().zip(all).filter(|(name, _)| !live.contains_key(&name.to_ascii_lowercase()));
        statements.extend(missing.map(|(_, statement)| statement));
    }
    for statement in &statements {
        match connection.run("making the tables", statement).await {
            Err(error) if error.code.is_some_and(|code| MADE_BY_ANOTHER.contains(&code)) => {}
            Err(error) if error.in_set_up_class() == Class::Operator => {
                let message = format!("{}; what was to be run is: {statement}", error.message);
                return Err(SinkError { message, ..error });
            }
            done => done?,
        }
    }
    Ok(!statements.is_empty())
}

/// Whether the tables can keep what is promised.
///
/// # Errors
/// All that they cannot, each with what mends it.
pub(super) fn check(table: &TableName, live: &Live) -> Result<(), SinkError> {
    let missing = |nth: usize| {
        let all = schema::statements(&SinkTarget::Mysql(String::new()), table);
        all[nth].replace("\n", " ")
    };
    refuse(&shape::faults(table, |name| live.get(&name.to_ascii_lowercase()).cloned(), missing))
}
