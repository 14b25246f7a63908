//! Other sessions that hold locks, and that lock in the opposite order: what they do not touch is stored meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mysql_async::prelude::Queryable;

use crate::support::client::Client;
use crate::support::node::Node;
use crate::support::proof::rounds;
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::wait::eventually;
use crate::trial::Trial;

/// Somebody has the row of one id for as long as he likes. With 1205 from the server, and where the node's own timeout
/// is shorter than the server's.
async fn a_locked_row(kind: Kind, fault: &'static str, timeout: &str) {
    let set = |node: Node| node.set("sink.timeout", timeout);
    let mut trial = Trial::start(fault, Server::start(kind).await, set).await;
    let faults = rounds(1, 10);
    for _ in 0..faults {
        let mut holder = trial.server.conn().await;
        for lock in ["BEGIN", "SELECT * FROM report_streams WHERE id = 'shared-0' FOR UPDATE"] {
            holder.query_drop(lock).await.expect("the row is free sooner or later");
        }
        trial.others_are_stored().await;
        trial.error_is_shown().await;
        trial.others_are_stored().await;
        holder.query_drop("ROLLBACK").await.expect("it lives");
    }
    trial.finish(faults).await;
}

on_each_server!(a_row_that_is_locked_for_long_holds_up_its_own_id_only);
async fn a_row_that_is_locked_for_long_holds_up_its_own_id_only(kind: Kind) {
    a_locked_row(kind, "row locked by another session (1205)", "5s").await;
}

on_each_server!(a_row_that_is_locked_past_the_timeout_holds_up_its_own_id_only);
async fn a_row_that_is_locked_past_the_timeout_holds_up_its_own_id_only(kind: Kind) {
    a_locked_row(kind, "row locked for longer than sink.timeout", "500ms").await;
}

on_each_server!(a_table_that_is_locked_for_long_delays_reports_and_loses_none);
async fn a_table_that_is_locked_for_long_delays_reports_and_loses_none(kind: Kind) {
    let mut trial = Trial::start("table locked by another session", Server::start(kind).await, |node| node).await;
    let faults = rounds(1, 20);
    for _ in 0..faults {
        trial.run("LOCK TABLES reports WRITE, report_streams WRITE").await;
        trial.error_is_shown().await;
        trial.load.more_acks(100).await;
        trial.run("UNLOCK TABLES").await;
    }
    trial.finish(faults).await;
}

on_each_server!(deadlocks_under_load_lose_and_double_nothing);
/// Another session updates the streams' rows in the opposite order, in one transaction after the other.
async fn deadlocks_under_load_lose_and_double_nothing(kind: Kind) {
    let mut trial = Trial::start("deadlock (1213)", Server::start(kind).await, |node| node).await;
    let count = async |trial: &mut Trial| -> u64 {
        let query = "SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'";
        trial.root.query_first(query).await.expect("root may ask").expect("the server counts them")
    };
    let stop = Arc::new(AtomicBool::new(false));
    let mut other = trial.server.conn().await;
    let stopping = Arc::clone(&stop);
    let contrary = tokio::spawn(async move {
        while !stopping.load(Ordering::SeqCst) {
            let begun = other.query_drop("BEGIN").await;
            for id in ["shared-1", "shared-0", "own-7", "own-6", "free-5", "free-4"] {
                // The victim of a deadlock may be this one; then it begins again, as the node does.
                let update = format!("UPDATE report_streams SET state_position = state_position WHERE id = '{id}'");
                if begun.is_err() || other.query_drop(update).await.is_err() {
                    break;
                }
            }
            let _ = other.query_drop("COMMIT").await;
        }
    });
    let wanted = rounds(5, 500);
    loop {
        trial.load.more_acks(50).await;
        if count(&mut trial).await >= wanted {
            break;
        }
    }
    stop.store(true, Ordering::SeqCst);
    contrary.await.expect("no panic");
    let faults = count(&mut trial).await;
    trial.finish(faults).await;
}

on_each_server!(a_row_over_which_the_server_stalls_holds_up_its_own_id_only);
/// A statement that takes longer than the node waits, for the rows of one id: all others are stored.
async fn a_row_over_which_the_server_stalls_holds_up_its_own_id_only(kind: Kind) {
    let set = |node: Node| node.set("sink.timeout", "500ms");
    let mut trial = Trial::start("the server stalls over one id's rows", Server::start(kind).await, set).await;
    let trigger = "CREATE TRIGGER stalls BEFORE INSERT ON reports FOR EACH ROW IF NEW.id = 'stalling' THEN \
                   DO SLEEP(2); END IF";
    trial.run(trigger).await;
    Client::connect(trial.node.ingest()).await.report("stalling", 1, "1").await;
    for _ in 0..rounds(2, 20) {
        trial.others_are_stored().await;
    }
    let rows = trial.node.stored().rows_of("stalling").await.expect("a sink");
    assert!(rows.is_empty(), "it stalls: {rows:?}");
    trial.run("DROP TRIGGER stalls").await;
    let stored =
        eventually("the id to be stored", async || match &trial.node.stored().rows_of("stalling").await?[..] {
            [_] => Ok(()),
            rows => Err(format!("{rows:?}")),
        });
    stored.await;
    trial.run("DELETE FROM reports WHERE id = 'stalling'").await;
    trial.run("DELETE FROM report_streams WHERE id = 'stalling'").await;
    trial.finish(1).await;
}
