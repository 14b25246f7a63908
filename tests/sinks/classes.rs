//! What a server refuses altogether, rather than row by row: who logs in, every row of a table, statements that take
//! long, connections past a limit.

use std::time::Duration;

use forebay::config::SinkTarget;
use forebay::sink::{Granularity, Sink, SinkState};

use super::sinks::{Rig, batch, report};
use super::support::servers::{Kind, Server, on_each_server};
use super::{Class, outcome};

async fn refused(rig: &mut Rig, user: &str) -> (Class, Option<u32>, String) {
    let port = rig.server().port();
    rig.settings.target = SinkTarget::Mysql(format!("mysql://{user}@127.0.0.1:{port}/forebay"));
    let error = rig.sink().connect().await.err().unwrap_or_else(|| panic!("{user} is served"));
    assert!(!error.message.contains("s3cret"), "{error}");
    (error.class, error.code, error.message)
}

/// Each stays so until a person acts.
async fn who_may_not_log_in_is_told_so_and_not_taken_for_an_outage(kind: Kind) {
    let mut rig = Rig::start(kind).await;
    let (plugin, locked, expired) = match kind {
        Kind::MariaDb => ("IDENTIFIED VIA unix_socket", 4151, 1820),
        Kind::MySql => ("IDENTIFIED WITH mysql_no_login", 3118, 1862),
    };
    let mut users = vec![
        ("locked", "IDENTIFIED BY 's3cret' ACCOUNT LOCK", locked),
        ("expired", "IDENTIFIED BY 's3cret' PASSWORD EXPIRE", expired),
        ("tls", "IDENTIFIED BY 's3cret' REQUIRE SSL", 1045),
        ("other", "IDENTIFIED BY 'another'", 1045),
    ];
    if kind == Kind::MariaDb {
        users.push(("plugin", plugin, 1698));
    }
    for (name, how, code) in users {
        rig.server().run(&[&format!("CREATE USER {name}@'127.0.0.1' {how}")]).await;
        rig.server().run(&[&format!("GRANT ALL ON forebay.* TO {name}@'127.0.0.1'")]).await;
        let (class, found, message) = refused(&mut rig, &format!("{name}:s3cret")).await;
        assert_eq!((class, found), (Class::Operator, Some(code)), "{name}: {message}");
    }
    rig.server().run(&["CREATE USER elsewhere@'192.0.2.1'"]).await;
    let (class, ..) = refused(&mut rig, "elsewhere:s3cret").await;
    assert_eq!(class, Class::Operator);
    rig.server().run(&["SET GLOBAL require_secure_transport = 1"]).await;
    let (class, code, message) = refused(&mut rig, "other:another").await;
    // MariaDB says no more than that access is denied.
    let insecure = if kind == Kind::MariaDb { 1045 } else { 3159 };
    assert_eq!((class, code), (Class::Operator, Some(insecure)), "{message}");
}
on_each_server!(who_may_not_log_in_is_told_so_and_not_taken_for_an_outage);

/// Stores again and again, as a flusher does with a batch that was put back, until the sink is blocked.
async fn is_blocked_by(rig: &Rig, code: u32) {
    let mut writer = rig.writer();
    let batches = [batch("a", vec![report(1, 1)]), batch("b", vec![report(2, 1)])];
    let outcomes = writer.store(&batches).await;
    assert!(outcomes.iter().all(|outcome| outcome.put_back.is_some() && outcome.refused.is_empty()), "{outcomes:?}");
    let blocked = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let held = writer.store_again(&batches, Granularity::Batch).await;
            let status = rig.health.status();
            if status.state == SinkState::Blocked {
                return (status, held);
            }
        }
    });
    let (status, _held) = blocked.await.expect("it is seen that all is refused");
    let said = status.last_error.expect("it says why");
    assert!(said.contains(&code.to_string()), "{said}");
}

/// Each of these refuses every row: the state says so, nothing is a dead letter, and it is over by itself.
async fn a_table_that_refuses_every_row_blocks_until_it_takes_one(kind: Kind) {
    let log = "CREATE TABLE log (n INT NOT NULL, m INT NOT NULL)";
    let writes = "CREATE TRIGGER t AFTER INSERT ON reports FOR EACH ROW INSERT INTO log (n) VALUES (NEW.seq)";
    let calls = "CREATE TRIGGER t AFTER INSERT ON reports FOR EACH ROW CALL nobody()";
    let itself = "CREATE TRIGGER t AFTER INSERT ON reports FOR EACH ROW UPDATE reports SET code = 1";
    let signals = "CREATE TRIGGER t BEFORE INSERT ON reports FOR EACH ROW SIGNAL SQLSTATE '45000'";
    let parts = "ALTER TABLE reports PARTITION BY LIST (source) (PARTITION p VALUES IN (1, 2))";
    for (code, make, mend) in [
        (1364, &[log, writes][..], "DROP TRIGGER t"),
        (1305, &[calls], "DROP TRIGGER t"),
        (1442, &[itself], "DROP TRIGGER t"),
        (1644, &[signals], "DROP TRIGGER t"),
        (1526, &[parts], "ALTER TABLE reports ADD PARTITION (PARTITION q VALUES IN (0))"),
    ] {
        let mut rig = Rig::start(kind).await;
        rig.make_tables().await;
        rig.server().run(make).await;
        is_blocked_by(&rig, code).await;
        rig.server().run(&[mend]).await;
        let stored = rig.writer().store_again(&[batch("a", vec![report(1, 1)])], Granularity::Batch).await;
        assert_eq!(stored, [outcome(1, 0, None)], "{code}");
        assert_eq!((rig.health.status().state, rig.health.status().last_error), (SinkState::Up, None), "{code}");
    }
}
on_each_server!(a_table_that_refuses_every_row_blocks_until_it_takes_one);

/// The state is of the sink, not of one id: while others are stored, it is up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_refused_while_others_are_stored_leaves_the_sink_up() {
    let mut rig = Rig::start(Kind::MariaDb).await;
    rig.make_tables().await;
    let trigger =
        "CREATE TRIGGER t BEFORE INSERT ON reports FOR EACH ROW IF NEW.id = 'bad' THEN SIGNAL SQLSTATE '45000'; END IF";
    rig.server().run(&[trigger]).await;
    let mut writer = rig.writer();
    let begun = tokio::time::Instant::now();
    let mut held = writer.store(&[batch("bad", vec![report(1, 1)])]).await;
    for seq in 1.. {
        writer.store(&[batch("good", vec![report(seq, seq)])]).await;
        let again = writer.store_again(&[batch("bad", vec![report(1, 1)])], Granularity::Batch).await;
        assert_eq!(rig.health.status().state, SinkState::Up);
        held = again;
        if begun.elapsed() > Duration::from_secs(5) {
            break;
        }
    }
    assert!(held[0].put_back.is_some());
}

/// MariaDB ends statements that take longer than it lets them: fewer rows take less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_takes_longer_than_the_server_lets_it_is_stored_in_parts() {
    let mut rig = Rig::of(Server::start(Kind::MariaDb).await);
    rig.make_tables().await;
    let slow = "CREATE TRIGGER slow BEFORE INSERT ON reports FOR EACH ROW SET @slept = SLEEP(0.02)";
    rig.server()
        .run(&[
            slow,
            "CREATE USER app@'127.0.0.1'",
            "GRANT ALL ON forebay.* TO app@'127.0.0.1' WITH MAX_STATEMENT_TIME 0.5",
        ])
        .await;
    let port = rig.server().port();
    rig.settings.target = SinkTarget::Mysql(format!("mysql://app@127.0.0.1:{port}/forebay"));
    let batches = [
        batch("a", (1..=40).map(|seq| report(seq, seq)).collect()),
        batch("b", (1..=40).map(|seq| report(seq, seq)).collect()),
    ];
    assert_eq!(rig.writer().store(&batches).await, [outcome(40, 0, None), outcome(40, 0, None)]);
    assert_eq!(rig.health.status().state, SinkState::Up);
}
