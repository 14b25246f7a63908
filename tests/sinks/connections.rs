//! Servers that allow fewer connections than there are writers.

use std::sync::Arc;

use forebay::config::SinkTarget;
use forebay::sink::{AnySink, SinkState, Writer};
use mysql_async::{Conn, Opts, OptsBuilder};

use super::logs::Log;
use super::outcome;
use super::sinks::{Rig, batch, report};
use crate::support::servers::{Kind, on_each_server};

const WRITERS: usize = 6;
const ROUNDS: u64 = 20;

async fn rig_with(kind: Kind, limit: &str) -> Rig {
    let mut rig = Rig::start(kind).await;
    let user = format!("CREATE USER app@'127.0.0.1' IDENTIFIED BY 'right' WITH {limit}");
    rig.server().run(&[&user, "GRANT ALL ON forebay.* TO app@'127.0.0.1'"]).await;
    rig.settings.target = SinkTarget::Mysql(rig.server().url().replace("root@", "app:right@"));
    rig
}

async fn connect(rig: &mut Rig) -> Conn {
    let url = rig.server().url().replace("root@", "app:right@");
    let opts = OptsBuilder::from_opts(Opts::from_url(&url).expect("a URL")).prefer_socket(false);
    Conn::new(opts).await.expect("it is the first")
}

/// All at once, an id each.
async fn store(writers: Vec<Writer<AnySink>>, first_seq: u64) -> Vec<Writer<AnySink>> {
    let stores = writers.into_iter().enumerate().map(|(n, mut writer)| {
        tokio::spawn(async move {
            for round in 0..ROUNDS {
                let seqs = (first_seq + round * 10..).take(10);
                let batches = [batch(&format!("id{n}"), seqs.map(|seq| report(seq, seq)).collect())];
                assert_eq!(writer.store(&batches).await, [outcome(10, 0, None)]);
            }
            writer
        })
    });
    let mut writers = Vec::new();
    for store in stores.collect::<Vec<_>>() {
        writers.push(store.await.expect("no panic"));
    }
    writers
}

on_each_server!(
    a_user_who_may_have_fewer_connections_than_there_are_writers_drains_all_of_them,
    flavor = "current_thread"
);
/// It flapped: each connection that was refused was an outage of all.
async fn a_user_who_may_have_fewer_connections_than_there_are_writers_drains_all_of_them(kind: Kind) {
    for limit in ["MAX_USER_CONNECTIONS 2", "MAX_CONNECTIONS_PER_HOUR 4"] {
        let log = Log::default();
        let listening = log.listen();
        let mut rig = rig_with(kind, limit).await;
        if limit.contains("HOUR") {
            // MariaDB counts anew where the first connections of a user come in the same instant.
            connect(&mut rig).await.disconnect().await.expect("it goes");
        }
        let writers = Writer::several(&Arc::new(rig.sink()), &rig.health, WRITERS);
        let writers = store(writers, 1).await;
        assert_eq!((rig.health.status().state, rig.health.outages()), (SinkState::Up, 0), "{limit}");
        let said = rig.health.status().last_error;
        let said = said.unwrap_or_else(|| panic!("{limit}: it is not shown; the log has {} lines", log.count("WARN")));
        assert!(said.contains("1226") && said.contains("sink.connections"), "{said}");
        assert_eq!((log.count("WARN"), log.count("ERROR")), (1, 0), "{limit}: {said}");

        // Once it allows more, they come back one by one.
        rig.server()
            .run(&[
                "ALTER USER app@'127.0.0.1' WITH MAX_USER_CONNECTIONS 0 MAX_CONNECTIONS_PER_HOUR 0",
                "FLUSH USER_RESOURCES",
            ])
            .await;
        let (mut writers, mut round) = (writers, 1);
        while rig.health.status().last_error.is_some() {
            writers = store(writers, round * 10_000).await;
            round += 1;
        }
        assert_eq!((rig.health.outages(), log.count("WARN")), (0, 1), "{limit}");
        let rows: u64 = rig.server().row("SELECT COUNT(*) FROM reports").await;
        assert_eq!(rows, round * ROUNDS * 10 * WRITERS as u64);
        drop(listening);
    }
}

on_each_server!(a_user_who_may_have_no_connection_is_waited_for);
/// With none at all it is an outage.
async fn a_user_who_may_have_no_connection_is_waited_for(kind: Kind) {
    let mut rig = rig_with(kind, "MAX_USER_CONNECTIONS 1").await;
    let hog = connect(&mut rig).await;
    let writers = Writer::several(&Arc::new(rig.sink()), &rig.health, WRITERS);
    let stored = tokio::spawn(store(writers, 1));
    let down = rig.health.until(|status| status.state == SinkState::Down).await;
    assert!(down.last_error.is_some_and(|said| said.contains("1226")));
    hog.disconnect().await.expect("it goes");
    stored.await.expect("no panic");
    assert_eq!((rig.health.status().state, rig.health.outages()), (SinkState::Up, 1));
    let rows: u64 = rig.server().row("SELECT COUNT(*) FROM reports").await;
    assert_eq!(rows, ROUNDS * 10 * WRITERS as u64);
}
