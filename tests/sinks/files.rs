//! What can happen to the file of the embedded sink.

use std::sync::Arc;
use std::time::Duration;

use forebay::report::{Id, Marker, Report};
use forebay::sink::{Class, Health, Sink as _, SinkState, Writer, readback};

use super::outcome;
use super::sinks::{Rig, batch, body, marker, plain, report, with_data};

#[tokio::test]
async fn a_file_that_another_process_has_locked_is_waited_for() {
    let mut rig = Rig::sqlite().await;
    rig.settings.timeout = Duration::from_millis(1);
    let mut writer = rig.writer();
    writer.ready().await;
    let other = rig.file();
    other.execute_batch("BEGIN IMMEDIATE").expect("the file is free");
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(1, 1)])]).await });
    while rig.health.retries(Class::Transient) == 0 {
        tokio::task::yield_now().await;
    }
    other.execute_batch("ROLLBACK").expect("lets go");
    assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
}

/// The transaction that waited for the lock was committed into the file that the new one had been moved over.
#[tokio::test]
async fn what_waits_for_the_lock_of_a_compaction_is_stored_in_the_compacted_file() {
    for round in 0..3 {
        let rig = Rig::sqlite().await;
        let mut writer = rig.writer();
        writer.store(&[batch("a", vec![report(1, 1)])]).await;
        let other = rig.file();
        other.execute_batch("BEGIN IMMEDIATE").expect("the file is free");
        let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(2, 2)])]).await });
        // It waits for the lock by then, or it will not see the old file at all; either is to end well.
        tokio::time::sleep(Duration::from_millis(100 * round)).await;
        let compacted = rig.beside(".new");
        rig.file().execute("VACUUM INTO ?1", [compacted.to_str()]).expect("it can be read meanwhile");
        std::fs::rename(&compacted, rig.path()).expect("renamed");
        for ending in ["-wal", "-shm"] {
            std::fs::remove_file(rig.beside(ending)).expect("removed");
        }
        drop(other);
        assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
        assert_eq!(rig.rows("a").await.len(), 2, "round {round}");
    }
}

/// SQLite itself writes on to a file that has no name any more.
#[tokio::test]
async fn a_file_that_was_removed_is_not_made_again_but_waited_for_and_can_be_had_back_from_the_process() {
    let rig = Rig::sqlite().await;
    let mut writer = rig.writer();
    writer.store(&[batch("a", vec![report(1, 1)])]).await;
    std::fs::remove_dir_all(rig.path().parent().expect("a folder")).expect("removed");
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(2, 2)])]).await });
    let error = rig.blocked().await;
    assert!(!rig.path().exists(), "an empty file took its place");
    let bytes = error.split_whitespace().find(|word| word.starts_with("/proc/")).expect("where its bytes are");
    std::fs::create_dir_all(rig.path().parent().expect("a folder")).expect("made");
    std::fs::copy(bytes, rig.path()).expect("its bytes are there");
    assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
    assert_eq!(rig.rows("a").await.len(), 2);
}

/// Only people know what it means that it is not there: the next start begins anew, this one does not.
#[tokio::test]
async fn a_start_without_any_file_makes_one() {
    let rig = Rig::sqlite().await;
    rig.writer().store(&[batch("a", vec![report(1, 1)])]).await;
    std::fs::remove_dir_all(rig.path().parent().expect("a folder")).expect("removed");
    assert_eq!(rig.writer().store(&[batch("a", vec![report(2, 2)])]).await, [outcome(1, 0, None)]);
    assert_eq!(rig.rows("a").await.len(), 1);
}

/// The node was `blocked` until its restart: what it knew the file by was gone. Totals begin anew then.
#[tokio::test]
async fn a_compaction_of_a_file_whose_streams_a_consumer_removed_is_gone_on_with() {
    for removed in [&["report_streams"][..], &["report_streams", "reports"]] {
        let rig = Rig::sqlite().await;
        let mut writer = rig.writer();
        writer.store(&[batch("a", vec![report(1, 1)])]).await;
        removed.iter().for_each(|table| rig.file().execute_batch(&format!("DELETE FROM {table}")).expect("removed"));
        compact(&rig);
        let marked = [batch("a", vec![report(2, 2), marker(3, Marker::Done)])];
        tokio::select! {
            stored = writer.store(&marked) => assert_eq!(stored, [outcome(1, 0, Some(1))]),
            why = rig.blocked() => panic!("{removed:?}: {why}"),
        }
        // And where they are removed after it, before the node looks again.
        compact(&rig);
        rig.file().execute_batch("DELETE FROM report_streams").expect("removed");
        let further = [batch("a", vec![report(4, 4)])];
        tokio::select! {
            stored = writer.store(&further) => assert_eq!(stored, [outcome(1, 0, None)]),
            why = rig.blocked() => panic!("{removed:?}: {why}"),
        }
    }
}

/// With the lock, as by the book.
fn compact(rig: &Rig) {
    let other = rig.file();
    other.execute_batch("BEGIN IMMEDIATE").expect("the file is free");
    let compacted = rig.beside(".new");
    rig.file().execute("VACUUM INTO ?1", [compacted.to_str()]).expect("it can be read meanwhile");
    std::fs::rename(&compacted, rig.path()).expect("renamed");
    for ending in ["-wal", "-shm"] {
        std::fs::remove_file(rig.beside(ending)).expect("removed");
    }
}

/// A copy that was made without the lock, or an earlier backup: what was stored since is not in it.
#[tokio::test]
async fn a_file_that_lacks_what_was_stored_last_is_not_gone_on_with() {
    let rig = Rig::sqlite().await;
    let mut writer = rig.writer();
    writer.store(&[batch("a", vec![report(1, 1)])]).await;
    let copy = rig.beside(".copy");
    rig.file().execute("VACUUM INTO ?1", [copy.to_str()]).expect("copied");
    writer.store(&[batch("a", vec![report(2, 2)])]).await;
    let right = rig.beside(".right");
    std::fs::hard_link(rig.path(), &right).expect("linked");
    for ending in ["-wal", "-shm"] {
        std::fs::rename(rig.beside(ending), rig.beside(&format!("{ending}.right"))).expect("renamed");
    }
    std::fs::rename(&copy, rig.path()).expect("renamed");
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(3, 3)])]).await });
    let error = rig.blocked().await;
    assert!(error.contains("what was stored last"), "{error}");
    for ending in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(rig.beside(ending));
    }
    std::fs::rename(&right, rig.path()).expect("put back");
    assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
    assert_eq!(rig.rows("a").await.len(), 3);
}

/// As after kill -9: a `-wal` that nobody carried into the file. SQLite lays it over whatever is beside it.
#[tokio::test]
async fn a_file_beside_a_wal_of_another_state_is_refused_and_not_served() {
    let rig = Rig::sqlite().await;
    let mut writer = rig.writer();
    let big = |at: u64| batch("a", (at * 50..at * 50 + 50).map(|seq| with_data(seq, seq, &rig.json(2_000))).collect());
    writer.store(&[big(1)]).await;
    rig.checkpoint();
    let older = std::fs::read(rig.path()).expect("read");
    writer.store(&[big(2)]).await;
    rig.checkpoint();
    let newer = std::fs::read(rig.path()).expect("read");
    writer.store(&[big(3)]).await;
    let wal = std::fs::read(rig.beside("-wal")).expect("read");
    let vacuumed = rig.beside(".vacuumed");
    rig.file().execute("VACUUM INTO ?1", [vacuumed.to_str()]).expect("copied");
    let vacuumed = std::fs::read(vacuumed).expect("read");

    for (name, file, rows) in [("older", &older, None), ("vacuumed", &vacuumed, None), ("right", &newer, Some(151))] {
        let image = Rig::sqlite().await;
        std::fs::create_dir_all(image.path().parent().expect("a folder")).expect("made");
        std::fs::write(image.path(), file).expect("written");
        std::fs::write(image.beside("-wal"), &wal).expect("written");
        let mut writer = image.writer();
        let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(900, 900)])]).await });
        if let Some(rows) = rows {
            assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
            assert_eq!(image.rows("a").await.len(), rows, "{name}");
            continue;
        }
        let error = image.blocked().await;
        assert!(error.contains("-wal") && error.contains("start.db"), "{name}: {error}");
        assert_eq!(std::fs::read(image.path()).expect("read"), *file, "{name}: it was written to");
        assert_eq!(std::fs::read(image.beside("-wal")).expect("read"), wal, "{name}: it was written to");
        // The operator decides for the file.
        std::fs::remove_file(image.beside("-wal")).expect("removed");
        assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)], "{name}");
    }
}

/// The file keeps its inode then.
#[tokio::test]
async fn an_earlier_state_that_is_copied_over_the_file_is_seen_and_kept_as_it_is() {
    let rig = Rig::sqlite().await;
    let mut writer = rig.writer();
    writer.store(&[batch("a", vec![report(1, 1)])]).await;
    rig.checkpoint();
    let earlier = std::fs::read(rig.path()).expect("read");
    writer.store(&[batch("a", vec![report(2, 2)])]).await;
    rig.checkpoint();
    writer.store(&[batch("a", vec![report(3, 3)])]).await;
    rig.checkpoint();
    writer.store(&[batch("a", vec![report(4, 4)])]).await;
    std::fs::write(rig.path(), &earlier).expect("written");
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(5, 5)])]).await });
    let error = rig.blocked().await;
    assert!(error.contains("-wal"), "{error}");
    assert_eq!(std::fs::read(rig.path()).expect("read"), earlier, "the -wal was laid over it");
    store.abort();
}

#[tokio::test]
async fn a_wal_or_its_index_that_was_taken_away_loses_nothing() {
    for ending in ["-wal", "-shm"] {
        let rig = Rig::sqlite().await;
        let mut writer = rig.writer();
        writer.store(&[batch("a", vec![report(1, 1)])]).await;
        std::fs::remove_file(rig.beside(ending)).expect("removed");
        assert_eq!(writer.store(&[batch("a", vec![report(2, 2)])]).await, [outcome(1, 0, None)]);
        assert!(rig.beside(ending).exists(), "{ending}: it writes into one that nobody sees");
        assert_eq!(rig.rows("a").await.len(), 2);
    }
}

/// The node goes by where the link leads, and so does SQLite.
#[tokio::test]
async fn a_link_to_the_file_is_followed_and_one_that_changes_is_seen() {
    let rig = Rig::sqlite().await;
    let folder = rig.path().parent().expect("a folder").to_owned();
    std::fs::create_dir_all(&folder).expect("made");
    let (target, other) = (folder.join("target.db"), folder.join("other.db"));
    rusqlite::Connection::open(&target).and_then(|file| file.execute_batch("PRAGMA user_version = 5")).expect("made");
    std::os::unix::fs::symlink(&target, rig.path()).expect("linked");
    let mut writer = rig.writer();
    writer.store(&[batch("a", vec![report(1, 1)])]).await;
    assert!(folder.join("target.db-wal").exists() && !rig.beside("-wal").exists());
    let version = rig.file().query_row("PRAGMA user_version", [], |row| row.get::<_, i32>(0));
    assert_eq!(version, Ok(5), "the number is the user's");
    std::fs::remove_file(rig.path()).expect("removed");
    rusqlite::Connection::open(&other).and_then(|file| file.execute_batch("PRAGMA user_version = 6")).expect("made");
    std::os::unix::fs::symlink(&other, rig.path()).expect("linked");
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(2, 2)])]).await });
    let error = rig.blocked().await;
    assert!(error.contains("target.db"), "{error}");
    std::fs::remove_file(rig.path()).expect("removed");
    std::os::unix::fs::symlink(&target, rig.path()).expect("linked");
    assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
}

/// It grew with what was stored while a reader had its transaction open, and stayed so for ever.
#[tokio::test]
async fn a_wal_that_a_reader_let_grow_is_cut_down_again() {
    let rig = Rig::sqlite().await;
    let mut writer = rig.writer();
    writer.ready().await;
    let reader = rig.file();
    reader.execute_batch("BEGIN; SELECT COUNT(*) FROM reports;").expect("it reads");
    let big = |at: u64| batch("a", (at * 50..at * 50 + 50).map(|seq| with_data(seq, seq, &rig.json(50_000))).collect());
    for at in 0..8 {
        writer.store(&[big(at)]).await;
    }
    let length = || std::fs::metadata(rig.beside("-wal")).map_or(0, |found| found.len());
    assert!(length() > 16 << 20, "{}", length());
    reader.execute_batch("COMMIT").expect("it ends");
    let since = std::time::Instant::now();
    while length() > 0 {
        assert!(since.elapsed() < Duration::from_secs(60), "{} bytes are left", length());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(rig.rows("a").await.len(), 400);
}

#[tokio::test]
async fn errors_name_the_path() {
    let rig = Rig::sqlite().await;
    std::fs::create_dir_all(rig.path().parent().expect("a folder")).expect("made");
    std::fs::write(rig.path(), "what is this? ".repeat(1_000)).expect("written");
    let error = rig.sink().connect().await.err().expect("no database");
    assert!(error.message.contains(rig.path().to_str().expect("UTF-8")), "{error}");
    let prefix = forebay::report::Id::new("a").expect("an id");
    let read = forebay::sink::readback::total(&rig.settings, &prefix).await.expect_err("no database");
    assert!(read.message.contains(rig.path().to_str().expect("UTF-8")), "{read}");
}

#[tokio::test]
async fn a_file_that_is_no_database_blocks_until_it_is_moved_away() {
    let rig = Rig::sqlite().await;
    std::fs::create_dir_all(rig.path().parent().expect("a folder")).expect("made");
    std::fs::write(rig.path(), "what is this? ".repeat(1_000)).expect("written");
    let mut writer = rig.writer();
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(1, 1)])]).await });
    rig.health.until(|status| status.state == SinkState::Blocked).await;
    std::fs::remove_file(rig.path()).expect("removed");
    assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
}

#[tokio::test]
async fn a_path_that_cannot_be_opened_is_an_outage_and_no_panic() {
    let rig = Rig::sqlite().await;
    std::fs::create_dir_all(rig.path()).expect("a folder in the place of the file");
    let health = Arc::new(Health::default());
    let mut writer = Writer::new(Arc::new(rig.sink()), Arc::clone(&health));
    let ready = tokio::spawn(async move { writer.ready().await });
    health.until(|status| status.state == SinkState::Down).await;
    std::fs::remove_dir(rig.path()).expect("removed");
    ready.await.expect("no panic");
}

/// A double does not hold the microseconds of the far future, nor all that `DECIMAL(17,6)` holds.
#[tokio::test]
async fn a_time_is_exact_in_the_file_over_its_whole_range() {
    let rig = Rig::sqlite().await;
    let most = 99_999_999_999_999_999_i64;
    let times = [0, 1, -1, 1_714_972_800_123_456, 8_589_934_592_000_001, 8_589_934_593_000_003, most, most - 1, -most];
    let record = |(at, time): (u64, &i64)| body(at, Report { time: Some(*time), ..plain(at, at) });
    let outcomes = rig.writer().store(&[batch("a", (1..).zip(&times).map(record).collect())]).await;
    assert_eq!(outcomes, [outcome(times.len() as u64, 0, None)]);
    let mut rows = readback::reports(&rig.settings, &Id::new("a").expect("an id"));
    let mut read = Vec::new();
    while let Some(row) = rows.next().await.expect("it can be read") {
        read.push(row.time.expect("a time"));
    }
    assert_eq!(read, times);
    let file = rig.file();
    let mut sorted = file.prepare("SELECT seq FROM reports ORDER BY time, time_us").expect("a query");
    let sorted: Vec<u64> = sorted
        .query_map([], |row| row.get::<_, i64>(0).map(|n| n as u64))
        .expect("rows")
        .map(|n| n.expect("seq"))
        .collect();
    let mut wanted: Vec<u64> = (1..=times.len() as u64).collect();
    wanted.sort_by_key(|seq| times[*seq as usize - 1]);
    assert_eq!(sorted, wanted);
}

/// As the first version made them.
const OLD: &str = "CREATE TABLE reports (id TEXT NOT NULL, source INTEGER NOT NULL, seq INTEGER NOT NULL,
  time REAL NULL CHECK (time IS NULL OR abs(time) < 1e11), code INTEGER NOT NULL DEFAULT 0, peer TEXT NULL,
  data TEXT NULL CHECK (data IS NULL OR json_valid(data)), accepted_at TEXT NOT NULL,
  PRIMARY KEY (id, source, seq)) WITHOUT ROWID;
CREATE TABLE report_streams (id TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL DEFAULT 'open',
  reports INTEGER NOT NULL DEFAULT 0, first_at TEXT NOT NULL, last_at TEXT NOT NULL,
  state_position INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
INSERT INTO reports VALUES ('a', 0, 1, 1714972800.123456, 0, NULL, NULL, '2024-05-06 05:20:00.000000');
INSERT INTO report_streams VALUES ('a', 'open', 1, '2024-05-06 05:20:00.000000', '2024-05-06 05:20:00.000000', 1);";

#[tokio::test]
async fn a_file_of_an_earlier_version_is_brought_up_to_this_one_or_the_statements_are_named() {
    let mut rig = Rig::sqlite().await;
    std::fs::create_dir_all(rig.path().parent().expect("a folder")).expect("made");
    rig.file().execute_batch(OLD).expect("made");
    let mut rows = readback::reports(&rig.settings, &Id::new("a").expect("an id"));
    assert_eq!(rows.next().await.expect("it can be read").and_then(|row| row.time), Some(1_714_972_800_123_456));
    rig.settings.create_tables = false;
    let mut writer = rig.writer();
    let known = Report { time: Some(1_714_972_800_123_456), ..plain(1, 1) };
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![body(1, known), report(2, 2)])]).await });
    let error = rig.blocked().await;
    for statement in ["ALTER TABLE \"reports\" ADD COLUMN digest", "ADD COLUMN time_us", "ADD COLUMN settled"] {
        assert!(error.contains(statement), "{error}");
    }
    rig.settings.create_tables = true;
    rig.writer().ready().await;
    assert_eq!(store.await.expect("no panic"), [outcome(1, 1, None)]);
}
