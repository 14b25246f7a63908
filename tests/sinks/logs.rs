//! What an operator reads: once, and naming the cause.

use std::io::Write;
use std::sync::{Arc, Mutex};

use forebay::sink::{Class, Sink, SinkState, Writer};

use super::outcome;
use super::sinks::{Rig, batch, report};
use crate::support::servers::{Kind, Server, on_each_server};

/// A log that a test can read.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub fn count(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).matches(text).count()
    }

    pub fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish();
        tracing::subscriber::set_default(subscriber)
    }
}

on_each_server!(an_outage_is_logged_once_when_it_begins_and_once_when_it_ends, flavor = "current_thread");
/// Invariant 7, and no more than one line for an outage.
async fn an_outage_is_logged_once_when_it_begins_and_once_when_it_ends(kind: Kind) {
    let log = Log::default();
    let _listening = log.listen();
    let mut rig = Rig::start(kind).await;
    rig.server().kill();
    let sink = Arc::new(rig.sink());
    let stores: Vec<_> = (1..=4)
        .map(|n| {
            let mut writer = Writer::new(Arc::clone(&sink), Arc::clone(&rig.health));
            tokio::spawn(async move { writer.store(&[batch(&format!("id{n}"), vec![report(n, n)])]).await })
        })
        .collect();
    rig.health.until(|status| status.state == SinkState::Down && rig.health.retries(Class::Outage) > 5).await;
    rig.server().restart().await;
    for store in stores {
        assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
    }
    assert_eq!((log.count("ERROR"), log.count("the sink is up again")), (1, 1));
}

on_each_server!(a_risky_server_is_warned_of_once_in_the_life_of_the_process, flavor = "current_thread");
async fn a_risky_server_is_warned_of_once_in_the_life_of_the_process(kind: Kind) {
    let log = Log::default();
    let _listening = log.listen();
    let rig = Rig::of(Server::start_with(kind, &["--innodb-flush-log-at-trx-commit=2", "--sql-mode="]).await);
    rig.make_tables().await;
    let sink = rig.sink();
    for _ in 0..3 {
        sink.connect().await.expect("it is up");
    }
    for named in ["setting=\"innodb_flush_log_at_trx_commit\" value=\"2\"", "setting=\"sql_mode\""] {
        assert_eq!(log.count(named), 1, "{named}");
    }
    assert_eq!(log.count("WARN"), 2);
}
