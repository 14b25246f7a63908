//! What a session is set up with, and what a server that does not take it is told.

use forebay::config::SinkTarget;
use forebay::sink::{Sink, SinkState};

use super::sinks::{Rig, batch, report};
use super::support::servers::{Kind, Server, on_each_server};
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

on_each_server!(what_a_server_does_after_each_commit_is_the_sessions_own);
/// With `completion_type` 2 the server ends the session at each `COMMIT`; with 1 the next transaction begins at once.
async fn what_a_server_does_after_each_commit_is_the_sessions_own(kind: Kind) {
    for completion in ["CHAIN", "RELEASE"] {
        let rig = Rig::of(Server::start_with(kind, &[&format!("--completion-type={completion}")]).await);
        let mut writer = rig.writer();
        for seq in 1..=3 {
            assert_eq!(writer.store(&[batch("a", vec![report(seq, seq)])]).await, [outcome(1, 0, None)]);
        }
        assert_eq!(rig.health.outages(), 0, "{completion}");
    }
}

/// A server whose clock is ahead, or behind, by so many seconds: for users whom `init_connect` is run for.
async fn a_clock_that_differs_is_measured(kind: Kind) {
    for ahead in [0, 90, -5] {
        let option = format!("--init-connect=SET timestamp = UNIX_TIMESTAMP() + {ahead}");
        let mut rig = Rig::of(Server::start_with(kind, &[&option]).await);
        rig.server().run(&["CREATE USER app@'127.0.0.1'", "GRANT ALL ON forebay.* TO app@'127.0.0.1'"]).await;
        let port = rig.server().port();
        rig.settings.target = SinkTarget::Mysql(format!("mysql://app@127.0.0.1:{port}/forebay"));
        let sink = rig.sink();
        assert_eq!(sink.clock_skew(), None);
        sink.connect().await.expect("it is up");
        let found = sink.clock_skew().expect("it was measured");
        // `timestamp` is set once: the clock stands still from then on, and the answer may have taken its time.
        assert!((found - f64::from(ahead)).abs() < 4.0, "{ahead}: {found}");
    }
}
on_each_server!(a_clock_that_differs_is_measured);

/// Over the loopback of IPv6, and over the server's socket, each as it is said in the URL.
async fn a_server_is_reached_over_ipv6_and_over_its_socket(kind: Kind) {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("of a server.sock");
    let options = ["--bind-address=*".to_owned(), format!("--socket={}", socket.display())];
    let mut rig = Rig::of(Server::start_with(kind, &options.each_ref().map(String::as_str)).await);
    let port = rig.server().port();
    for user in ["six@'::1'", "near@localhost"] {
        rig.server().run(&[&format!("CREATE USER {user} IDENTIFIED BY 'p@ss:/'")]).await;
        rig.server().run(&[&format!("GRANT ALL ON forebay.* TO {user}")]).await;
    }
    let path = socket.display().to_string().replace(' ', "%20");
    for (seq, url) in [
        (1, format!("mysql://six:p%40ss%3A%2F@[::1]:{port}/forebay")),
        (2, format!("mysql://near:p%40ss%3A%2F@nowhere.invalid/forebay?socket={path}")),
    ] {
        rig.settings.target = SinkTarget::new(&url).expect("the URL is well formed");
        assert_eq!(rig.writer().store(&[batch("a", vec![report(seq, seq)])]).await, [outcome(1, 0, None)], "{url}");
    }
}
on_each_server!(a_server_is_reached_over_ipv6_and_over_its_socket);
