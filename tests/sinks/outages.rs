//! Servers that die, stall, refuse, lock and fill up: nothing is refused that is not poison, nothing is stored twice.

use std::sync::Arc;
use std::time::Duration;

use forebay::config::SinkTarget;
use forebay::report::Marker;
use forebay::sink::{Class, Connection, Sink, SinkState, open};
use mysql_async::prelude::Queryable;

use super::outcome;
use super::sinks::{Rig, batch, marker, report, settings, with_data};
use crate::support::servers::{Kind, Server, on_each_server};

/// A server's transaction waits for a lock. InnoDB renews this table only when nobody has read it for 100 ms.
async fn somebody_waits_for_a_lock(server: &Server) {
    let mut conn = server.conn().await;
    let query = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'";
    while conn.query_first::<u64, _>(query).await.expect("root may ask") == Some(0) {
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

on_each_server!(a_transaction_over_the_packet_limit_is_split_and_only_a_row_over_it_is_refused);
async fn a_transaction_over_the_packet_limit_is_split_and_only_a_row_over_it_is_refused(kind: Kind) {
    let rig = Rig::of(Server::start_with(kind, &["--max-allowed-packet=65536"]).await);
    let text = |bytes| format!("\"{}\"", "x".repeat(bytes));
    let half = |seq| with_data(seq, seq, &text(30_000));
    let batches = [
        batch("a", vec![half(1), half(2), half(3), with_data(4, 4, &text(70_000)), half(5), marker(6, Marker::Done)]),
        batch("b", (1..=10).map(half).collect()),
    ];
    let outcomes = rig.writer().store(&batches).await;
    assert_eq!((outcomes[0].inserted, outcomes[0].total), (4, Some(4)));
    let [refused] = &outcomes[0].refused[..] else { panic!("{outcomes:?}") };
    assert_eq!((refused.index, refused.code), (3, Some(1153)));
    assert_eq!(outcomes[1], outcome(10, 0, None));
    assert_eq!(rig.health.status().state, SinkState::Up);
}

on_each_server!(sizes_around_the_packet_limit_are_stored_or_refused_and_never_retried_for_ever);
/// Every size around the limit: the server counts the command byte and refuses a packet of exactly the limit.
async fn sizes_around_the_packet_limit_are_stored_or_refused_and_never_retried_for_ever(kind: Kind) {
    let rig = Rig::of(Server::start_with(kind, &["--max-allowed-packet=16384"]).await);
    let mut writer = rig.writer();
    let mut refused = 0;
    for (seq, bytes) in (1..).zip(16_384 - 260..16_384) {
        let data = format!("\"{}\"", "x".repeat(bytes));
        let outcomes = writer.store(&[batch("a", vec![with_data(seq, seq, &data)])]).await;
        assert_eq!(outcomes[0].inserted as usize + outcomes[0].refused.len(), 1);
        refused += outcomes[0].refused.len();
    }
    assert!(refused > 0 && refused < 260, "{refused}");
    assert_eq!(rig.health.retries(Class::Outage), 0);
}

on_each_server!(a_server_that_is_down_at_the_start_is_waited_for);
async fn a_server_that_is_down_at_the_start_is_waited_for(kind: Kind) {
    let mut rig = Rig::start(kind).await;
    rig.server().kill();
    let health = Arc::clone(&rig.health);
    let mut writer = rig.writer();
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(1, 1)])]).await });
    let down = health.until(|status| status.state == SinkState::Down).await;
    assert!(down.last_error.is_some());
    rig.server().restart().await;
    assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
    assert_eq!(health.status().state, SinkState::Up);
}

on_each_server!(a_server_killed_in_the_midst_of_writing_loses_and_doubles_nothing);
async fn a_server_killed_in_the_midst_of_writing_loses_and_doubles_nothing(kind: Kind) {
    const WRITERS: u64 = 4;
    const BATCHES: u64 = 60;
    let mut rig = Rig::start(kind).await;
    rig.make_tables().await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| {
            let mut writer = rig.writer();
            tokio::spawn(async move {
                for round in 0..BATCHES {
                    let seqs = round * 10 + 1..=round * 10 + 10;
                    let records: Vec<_> = seqs.map(|seq| report(seq, seq)).collect();
                    // Two ids of its own and, in another order each, one that all share.
                    let batches = [
                        batch(&format!("x{n}"), records.clone()),
                        batch("shared", records.clone()),
                        batch(&format!("a{n}"), records),
                    ];
                    for outcome in writer.store(&batches).await {
                        assert_eq!((outcome.inserted + outcome.duplicates, outcome.refused), (10, vec![]));
                    }
                }
            })
        })
        .collect();
    for reached in [200, 900, 2_000] {
        while rig.server().row::<u64>("SELECT COALESCE(SUM(reports), 0) FROM report_streams").await < reached {
            tokio::task::yield_now().await;
        }
        rig.server().kill();
        rig.server().restart().await;
    }
    for writer in writers {
        writer.await.expect("no panic");
    }
    let ids = (0..WRITERS).flat_map(|n| [format!("x{n}"), format!("a{n}")]).chain(["shared".to_owned()]);
    for id in ids {
        assert_eq!(rig.rows(&id).await.len() as u64, BATCHES * 10, "{id}");
        assert_eq!(rig.stream(&id).await.map(|stream| stream.1), Some(BATCHES * 10), "{id}");
    }
}

/// A rig whose writers log in as a user that has these rights and `read_only` holds for.
async fn rig_of_user(kind: Kind, rights: &str) -> Rig {
    let mut rig = Rig::start(kind).await;
    let grant = format!("GRANT {rights} ON forebay.* TO app@'127.0.0.1'");
    rig.server().run(&["CREATE USER app@'127.0.0.1' IDENTIFIED BY 's3cret pass'", &grant]).await;
    let url = format!("mysql://app:s3cret%20pass@127.0.0.1:{}/forebay", rig.server().port());
    rig.settings.target = SinkTarget::Mysql(url);
    rig
}

on_each_server!(a_read_only_server_is_an_outage_and_not_poison);
async fn a_read_only_server_is_an_outage_and_not_poison(kind: Kind) {
    let mut rig = rig_of_user(kind, "ALL").await;
    let mut writer = rig.writer();
    assert_eq!(writer.store(&[batch("a", vec![report(1, 1)])]).await, [outcome(1, 0, None)]);
    rig.server().run(&["SET GLOBAL read_only = 1"]).await;
    let probed =
        rig.sink().connect().await.expect("reading works").probe().await.expect_err("it would not take a write");
    assert_eq!((probed.class, probed.code), (Class::Outage, Some(1290)));
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(2, 2)])]).await });
    rig.health.until(|status| status.state == SinkState::Down && rig.health.retries(Class::Outage) > 2).await;
    rig.server().run(&["SET GLOBAL read_only = 0"]).await;
    assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
}

on_each_server!(a_wrong_password_blocks_and_is_named_nowhere);
async fn a_wrong_password_blocks_and_is_named_nowhere(kind: Kind) {
    let mut rig = rig_of_user(kind, "ALL").await;
    rig.server().run(&["ALTER USER app@'127.0.0.1' IDENTIFIED BY 'another'"]).await;
    let mut writer = rig.writer();
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(1, 1)])]).await });
    let blocked = rig.health.until(|status| status.state == SinkState::Blocked).await;
    let text = format!("{blocked:?} {:?} {}", rig.settings, rig.settings.target);
    assert!(text.contains("1045") && !text.contains("s3cret"), "{text}");
    rig.server().run(&["ALTER USER app@'127.0.0.1' IDENTIFIED BY 's3cret pass'"]).await;
    assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
}

on_each_server!(a_user_who_may_not_make_tables_can_use_those_that_are_there);
async fn a_user_who_may_not_make_tables_can_use_those_that_are_there(kind: Kind) {
    let rig = rig_of_user(kind, "SELECT, INSERT, UPDATE").await;
    let mut writer = rig.writer();
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(1, 1)])]).await });
    rig.health.until(|status| status.state == SinkState::Blocked).await;
    rig.make_tables().await;
    assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
}

on_each_server!(a_user_who_may_not_insert_is_blocked_and_nothing_is_refused);
async fn a_user_who_may_not_insert_is_blocked_and_nothing_is_refused(kind: Kind) {
    let mut rig = rig_of_user(kind, "SELECT, UPDATE").await;
    rig.make_tables().await;
    let mut writer = rig.writer();
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(1, 1)])]).await });
    rig.health.until(|status| status.state == SinkState::Blocked && rig.health.retries(Class::Operator) > 2).await;
    rig.server().run(&["GRANT INSERT ON forebay.* TO app@'127.0.0.1'"]).await;
    assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
}

on_each_server!(a_lock_that_is_held_too_long_is_waited_for_again);
async fn a_lock_that_is_held_too_long_is_waited_for_again(kind: Kind) {
    let rig = Rig::of(Server::start_with(kind, &["--innodb-lock-wait-timeout=1"]).await);
    let mut writer = rig.writer();
    writer.store(&[batch("a", vec![report(1, 1)])]).await;
    let server = rig.server.as_ref().expect("a server");
    let mut other = server.conn().await;
    for lock in ["BEGIN", "SELECT reports FROM report_streams WHERE id = 'a' FOR UPDATE"] {
        other.query_drop(lock).await.expect("the row is free");
    }
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(2, 2), report(3, 3)])]).await });
    while rig.health.retries(Class::Transient) == 0 {
        tokio::task::yield_now().await;
    }
    other.query_drop("ROLLBACK").await.expect("lets go");
    assert_eq!(store.await.expect("no panic"), [outcome(2, 0, None)]);
    assert_eq!(rig.stream("a").await, Some(("open".to_owned(), 3, 3)));
    assert_eq!(rig.health.status().state, SinkState::Up);
}

on_each_server!(the_victim_of_a_deadlock_is_sent_again);
async fn the_victim_of_a_deadlock_is_sent_again(kind: Kind) {
    let rig = Rig::start(kind).await;
    let server = rig.server.as_ref().expect("a server");
    let mut writer = rig.writer();
    writer.ready().await;
    let mut other = server.conn().await;
    // The other has changed more rows, so the server makes the writer the victim.
    let filler: Vec<_> = (0..50).map(|seq| format!("('zz', 9, {seq}, NOW())")).collect();
    let insert =
        format!("INSERT INTO reports (id, source, seq, accepted_at) VALUES ('b', 0, 1, NOW()), {}", filler.join(","));
    for statement in ["BEGIN", &insert] {
        other.query_drop(statement).await.expect("the rows are free");
    }
    let batches = [batch("b", vec![report(2, 1)]), batch("a", vec![report(1, 1)])];
    let store = tokio::spawn(async move { writer.store(&batches).await });
    somebody_waits_for_a_lock(server).await;
    // The writer has row `a` and waits for `b`; this closes the circle.
    other.query_drop("SELECT * FROM reports WHERE id = 'a' FOR UPDATE").await.expect("the other is not the victim");
    other.query_drop("COMMIT").await.expect("commits");
    assert_eq!(store.await.expect("no panic"), [outcome(0, 1, None), outcome(1, 0, None)]);
    assert!(rig.health.retries(Class::Transient) > 0);
}

on_each_server!(a_server_that_stalls_past_the_timeout_is_down_until_it_answers);
async fn a_server_that_stalls_past_the_timeout_is_down_until_it_answers(kind: Kind) {
    let mut rig = Rig::start(kind).await;
    let mut warm = rig.writer();
    warm.store(&[batch("a", vec![report(1, 1)])]).await;
    rig.settings.timeout = Duration::from_millis(300);
    let mut writer = rig.writer();
    writer.store(&[batch("a", vec![report(2, 2)])]).await;
    rig.server().pause();
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(3, 3), report(4, 4)])]).await });
    rig.health.until(|status| status.state == SinkState::Down && rig.health.retries(Class::Outage) > 1).await;
    rig.server().resume();
    // The stalled server may or may not have stored what it was sent before it was paused; each row is there once.
    let outcomes = store.await.expect("no panic");
    assert_eq!((outcomes[0].inserted + outcomes[0].duplicates, &outcomes[0].refused), (2, &vec![]));
    assert_eq!(rig.rows("a").await.len(), 4);
    assert_eq!(rig.stream("a").await, Some(("open".to_owned(), 4, 4)));
}

on_each_server!(a_lax_server_stores_no_value_that_was_cut);
/// A session of its own strictness: the server's mode would cut or change values silently.
async fn a_lax_server_stores_no_value_that_was_cut(kind: Kind) {
    let rig = Rig::of(Server::start_with(kind, &["--sql-mode=NO_BACKSLASH_ESCAPES"]).await);
    let mut time = super::sinks::plain(2, 2);
    time.time = Some(i64::MAX);
    let records = vec![with_data(1, 1, r#""\\'\"""#), super::sinks::body(2, time)];
    let outcomes = rig.writer().store(&[batch("a", records)]).await;
    assert_eq!((outcomes[0].inserted, outcomes[0].refused.len()), (1, 1));
    assert_eq!(outcomes[0].refused[0].code, Some(1264));
    assert_eq!(rig.rows("a").await[0].2, r#""\\'\"""#);
}

on_each_server!(a_server_that_logs_statements_takes_transactions);
async fn a_server_that_logs_statements_takes_transactions(kind: Kind) {
    let options = ["--log-bin=log", "--binlog-format=STATEMENT", "--server-id=1", "--sync-binlog=1"];
    let rig = Rig::of(Server::start_with(kind, &options).await);
    assert_eq!(rig.writer().store(&[batch("a", vec![report(1, 1)])]).await, [outcome(1, 0, None)]);
}

#[tokio::test]
async fn a_url_that_cannot_work_is_refused_at_once_without_its_password() {
    for url in ["mysql://u:s3cret@h:3306", "mysql://u:s3cret@h:3306/", "mysql://u:s3cret@h:99999/db", "s3cret"] {
        let error = open(&settings(SinkTarget::Mysql(url.to_owned()))).err().expect("refused");
        assert_eq!(error.class, Class::Operator);
        assert!(!error.message.contains("s3cret"), "{error}");
    }
}

on_each_server!(a_streams_table_that_cannot_hold_its_row_blocks_and_refuses_no_report);
/// The reports are good, it is the other table that cannot count them.
async fn a_streams_table_that_cannot_hold_its_row_blocks_and_refuses_no_report(kind: Kind) {
    let mut rig = Rig::start(kind).await;
    rig.make_tables().await;
    rig.server().run(&["ALTER TABLE report_streams MODIFY reports TINYINT UNSIGNED NOT NULL"]).await;
    let mut writer = rig.writer();
    let records = (1..=300).map(|seq| report(seq, seq)).collect();
    let store = tokio::spawn(async move { writer.store(&[batch("a", records)]).await });
    rig.health.until(|status| status.state == SinkState::Blocked).await;
    rig.server().run(&["ALTER TABLE report_streams MODIFY reports BIGINT UNSIGNED NOT NULL"]).await;
    assert_eq!(store.await.expect("no panic"), [outcome(300, 0, None)]);
}
