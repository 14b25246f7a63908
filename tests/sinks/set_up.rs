//! What a session is set up with, and what a server that does not take it is told.

use forebay::sink::SinkState;

use super::sinks::{Rig, batch, report};
use super::{outcome, support::mariadb::MariaDb};

/// MySQL 9.7 refused the limit of lock waits (1232): each try was taken for a transient error, for ever, as `up`.
#[tokio::test]
async fn a_server_that_refuses_the_set_up_of_a_session_blocks_and_says_what_it_refuses() {
    let rig = Rig::of(MariaDb::start_with(&["--innodb=OFF", "--default-storage-engine=Aria"]).await);
    let mut writer = rig.writer();
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(1, 1)])]).await });
    let blocked = rig.health.until(|status| status.state == SinkState::Blocked).await;
    let said = blocked.last_error.expect("it says why");
    assert!(said.contains("setting up the session") && said.contains("1193"), "{said}");
    store.abort();
}

/// With `completion_type` 2 the server ends the session at each `COMMIT`; with 1 the next transaction begins at once.
#[tokio::test]
async fn what_a_server_does_after_each_commit_is_the_sessions_own() {
    for completion in ["CHAIN", "RELEASE"] {
        let rig = Rig::of(MariaDb::start_with(&[&format!("--completion-type={completion}")]).await);
        let mut writer = rig.writer();
        for seq in 1..=3 {
            assert_eq!(writer.store(&[batch("a", vec![report(seq, seq)])]).await, [outcome(1, 0, None)]);
        }
        assert_eq!(rig.health.outages(), 0, "{completion}");
    }
}
