//! A code that nobody knows, caused by the rows of one id: that id waits, in its order, and no other.

use mysql_async::prelude::Queryable;

use crate::support::ledger::Ledger;
use crate::support::node::Node;
use crate::support::proof::{Proof, rounds};
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::wait::eventually;
use crate::trial::{Trial, numbered, post};

const TRIGGER: &str = "CREATE TRIGGER refuses BEFORE INSERT ON reports FOR EACH ROW IF NEW.id = 'shared-0' THEN \
                       SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 31999, MESSAGE_TEXT = 'nobody knows'; END IF";

async fn count(trial: &mut Trial) -> u64 {
    let query = "SELECT COUNT(*) FROM reports WHERE id = 'shared-0'";
    trial.root.query_first(query).await.expect("root may ask").expect("a count")
}

on_each_server!(a_code_that_nobody_knows_holds_up_its_own_id_and_drops_nothing);
async fn a_code_that_nobody_knows_holds_up_its_own_id_and_drops_nothing(kind: Kind) {
    let mut trial = Trial::start("unknown code (31999) over one id", Server::start(kind).await, |node| node).await;
    let faults = rounds(2, 20);
    for _ in 0..faults {
        trial.run(TRIGGER).await;
        let stuck = count(&mut trial).await;
        let error = trial.error_is_shown().await;
        assert!(error.contains("31999"), "an operator sees it: {error}");
        trial.others_are_stored().await;
        assert_eq!(count(&mut trial).await, stuck, "the server refuses them all");
        let status = trial.node.admin_json("/api/v1/status").await;
        assert_eq!((&status["sink"]["state"], &status["audit"]["dead"]), (&"up".into(), &0.into()), "{status}");
        trial.run("DROP TRIGGER refuses").await;
        let drained = eventually("the id to be stored", async || {
            let now = count(&mut trial).await;
            if now > stuck { Ok(()) } else { Err(format!("it has {now} rows still")) }
        });
        drained.await;
    }
    let node = trial.finish(faults).await;
    let said = node.stderr();
    let loud: Vec<&str> = said.lines().filter(|line| line.contains("ERROR") && line.contains("31999")).collect();
    assert!(loud.iter().any(|line| line.contains("shared-0")), "the log names the id: {loud:?}");
    let status = node.admin_json("/api/v1/status").await;
    assert!(status["sink"]["last_error"].is_null(), "it is over: {status}");
}

on_each_server!(ids_that_are_put_back_keep_their_order);
/// Many ids of one transaction at once, each with one bad row behind good ones and before others: nothing of such an id
/// is stored out of order, and all is when the cause is gone.
async fn ids_that_are_put_back_keep_their_order(kind: Kind) {
    let mut server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).start().await;
    let (ledger, mut proof) = (Ledger::default(), Proof::on(kind, "unknown code over a row of many ids"));
    post(&node, &ledger, &[numbered("first", 0)], &["first"]).await;
    node.drained().await;
    let trigger = "CREATE TRIGGER refuses BEFORE INSERT ON reports FOR EACH ROW IF NEW.seq = 5 AND NEW.id LIKE 'bad%' \
                   THEN SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 31999; END IF";
    server
        .run(&[trigger, "ALTER TABLE reports ADD COLUMN came INT UNSIGNED NOT NULL AUTO_INCREMENT, ADD KEY (came)"])
        .await;
    // While the server is down everything gathers, to leave together after.
    server.kill();
    let ids: Vec<String> = (0..20).flat_map(|n| [format!("bad-{n}"), format!("good-{n}")]).collect();
    for seq in 0..10 {
        let reports: Vec<_> = ids.iter().map(|id| numbered(id, seq)).collect();
        post(&node, &ledger, &reports, &[]).await;
    }
    server.restart().await;
    let good = eventually("the good ids to be stored", async || {
        let rows = node.stored().rows().await?;
        let good = rows.iter().filter(|row| row.id.starts_with("good")).count();
        if good == 200 { Ok(()) } else { Err(format!("{good} rows of 200")) }
    });
    good.await;
    let ids_out_of_order = "SELECT COUNT(*) FROM reports a JOIN reports b ON a.id = b.id AND a.seq < b.seq \
                            AND a.came > b.came";
    let behind = "SELECT COUNT(*) FROM reports WHERE id LIKE 'bad%' AND seq >= 5";
    assert_eq!(server.row::<u64>(behind).await, 0, "what comes after a bad row is not stored before it");
    server.run(&["DROP TRIGGER refuses"]).await;
    let verdict = ledger.settle(&node).await;
    proof.verdict(20, &verdict);
    proof.report();
    verdict.assert_clean();
    assert_eq!(server.row::<u64>(ids_out_of_order).await, 0);
}
