//! How MySQL lets a session in, or does not: by SHA-2 over plain TCP, by TLS alone, not at all for a while.

use forebay::config::SinkTarget;
use forebay::sink::SinkState;
use mysql_async::prelude::Queryable;

use super::outcome;
use super::sinks::{Rig, batch, report};
use crate::support::servers::{Kind, Server};

/// A rig whose writers log in by `caching_sha2_password`, MySQL's default.
async fn rig_of_user() -> Rig {
    let mut rig = Rig::start(Kind::MySql).await;
    let user = "CREATE USER app@'127.0.0.1' IDENTIFIED WITH caching_sha2_password BY 's3cret'";
    rig.server().run(&[user, "GRANT ALL ON forebay.* TO app@'127.0.0.1'"]).await;
    rig.settings.target = SinkTarget::Mysql(format!("mysql://app:s3cret@127.0.0.1:{}/forebay", rig.server().port()));
    rig
}

/// The server knows the password's hash only after a first, full login, which needs TLS or the server's RSA key; and
/// forgets it at each FLUSH PRIVILEGES.
#[tokio::test]
async fn a_user_of_sha_2_logs_in_over_plain_tcp_before_and_after_the_server_knows_the_password() {
    let mut rig = rig_of_user().await;
    for seq in 1..=3 {
        assert_eq!(rig.writer().store(&[batch("a", vec![report(seq, seq)])]).await, [outcome(1, 0, None)]);
        if seq == 2 {
            rig.server().run(&["FLUSH PRIVILEGES"]).await;
        }
    }
    assert_eq!((rig.health.status().state, rig.health.outages()), (SinkState::Up, 0));
}

/// Stores while `sets` holds, which is seen as `state` with an error that has `code`, and after `resets`.
async fn is_waited_out(sets: &str, resets: &str, state: SinkState, code: &str) {
    let mut rig = rig_of_user().await;
    assert_eq!(rig.writer().store(&[batch("a", vec![report(1, 1)])]).await, [outcome(1, 0, None)]);
    rig.server().run(&[sets]).await;
    let mut writer = rig.writer();
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(2, 2)])]).await });
    let seen = rig.health.until(|status| status.state != SinkState::Up).await;
    assert_eq!(seen.state, state, "{seen:?}");
    let said = seen.last_error.expect("it says why");
    assert!(said.contains(code) && !said.contains("s3cret"), "{sets}: {said}");
    rig.server().run(&[resets]).await;
    assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
    assert_eq!(rig.health.status().state, SinkState::Up);
}

#[tokio::test]
async fn a_server_that_is_super_read_only_is_an_outage() {
    let resets = "SET GLOBAL read_only = 0";
    is_waited_out("SET GLOBAL super_read_only = 1", resets, SinkState::Down, "1290").await;
}

/// Not the end of a session that is open, but no new one is let in.
#[tokio::test]
async fn a_server_that_is_offline_is_an_outage() {
    is_waited_out("SET GLOBAL offline_mode = 1", "SET GLOBAL offline_mode = 0", SinkState::Down, "3032").await;
}

#[tokio::test]
async fn an_account_that_is_locked_blocks_until_it_is_unlocked() {
    let [lock, unlock] = ["LOCK", "UNLOCK"].map(|what| format!("ALTER USER app@'127.0.0.1' ACCOUNT {what}"));
    is_waited_out(&lock, &unlock, SinkState::Blocked, "3118").await;
}

#[tokio::test]
async fn a_password_that_expired_blocks_until_it_is_set_anew() {
    let expire = "ALTER USER app@'127.0.0.1' PASSWORD EXPIRE";
    let anew = "ALTER USER app@'127.0.0.1' IDENTIFIED BY 's3cret'";
    is_waited_out(expire, anew, SinkState::Blocked, "1862").await;
}

/// Root logs in over TCP as well, so the setting is made to end by itself: over a session that is open.
#[tokio::test]
async fn a_server_that_wants_tls_of_a_node_without_tls_ca_blocks() {
    let mut rig = rig_of_user().await;
    let mut root = rig.server().conn().await;
    rig.writer().store(&[batch("a", vec![report(1, 1)])]).await;
    let set = |on: u8| format!("SET GLOBAL require_secure_transport = {on}");
    root.query_drop(set(1)).await.expect("root may set it");
    let mut writer = rig.writer();
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(2, 2)])]).await });
    let blocked = rig.health.until(|status| status.state != SinkState::Up).await;
    assert_eq!(blocked.state, SinkState::Blocked, "{blocked:?}");
    assert!(blocked.last_error.as_ref().is_some_and(|said| said.contains("3159")), "{blocked:?}");
    root.query_drop(set(0)).await.expect("root may set it");
    assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
}

#[tokio::test]
async fn a_server_that_writes_its_binlog_in_any_form_takes_transactions() {
    for format in ["ROW", "STATEMENT", "MIXED"] {
        let options = ["--log-bin=log", "--server-id=1", &format!("--binlog-format={format}")];
        let rig = Rig::of(Server::start_with(Kind::MySql, &options).await);
        assert_eq!(rig.writer().store(&[batch("a", vec![report(1, 1)])]).await, [outcome(1, 0, None)], "{format}");
    }
}
