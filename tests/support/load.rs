//! Clients that keep on: they reconnect, resend what is not acknowledged, and book everything in the ledger.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use super::client::{Client, Incoming};
use super::ledger::{Ledger, Sent};
use super::node::Address;
use super::wait::{eventually, within};

/// How long a client waits before it knocks again.
const KNOCK: Duration = Duration::from_millis(10);

/// What one client does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The stream that it reports for.
    pub id: String,
    /// `Some`: it numbers its reports, from here on. `None`: the node does, and what was lost in a crash is not resent.
    pub first_seq: Option<u64>,
    /// Reports that it has unacknowledged at a time.
    pub window: usize,
    /// Bytes of padding in each report's data.
    pub padding: usize,
}

/// Clients at work.
pub struct Load {
    /// What they sent and were told.
    pub ledger: Ledger,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    /// Starts one client for each plan.
    pub fn start(address: &Address, plans: impl IntoIterator<Item = Plan>) -> Self {
        let (ledger, stop) = (Ledger::default(), Arc::new(AtomicBool::new(false)));
        let mut clients = JoinSet::new();
        for (name, plan) in plans.into_iter().enumerate() {
            let (address, ledger, stop) = (Arc::clone(address), ledger.clone(), Arc::clone(&stop));
            clients.spawn(async move {
                Keen { name, plan, ledger, stop, next: 0, unacked: BTreeMap::new() }.run(&address).await;
            });
        }
        Self { ledger, stop, clients }
    }

    /// Waits until the clients have this many more acks than now.
    pub async fn more_acks(&self, more: u64) {
        let target = self.ledger.acks() + more;
        let enough = eventually("more acks", async || {
            let acks = self.ledger.acks();
            if acks >= target { Ok(()) } else { Err(format!("there are {acks} of {target}")) }
        });
        enough.await;
    }

    /// Tells the clients to send nothing new, and waits until all that they numbered is acknowledged.
    pub async fn finish(mut self) -> Ledger {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = within("every client to have its acks", self.clients.join_next()).await {
            ended.expect("a client does not panic");
        }
        self.ledger
    }
}

/// One such client.
struct Keen {
    name: usize,
    plan: Plan,
    ledger: Ledger,
    stop: Arc<AtomicBool>,
    next: u64,
    /// By `ref`.
    unacked: BTreeMap<u64, Sent>,
}

impl Keen {
    async fn run(mut self, address: &Address) {
        while !(self.stopping() && self.unacked.is_empty()) {
            let at = *address.lock().expect("no thread panics while it holds the address");
            let client = match at {
                Some(at) => Client::try_connect(at).await.ok(),
                None => None,
            };
            match client {
                Some(client) => self.converse(client).await,
                None => tokio::time::sleep(KNOCK).await,
            }
            if self.plan.first_seq.is_none() {
                // Nobody can say whether the node kept these: they may be one row each, and are not sent again.
                self.unacked.clear();
            }
        }
    }

    /// Until the connection ends, or nothing is left to do.
    async fn converse(&mut self, mut client: Client) {
        for (reference, report) in self.unacked.clone() {
            self.send(&mut client, reference, report).await;
        }
        loop {
            while self.unacked.len() < self.plan.window && !self.stopping() {
                let report = self.invent();
                self.next += 1;
                self.send(&mut client, self.next, report).await;
            }
            if self.unacked.is_empty() {
                return client.close().await;
            }
            match client.next().await {
                Incoming::Reply(reply) => self.book(&mut client, &reply).await,
                Incoming::Pong(_) => {}
                Incoming::Closed(_) | Incoming::Lost(_) => return,
            }
        }
    }

    async fn book(&mut self, client: &mut Client, reply: &Value) {
        let reference = reply["ref"].as_u64().unwrap_or_else(|| panic!("no ref in {reply}"));
        let report = self.unacked.remove(&reference).unwrap_or_else(|| panic!("a second reply: {reply}"));
        if !self.ledger.replied(&report, reply) {
            let code = reply["code"].as_u64();
            match code {
                // The connection is about to be closed; it is sent again over the next.
                Some(503) => drop(self.unacked.insert(reference, report)),
                Some(429 | 507) => {
                    tokio::time::sleep(KNOCK).await;
                    self.send(client, reference, report).await;
                }
                _ => panic!("a good report is refused for good: {reply}"),
            }
        }
    }

    async fn send(&mut self, client: &mut Client, reference: u64, report: Sent) {
        let seq = report.seq.map_or(String::new(), |seq| format!(r#""seq":{seq},"#));
        let (id, data) = (&report.id, &report.data);
        let text = format!(r#"{{"op":"report","id":"{id}",{seq}"ref":{reference},"data":{data}}}"#);
        self.ledger.sent(&report);
        self.unacked.insert(reference, report);
        client.send(text).await;
    }

    fn invent(&self) -> Sent {
        let (name, n, padding) = (self.name, self.next, "x".repeat(self.plan.padding));
        let data = format!(r#"{{"client": {name}, "n":{n}, "padding":"{padding}"}}"#);
        Sent { id: self.plan.id.clone(), seq: self.plan.first_seq.map(|first| first + n), data }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
