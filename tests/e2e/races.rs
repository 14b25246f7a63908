//! Appends that meet what else is done to their id at that moment: its batch is being committed, it is being
//! drained, it is closed and opened again over another connection, and the node is killed in the midst of all that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::client::{Client, Incoming, report};
use crate::support::ledger::{Ledger, Sent, Verdict};
use crate::support::node::{Address, Node};
use crate::support::proof::{self, Proof};
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::wait::{eventually, same, within};

/// A node where each report is a batch, so that ids drain and return all the time, and what waits is sorted at once.
fn restless_node() -> Node {
    Node::new().set("journal.recent_bytes", 0).set("flush.batch", 1).set("flush.tick", "10ms")
}

/// Whether and how a client ends its connection after a `done`, in turn.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Leaves {
    Never,
    /// With a close frame, or without a word.
    EveryThird,
}

/// Clients, of which several speak for each id: some reports, `done`, and with its event, when the id is drained and
/// gone, the next reports at once.
struct Churn {
    ledger: Ledger,
    /// How often a report met an id that was about to leave: the events of `done` that were followed by one.
    returns: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Churn {
    fn start(address: &Address, ids: u64, clients_per_id: u64, leaves: Leaves) -> Self {
        let (returns, stop) = (Arc::default(), Arc::default());
        let mut churn = Self { ledger: Ledger::default(), returns, stop, clients: JoinSet::new() };
        for client in 0..ids * clients_per_id {
            let churner = Churner {
                id: format!("id-{}", client % ids),
                next: client * 1_000_000_000,
                acked: 0,
                round: client,
                unacked: BTreeMap::new(),
                leaves,
                ledger: churn.ledger.clone(),
                returns: Arc::clone(&churn.returns),
                stop: Arc::clone(&churn.stop),
            };
            churn.clients.spawn(churner.run(Arc::clone(address)));
        }
        churn
    }

    async fn more_returns(&self, more: u64) {
        let last = self.returns.load(Ordering::SeqCst) + more;
        // In steps, each of which may take its time.
        for target in (last - more..last).step_by(500).skip(1).chain([last]) {
            let enough = eventually("ids to drain and return", async || {
                let returns = self.returns.load(Ordering::SeqCst);
                if returns >= target { Ok(()) } else { Err(format!("{returns} of {target} did")) }
            });
            enough.await;
        }
    }

    /// Lets every client end with a `done`; how often ids returned, and the verdict.
    async fn finish(mut self, node: &Node) -> (u64, Verdict) {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = within("every client to have its answers", self.clients.join_next()).await {
            ended.expect("a client does not panic");
        }
        let verdict = self.ledger.settle(node).await;
        let gone = eventually("every id to leave the journal", async || {
            same(node.admin_json("/api/v1/status").await["journal"]["streams"].clone(), json!(0))
        });
        gone.await;
        (self.returns.load(Ordering::SeqCst), verdict)
    }
}

struct Churner {
    id: String,
    /// The number of its next report.
    next: u64,
    acked: u64,
    round: u64,
    /// By number.
    unacked: BTreeMap<u64, Sent>,
    leaves: Leaves,
    ledger: Ledger,
    returns: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Churner {
    async fn run(mut self, address: Address) {
        while !self.stop.load(Ordering::SeqCst) || !self.unacked.is_empty() {
            let at = *address.lock().expect("no thread panics while it holds the address");
            match at {
                Some(at) => {
                    if let Ok(client) = Client::try_connect(at).await {
                        self.converse(client).await;
                    }
                }
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Until the connection ends, on either side.
    async fn converse(&mut self, mut client: Client) {
        for sent in self.unacked.clone().into_values() {
            self.send(&mut client, sent).await;
        }
        loop {
            self.round += 1;
            for _ in 0..1 + self.round % 3 {
                let data = format!(r#"{{"n":{}}}"#, self.next);
                self.send(&mut client, Sent { id: self.id.clone(), seq: Some(self.next), data }).await;
                self.next += 1;
            }
            client.send(json!({"op": "done", "id": self.id, "ref": "done"}).to_string()).await;
            if !self.answered(&mut client).await {
                return;
            }
            if self.stop.load(Ordering::SeqCst) {
                return client.close().await;
            }
            match (self.leaves, self.round % 6) {
                (Leaves::EveryThird, 0) => return client.close().await,
                (Leaves::EveryThird, 3) => return,
                _ => {}
            }
        }
    }

    async fn send(&mut self, client: &mut Client, sent: Sent) {
        let seq = sent.seq.expect("it numbers its reports");
        self.ledger.sent(&sent);
        let text = json!({"op": "report", "id": sent.id, "seq": seq, "ref": seq, "data": null}).to_string();
        client.send(text.replace("null", &sent.data)).await;
        self.unacked.insert(seq, sent);
    }

    /// Books all answers up to the event of `done`, which has at least what was acknowledged here; whether it came.
    async fn answered(&mut self, client: &mut Client) -> bool {
        loop {
            let reply = match client.next().await {
                Incoming::Reply(reply) => reply,
                Incoming::Pong(_) => continue,
                Incoming::Closed(_) | Incoming::Lost(_) => return false,
            };
            if reply["op"] == "done" {
                let rows = reply["reports"].as_u64().expect("a count");
                assert!(rows >= self.acked, "{} of this client are acknowledged, but {reply}", self.acked);
                self.returns.fetch_add(1, Ordering::SeqCst);
                return true;
            }
            if let Some(seq) = reply["ref"].as_u64() {
                let sent = self.unacked.remove(&seq).unwrap_or_else(|| panic!("a second reply: {reply}"));
                assert!(self.ledger.replied(&sent, &reply), "a good report is refused: {reply}");
                self.acked += 1;
            }
        }
    }
}

fn report_and_assert(fault: &'static str, injected: u64, verdict: &Verdict) {
    let mut proof = Proof::new(fault);
    proof.verdict(injected, verdict);
    proof.report();
    verdict.assert_clean();
}

/// All clients ended with a `done`, so that is what is left of each id: a marker that overtook it, or that came after
/// it though the id was done, would show.
async fn assert_all_done(node: &Node) {
    for stream in node.stored().streams().await.expect("the sink can be read") {
        assert_eq!(stream.state, "done", "{stream:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_while_its_id_is_committed_or_drained_is_stored_once() {
    let node = restless_node().start().await;
    let churn = Churn::start(&node.address(), 8, 2, Leaves::Never);
    churn.more_returns(proof::rounds(1_000, 50_000)).await;
    let (returns, verdict) = churn.finish(&node).await;
    report_and_assert("append while its id drains", returns, &verdict);
    assert_all_done(&node).await;
}

on_each_server!(an_append_while_another_transaction_is_committed_is_stored_once);
/// With several transactions at a time.
async fn an_append_while_another_transaction_is_committed_is_stored_once(kind: Kind) {
    let server = Server::start(kind).await;
    let node = restless_node().set("sink.url", server.url()).start().await;
    let churn = Churn::start(&node.address(), 8, 2, Leaves::Never);
    churn.more_returns(proof::rounds(500, 20_000)).await;
    let (returns, verdict) = churn.finish(&node).await;
    report_and_assert("append while its id drains, several transactions at a time", returns, &verdict);
    assert_all_done(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_closed_and_opened_over_other_connections_is_stored_once() {
    let node = restless_node().start().await;
    let churn = Churn::start(&node.address(), 4, 3, Leaves::EveryThird);
    churn.more_returns(proof::rounds(1_000, 50_000)).await;
    let (returns, verdict) = churn.finish(&node).await;
    report_and_assert("id closed and opened again over other connections", returns, &verdict);
    assert_all_done(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nine_while_ids_drain_return_close_and_open_loses_nothing() {
    let mut node = restless_node().start().await;
    let churn = Churn::start(&node.address(), 6, 2, Leaves::EveryThird);
    let rounds = proof::rounds(5, 200);
    for round in 1..=rounds {
        churn.more_returns(20).await;
        tokio::time::sleep(Duration::from_millis((round * 61) % 200)).await;
        node.kill();
        node.restart().await;
    }
    let (_, verdict) = churn.finish(&node).await;
    report_and_assert("SIGKILL while ids drain, return, close and open", rounds, &verdict);
}

/// What was kept last decides, in the order of the journal: that of the answers to two connections is another.
#[tokio::test]
async fn a_report_and_a_done_over_two_connections_at_once_leave_what_the_later_says() {
    let ids: Vec<_> = (0..proof::rounds(200, 5_000)).map(|n| format!("id-{n}")).collect();
    let node = Node::new().set("flush.batch", 1).start().await;
    let (mut one, mut two) = (Client::connect(node.ingest()).await, Client::connect(node.ingest()).await);
    let ledger = Ledger::default();
    let sent = |id: &str, seq: u64| {
        let sent = Sent { id: id.to_owned(), seq: Some(seq), data: seq.to_string() };
        ledger.sent(&sent);
        sent
    };
    for id in &ids {
        for (client, seq) in [(&mut one, 1), (&mut two, 2)] {
            let sent = sent(id, seq);
            assert!(ledger.replied(&sent, &client.report(id, seq, &sent.data).await));
        }
    }
    for (n, id) in ids.iter().enumerate() {
        let (reporter, ender) = if n % 2 == 0 { (&mut one, &mut two) } else { (&mut two, &mut one) };
        let third = sent(id, 3);
        tokio::join!(reporter.send(report(id, 3, "3")), ender.send(json!({"op": "done", "id": id}).to_string()));
        // The reporter has an ack, the ender an ack and an event.
        assert!(ledger.replied(&third, &reporter.reply().await));
        let replies: Vec<Value> = vec![ender.reply().await, ender.reply().await];
        assert!(replies.iter().all(|reply| reply["op"] != "error"), "{replies:?}");
    }
    let verdict = ledger.settle(&node).await;
    report_and_assert("report and done of one id at once, over two connections", ids.len() as u64, &verdict);
    let before = node.stored().streams().await.expect("the sink can be read");
    one.close().await;
    two.close().await;
    let marked = eventually("each id that is not done to be marked", async || {
        let after = node.stored().streams().await?;
        for (before, after) in before.iter().zip(&after) {
            let wanted = if before.state == "done" { "done" } else { "disconnected" };
            same((after.id.as_str(), after.state.as_str()), (before.id.as_str(), wanted))?;
        }
        Ok(())
    });
    marked.await;
}
