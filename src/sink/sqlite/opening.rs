//! What is looked at before a file is gone on with: that it is there, that its `-wal` is its own, and that it has what
//! was stored last.

use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rusqlite::{Connection, params};

use super::file::{KEPT_WAL, Known, Last};
use super::place::{Identity, beside, wal_of};
use super::{classify, integer, wal};
use crate::config::{self, TableName};
use crate::report::{Key, Number};
use crate::sink::{Class, SinkError};

/// Makes sure that there is a file to open; whether it was made now.
pub(super) fn prepare_path(path: &Path, settings: &config::Sink, known: &Known) -> Result<bool, SinkError> {
    let length = match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => return Err(SinkError::new(Class::Outage, "it is no file")),
        Ok(found) => Some(found.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(making("looking for it")(error)),
    };
    if length.unwrap_or(0) > 0 {
        return Ok(false);
    }
    let missing = if length.is_some() { "it is empty" } else { "there is no such file" };
    if known.files.is_some() && cfg!(not(forebay_plant = "begin_anew")) {
        let loss = known.loss.as_ref().map_or(String::new(), |loss| format!(" ({})", loss.text));
        return Err(operator(format!(
            "{missing}, and it was there while this node ran{loss}: put it back; or, to begin with an empty one, stop \
             the node, move what is left beside it away, and start the node again"
        )));
    }
    let wal = wal_of(path);
    if std::fs::metadata(&wal).is_ok_and(|found| found.len() > 0) && cfg!(not(forebay_plant = "begin_anew")) {
        return Err(operator(format!(
            "{missing}, and beside it is {}, which holds what was stored last: put the file back that it belongs to; \
             or, to begin with an empty one, move {} and {} away",
            wal.display(),
            wal.display(),
            beside(path, "-shm").display()
        )));
    }
    make_folder(path).map_err(making("making its folder"))?;
    if !settings.create_tables && length.is_none() {
        let reports = settings.table.reports();
        return Err(operator(format!(
            "{missing}, and create_tables is false: make it with the table {reports} and what else `forebay schema` \
             prints"
        )));
    }
    make_file(path).map_err(making("making it"))?;
    tracing::info!(path = %path.display(), "the SQLite file is made");
    Ok(true)
}

/// Makes the folder of a file, for its owner alone.
fn make_folder(path: &Path) -> std::io::Result<()> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes a file for its owner alone, whatever the umask; SQLite gives those beside it the same mode.
fn make_file(path: &Path) -> std::io::Result<()> {
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file.set_permissions(std::fs::Permissions::from_mode(0o600)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Refuses a file beside a `-wal` that belongs to another state of it, or to another file.
pub(super) fn check_log(
    path: &Path,
    file: &std::fs::File,
    identity: &Identity,
    known: &Known,
) -> Result<(), SinkError> {
    if cfg!(forebay_plant = "any_log") {
        return Ok(());
    }
    let wal = wal_of(path);
    let of_another = known.files.as_ref().is_some_and(|(file, log)| {
        file != identity && log.as_ref().is_some_and(|log| log.is_at(&wal)) && wal::generation(&wal).is_some()
    });
    let stranger = if of_another {
        Some(wal::Stranger::Another)
    } else {
        wal::belongs(file, &wal).map_err(making("reading it and its -wal"))?.err()
    };
    let Some(stranger) = stranger else { return Ok(()) };
    Err(operator(format!(
        "{stranger} ({}): put the file back that belongs to it; or, to go on with the file as it is, move {} and {} away",
        wal.display(),
        wal.display(),
        beside(path, "-shm").display()
    )))
}

/// Refuses a file that lacks the last transaction that was committed: it has nothing of what the former had of that.
pub(super) fn check_last(
    connection: &Connection,
    table: &TableName,
    known: &Known,
    identity: &Identity,
) -> Result<(), SinkError> {
    let found = still_has(connection, table, known.last);
    let found = found.map_err(|error| classify("looking for what was stored last", error))?;
    if known.last == Last::default() || found != Last::default() {
        return Ok(());
    }
    let Last { stream, report } = known.last;
    let id = stream.map(|(id, _)| id).or(report.map(|key| key.id)).expect("what is missing has an id");
    let former = known.files.as_ref().filter(|(former, _)| former != identity);
    let former = former.map_or(String::new(), |(former, _)| format!(" (of the former file, {})", former.whereabouts()));
    Err(operator(format!(
        "it is not as this node left it{former}: what was stored last, for the id {id}, is not in it. Put the file \
         back; or, to go on with this one though it lacks reports, restart the node"
    )))
}

/// What of this a file has.
pub(super) fn still_has(connection: &Connection, table: &TableName, last: Last) -> rusqlite::Result<Last> {
    let (reports, streams) = (table.reports(), table.streams());
    let is_there = |table: &str, condition: &str, values: &[&dyn rusqlite::ToSql]| {
        let tables = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1)";
        if !connection.query_row(tables, [table], |row| row.get::<_, bool>(0))? {
            return Ok(false);
        }
        let select = format!("SELECT EXISTS (SELECT 1 FROM \"{table}\" WHERE {condition})");
        connection.query_row(&select, values, |row| row.get::<_, bool>(0))
    };
    let mut found = Last::default();
    if let Some((id, position)) = last.stream {
        let values = params![id.as_str(), integer(position.0)];
        if is_there(&streams, "id = ?1 AND state_position >= ?2", values)? {
            found.stream = last.stream;
        }
    }
    if let Some(Key { id, number: Number { source, seq } }) = last.report {
        let values = params![id.as_str(), source, integer(seq)];
        if is_there(reports, "id = ?1 AND source = ?2 AND seq = ?3", values)? {
            found.report = last.report;
        }
    }
    Ok(found)
}

pub(super) fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", KEPT_WAL)?;
    // Opens the -wal, too.
    connection.query_row("SELECT COUNT(*) FROM sqlite_master", [], |_| Ok(()))
}

fn operator(message: String) -> SinkError {
    SinkError::new(Class::Operator, message)
}

/// An error of the file system while `doing` something.
pub(super) fn making(doing: &'static str) -> impl Fn(std::io::Error) -> SinkError {
    move |error| SinkError::new(Class::Outage, format!("{doing}: {error}"))
}
