//! The way to the server breaks at every packet of a drain, in both directions and in three manners.
//!
//! One round: the node's first packet is held back, and with it a transaction of one id, while reports of two more ids
//! gather, so that these share the next transaction. Some of their keys are in the sink already, so it has all
//! statements that a drain can have: INSERT, ROLLBACK, an INSERT for each id, the streams, their totals, COMMIT.

use crate::support::ledger::{Ledger, Sent, Verdict};
use crate::support::load::Load;
use crate::support::node::Node;
use crate::support::proof::{Proof, is_long, rounds};
use crate::support::proxy::{Counts, FAULTS, Fault, Proxy, Rule, Side};
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::wait::eventually;
use crate::trial::{eight_clients, numbered, post};

/// A node whose way to the server can be broken.
struct Bench {
    server: Server,
    proxy: Proxy,
    node: Node,
    ledger: Ledger,
    round: u64,
    /// Rounds in which the drain ended before the packet came.
    not_reached: u64,
}

impl Bench {
    async fn start(kind: Kind, timeout: &str) -> Self {
        let server = Server::start(kind).await;
        let proxy = Proxy::start(server.port()).await;
        let node = Node::new().set("sink.url", proxy.url(&server.url())).set("sink.timeout", timeout);
        let node = node.set("sink.connections", 1).set("flush.tick", "1h").start().await;
        let mut bench = Self { server, proxy, node, ledger: Ledger::default(), round: 0, not_reached: 0 };
        bench.drain(&[]).await;
        bench
    }

    /// Gathers a round's reports behind the first packet, then lets them go with these rules.
    async fn begin(&mut self, rules: &[Rule]) {
        self.round += 1;
        self.proxy.hold();
        post(&self.node, &self.ledger, &[numbered("plug", self.round)], &["plug"]).await;
        self.proxy.holds_one().await;
        let seqs = self.round * 3..self.round * 3 + 3;
        let mut reports: Vec<Sent> = seqs.clone().flat_map(|seq| [numbered("a", seq), numbered("b", seq)]).collect();
        // One that the round before stored, and one twice.
        reports.extend([numbered("a", seqs.start.max(4) - 1), numbered("b", seqs.start)]);
        post(&self.node, &self.ledger, &reports, &["a", "b"]).await;
        self.proxy.arm(rules);
        self.proxy.release();
    }

    /// A whole round; how many packets it took.
    async fn drain(&mut self, rules: &[Rule]) -> Counts {
        self.begin(rules).await;
        self.node.drained().await;
        self.not_reached += u64::from(self.proxy.disarm() > 0);
        self.proxy.counts()
    }

    /// Rounds until one gets as far as the rules' packets, three at the most: on a busy machine drains may be short.
    async fn drain_until_reached(&mut self, rules: &[Rule]) {
        let before = self.not_reached;
        for _ in 0..3 {
            self.not_reached = before;
            self.drain(rules).await;
            if self.not_reached == before {
                return;
            }
        }
    }

    async fn verdict(&self) -> Verdict {
        self.ledger.settle(&self.node).await
    }
}

/// Each packet of each side with each of `faults`; in the short form about `short` of them, evenly.
fn each(from: Counts, to: Counts, faults: &[Fault], short: usize) -> Vec<Rule> {
    let rules = |side, nths: std::ops::RangeInclusive<u64>| {
        nths.flat_map(move |nth| faults.iter().map(move |&fault| Rule { side, nth, fault }))
    };
    let client = rules(Side::Client, from.client + 1..=to.client);
    let all: Vec<Rule> = client.chain(rules(Side::Server, from.server + 1..=to.server)).collect();
    // Not a multiple of the number of faults, so that each of them is among those sampled.
    let step = if is_long() { 1 } else { (all.len() / short).max(1) };
    let step = if step > 1 && step % 3 == 0 { step + 1 } else { step };
    println!("{} packets of the node, {} of the server: {} faults", to.client, to.server, all.len());
    all.into_iter().step_by(step).collect()
}

/// Runs a round for each rule, and holds the ledger against the sink after each.
async fn try_each(bench: &mut Bench, fault: &'static str, before: &[Rule], rules: Vec<Rule>) {
    let mut proof = Proof::on(bench.server.kind(), fault);
    let mut injected = 0;
    for rule in rules {
        let both: Vec<Rule> = before.iter().copied().chain([rule]).collect();
        bench.drain_until_reached(&both).await;
        injected += 1;
        let verdict = bench.verdict().await;
        if !verdict.is_clean() {
            proof.verdict(injected, &verdict);
            proof.report();
            panic!("after {rule:?}: {verdict}");
        }
    }
    let verdict = bench.verdict().await;
    proof.verdict(injected - bench.not_reached, &verdict);
    proof.report();
    verdict.assert_clean();
    // How many packets a drain takes varies a little with how its reports come together.
    assert!(bench.not_reached * 4 <= injected, "{} of {injected} faults were not reached", bench.not_reached);
}

on_each_server!(a_way_that_breaks_at_any_packet_of_a_drain_loses_and_doubles_nothing);
async fn a_way_that_breaks_at_any_packet_of_a_drain_loses_and_doubles_nothing(kind: Kind) {
    let mut bench = Bench::start(kind, "300ms").await;
    let packets = bench.drain(&[]).await;
    let mut rules = each(Counts::default(), packets, &FAULTS, 20);
    // In the midst of each result of the first transaction: the guard of its claim, and the totals of its id.
    rules.extend((2..=16).map(|nth| Rule { side: Side::Server, nth, fault: Fault::Silence }));
    try_each(&mut bench, "connection broken at a packet of a drain", &[], rules).await;
}

on_each_server!(a_way_that_breaks_again_at_any_packet_of_the_next_connection_loses_and_doubles_nothing);
/// The first packet of the drain is lost with its connection, and the next connection breaks, too: in its handshake, in
/// what prepares it, in the probe, or in the drain.
async fn a_way_that_breaks_again_at_any_packet_of_the_next_connection_loses_and_doubles_nothing(kind: Kind) {
    let mut bench = Bench::start(kind, "300ms").await;
    let first = Rule { side: Side::Client, nth: 1, fault: Fault::Cut };
    let packets = bench.drain(&[first]).await;
    let rules = each(Counts { client: 1, server: 0 }, packets, &FAULTS, 24);
    try_each(&mut bench, "connection broken at a packet of a reconnect", &[first], rules).await;
}

on_each_server!(a_node_that_is_killed_with_a_transaction_in_doubt_loses_and_doubles_nothing);
/// The node knows neither that COMMIT was done nor that it was not, and dies.
async fn a_node_that_is_killed_with_a_transaction_in_doubt_loses_and_doubles_nothing(kind: Kind) {
    let mut bench = Bench::start(kind, "30s").await;
    let packets = bench.drain(&[]).await;
    let mut proof = Proof::on(kind, "kill -9 of the node with a transaction in granularity");
    let rules = each(Counts::default(), packets, &[Fault::Silence], 10);
    let mut injected = 0;
    for rule in rules {
        bench.begin(&[rule]).await;
        let fired = eventually("the fault, or the end of the drain", async || {
            let backlog = bench.node.audit().await["backlog"].clone();
            if bench.proxy.is_done() || backlog == 0 { Ok(bench.proxy.is_done()) } else { Err(format!("{backlog}")) }
        });
        injected += u64::from(fired.await);
        bench.proxy.disarm();
        // Its commit makes durable whatever was written before, right or wrong.
        post(&bench.node, &bench.ledger, &[numbered("other", bench.round)], &[]).await;
        bench.node.kill();
        bench.node.restart().await;
        // `other` waits for no tick.
        post(&bench.node, &bench.ledger, &[], &["other"]).await;
        let verdict = bench.verdict().await;
        if !verdict.is_clean() {
            proof.verdict(injected, &verdict);
            proof.report();
            panic!("after {rule:?}: {verdict}");
        }
    }
    proof.verdict(injected, &bench.verdict().await);
    proof.report();
    assert!(injected > 0);
}

on_each_server!(a_way_that_breaks_over_and_over_under_load_loses_and_doubles_nothing);
async fn a_way_that_breaks_over_and_over_under_load_loses_and_doubles_nothing(kind: Kind) {
    let server = Server::start(kind).await;
    let proxy = Proxy::start(server.port()).await;
    let node = Node::new().set("sink.url", proxy.url(&server.url())).set("sink.timeout", "300ms").start().await;
    let load = Load::start(&node.address(), eight_clients());
    load.more_acks(300).await;
    let injected = rounds(30, 1_000);
    for round in 1..=injected {
        let side = if round % 2 == 0 { Side::Client } else { Side::Server };
        // The steps have no factor in common with the number of faults and sides, so all come together.
        let rule = Rule { side, nth: 1 + (round * 7) % 41, fault: FAULTS[(round / 2) as usize % 3] };
        proxy.arm(&[rule]);
        proxy.done().await;
    }
    let verdict = load.finish().await.settle(&node).await;
    let mut proof = Proof::on(kind, "connection broken at a random packet under load");
    proof.verdict(injected, &verdict);
    proof.report();
    verdict.assert_clean();
}
