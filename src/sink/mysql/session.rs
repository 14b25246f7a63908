//! What a session needs before its first transaction, and what an operator should know about the server.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mysql_async::Row;
use mysql_async::prelude::Queryable;

use super::{MysqlConnection, clock, read, tables, within};
use crate::sink::SinkError;

/// Explicit, because each of these changes what is stored: characters, instants, whether a value that does not fit is
/// refused or cut, how literals are read, that nothing is committed on its own, and that a `COMMIT` begins nothing.
const SESSION: &str = "SET NAMES utf8mb4, time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,STRICT_TRANS_TABLES,\
    ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', autocommit = 0, completion_type = 0";

/// How long the server lets a statement wait for a lock: no longer than it does by its own settings, and far shorter
/// than `timeout`. So a row that somebody has locked is known as that, and not taken for a server that is silent.
/// MySQL takes a signed integer only, and its `LEAST` gives none (error 1232).
fn lock_waits(timeout: Duration) -> String {
    let seconds = (timeout / 10).as_secs().max(1);
    let limit = |name: &str| format!("{name} = CAST(LEAST(@@{name}, {seconds}) AS SIGNED)");
    format!("{}, {}", limit("innodb_lock_wait_timeout"), limit("lock_wait_timeout"))
}

/// Asked by name, so that a server which lacks one of them answers with the rest.
const VARIABLES: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('binlog_format', \
    'innodb_flush_log_at_trx_commit', 'log_bin', 'max_allowed_packet', 'sql_mode', 'sync_binlog')";

type Variables = HashMap<String, String>;

/// Makes a fresh connection ready: session settings, a look at the tables, the claim, and, once in the life of the
/// process, warnings.
///
/// # Errors
/// What the server refuses, what of the tables cannot keep the promises, whose the claim is.
pub(super) async fn prepare(connection: &mut MysqlConnection) -> Result<(), SinkError> {
    set_up(connection).await.map_err(SinkError::in_set_up)
}

async fn set_up(connection: &mut MysqlConnection) -> Result<(), SinkError> {
    let session = format!("{SESSION}, {}", lock_waits(connection.timeout));
    connection.run("setting up the session", &session).await?;
    clock::measure(connection).await?;
    let query = connection.conn.query::<Row, _>(VARIABLES);
    let rows = within(connection.timeout, "reading the server's settings", query).await?;
    let variables: Variables = rows.iter().filter_map(|row| Some((read::text(row, 0)?, read::text(row, 1)?))).collect();
    if let Some(limit) = variables.get("max_allowed_packet").and_then(|text| text.parse().ok()) {
        connection.max_packet = limit;
    }
    if !statement_binlog(&variables) {
        let isolation = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
        connection.run("setting the isolation level", isolation).await?;
    }
    let shared = Arc::clone(&connection.shared);
    if shared.writes {
        inspect(connection).await?;
        if !shared.inspected.swap(true, Ordering::Relaxed) {
            for warning in warnings(&variables) {
                tracing::warn!(setting = warning.setting, value = warning.value, "sink: {}", warning.risk);
            }
        }
    }
    Ok(())
}

/// Looks at the live tables, and takes the claim or sees that it is held.
///
/// Tables are made where they are missing by the first connection of the process, which may come long after its start.
/// A table that vanishes later is a matter for a person: an empty one in its place would take replayed reports a second
/// time. They are not made blindly, so that a user without the right to make tables can use those that are there.
///
/// # Errors
/// As [`prepare`].
pub(super) async fn inspect(connection: &mut MysqlConnection) -> Result<(), SinkError> {
    let shared = Arc::clone(&connection.shared);
    let mut live = tables::look(connection).await?;
    if shared.settings.create_tables {
        let first = !shared.inspected.load(Ordering::Relaxed);
        if tables::bring_up(connection, &live, first).await? {
            live = tables::look(connection).await?;
        }
    }
    tables::check(&connection.table, &live)?;
    if let Some(claim) = shared.claim.get() {
        connection.take_claim(claim).await?;
    }
    Ok(())
}

/// A server that logs statements refuses row changes below REPEATABLE READ.
fn statement_binlog(variables: &Variables) -> bool {
    let is = |name: &str, value: &str| variables.get(name).is_some_and(|found| found.eq_ignore_ascii_case(value));
    is("log_bin", "ON") && is("binlog_format", "STATEMENT")
}

/// A setting of the server under which a promise does not hold.
#[derive(Debug, PartialEq, Eq)]
struct Warning {
    setting: &'static str,
    value: String,
    risk: &'static str,
}

fn warnings(variables: &Variables) -> Vec<Warning> {
    let value = |name: &str| variables.get(name).cloned().unwrap_or_default();
    let mut warnings = Vec::new();
    let mut warn = |setting, value, risk| warnings.push(Warning { setting, value, risk });
    if value("innodb_flush_log_at_trx_commit") != "1" {
        let risk = "a crash of the server can lose transactions that it has committed, and with them reports that are \
                    no longer in the journal; set it to 1";
        warn("innodb_flush_log_at_trx_commit", value("innodb_flush_log_at_trx_commit"), risk);
    }
    if value("log_bin").eq_ignore_ascii_case("ON") && value("sync_binlog") != "1" {
        let risk = "a crash of the server can lose committed transactions from its binlog, and replicas then miss \
                    reports; set it to 1";
        warn("sync_binlog", value("sync_binlog"), risk);
    }
    let mode = value("sql_mode");
    if !mode.split(',').any(|mode| matches!(mode, "STRICT_ALL_TABLES" | "STRICT_TRANS_TABLES")) {
        let risk = "other clients of this server can store values that were cut to fit (Forebay's own sessions are \
                    strict); add STRICT_TRANS_TABLES";
        warn("sql_mode", mode, risk);
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_durable_strict_server_gives_no_warning() {
        let mut sound = variables(&[
            ("innodb_flush_log_at_trx_commit", "1"),
            ("log_bin", "OFF"),
            ("sync_binlog", "0"),
            ("sql_mode", "STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION"),
        ]);
        assert_eq!(warnings(&sound), []);
        sound.insert("log_bin".to_owned(), "ON".to_owned());
        let settings: Vec<_> = warnings(&sound).iter().map(|warning| warning.setting).collect();
        assert_eq!(settings, ["sync_binlog"]);
    }

    #[test]
    fn each_risky_setting_is_named_with_its_value() {
        let risky = variables(&[("innodb_flush_log_at_trx_commit", "2"), ("sql_mode", "ANSI")]);
        let named: Vec<_> = warnings(&risky).into_iter().map(|w| (w.setting, w.value)).collect();
        let expected = [("innodb_flush_log_at_trx_commit", "2"), ("sql_mode", "ANSI")];
        assert_eq!(named, expected.map(|(setting, value)| (setting, value.to_owned())));
    }

    #[test]
    fn isolation_is_left_alone_only_where_statements_are_logged() {
        assert!(statement_binlog(&variables(&[("log_bin", "ON"), ("binlog_format", "STATEMENT")])));
        assert!(!statement_binlog(&variables(&[("log_bin", "OFF"), ("binlog_format", "STATEMENT")])));
        assert!(!statement_binlog(&variables(&[("log_bin", "ON"), ("binlog_format", "ROW")])));
        assert!(!statement_binlog(&variables(&[])));
    }
}
