//! What the tests of this binary share: a node under load before a server of its own, and what is held against it.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde_json::Value;

use crate::support::ledger::{Ledger, Sent};
use crate::support::load::{Load, Plan};
use crate::support::node::Node;
use crate::support::proof::Proof;
use crate::support::servers::Server;
use crate::support::wait::eventually;

/// A fault's trial: clients report while the fault is there, and the ledger is held against the sink after it.
pub struct Trial {
    /// The server.
    pub server: Server,
    /// The node.
    pub node: Node,
    /// The clients.
    pub load: Load,
    /// A connection with all rights, open since before the fault.
    pub root: Conn,
    fault: &'static str,
    /// Reports of [`Trial::others_are_stored`].
    sent: u64,
}

impl Trial {
    /// A node that drains into `server` as a user without rights over the server; all ids have rows already.
    pub async fn start(fault: &'static str, server: Server, set: impl FnOnce(Node) -> Node) -> Self {
        let url = make_user(&server).await;
        let node = set(Node::new().set("sink.url", url).set("sink.timeout", "5s")).start().await;
        let load = Load::start(&node.address(), eight_clients());
        let mut root = server.conn().await;
        let all = eventually("rows of all ids", async || {
            let found: Option<u64> = root.query_first("SELECT COUNT(*) FROM report_streams").await.unwrap_or_default();
            if found == Some(6) { Ok(()) } else { Err(format!("{found:?} ids have some")) }
        });
        all.await;
        Self { server, node, load, root, fault, sent: 0 }
    }

    /// Runs a statement as root.
    pub async fn run(&mut self, statement: &str) {
        self.root.query_drop(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    /// Waits until reports that are sent from now on, for an id that no fault is about, are in the sink.
    pub async fn others_are_stored(&mut self) {
        for _ in 0..3 {
            self.sent += 1;
            post(&self.node, &self.load.ledger, &[numbered("untouched", self.sent)], &["untouched"]).await;
            let query = format!("SELECT COUNT(*) FROM reports WHERE id = 'untouched' AND seq = {}", self.sent);
            let stored = eventually("another id to be stored", async || {
                let found: Option<u64> = self.root.query_first(&query).await.expect("root may ask");
                if found == Some(1) { Ok(()) } else { Err("it is not".to_owned()) }
            });
            stored.await;
        }
    }

    /// Waits until the node shows an error of its sink.
    pub async fn error_is_shown(&self) -> String {
        let shown = eventually("an error to be shown", async || {
            let status = self.node.admin_json("/api/v1/status").await;
            status["sink"]["last_error"].as_str().map(str::to_owned).ok_or_else(|| status.to_string())
        });
        shown.await
    }

    /// Ends all of the node's connections to the server; how many there were.
    pub async fn kill_connections(&mut self) -> u64 {
        let query = "SELECT id FROM information_schema.processlist WHERE user = 'app'";
        let ids: Vec<u64> = self.root.query(query).await.expect("root may ask");
        for id in &ids {
            // One that has ended by itself meanwhile is no error.
            let _ = self.root.query_drop(format!("KILL CONNECTION {id}")).await;
        }
        ids.len() as u64
    }

    /// Waits until the node says that its sink is in this state; acks go on meanwhile, and after.
    pub async fn sink_becomes(&self, wanted: &str) {
        sink_becomes(&self.node, wanted).await;
        self.load.more_acks(100).await;
    }

    /// Ends the load, waits for the drain, and shows and asserts what the ledger finds after `faults` faults.
    pub async fn finish(self, faults: u64) -> Node {
        let Self { server, node, load, fault, .. } = self;
        let verdict = load.finish().await.settle(&node).await;
        let mut proof = Proof::on(server.kind(), fault);
        proof.verdict(faults, &verdict);
        proof.report();
        verdict.assert_clean();
        node
    }
}

/// Waits until the node says that its sink is in this state.
pub async fn sink_becomes(node: &Node, wanted: &str) {
    let state = eventually("the sink's state", async || {
        let status = node.admin_json("/api/v1/status").await;
        if status["sink"]["state"] == wanted { Ok(()) } else { Err(format!("it is {status}, not {wanted}")) }
    });
    state.await;
}

/// A user `app` that may read and write the database and nothing else; the server's URL for it.
pub async fn make_user(server: &Server) -> String {
    let user = "CREATE USER app@'127.0.0.1' IDENTIFIED BY 'right'";
    server.run(&[user, "GRANT ALL ON forebay.* TO app@'127.0.0.1'"]).await;
    server.url().replace("root@", "app:right@")
}

/// Four share two ids, two let the node number their reports, two are on their own.
pub fn eight_clients() -> impl Iterator<Item = Plan> {
    (0..8_u64).map(|client| Plan {
        id: match client {
            0..4 => format!("shared-{}", client % 2),
            4..6 => format!("free-{client}"),
            _ => format!("own-{client}"),
        },
        first_seq: (!(4..6).contains(&client)).then_some(client * 1_000_000_000),
        window: [1, 8, 32][client as usize % 3],
        padding: [0, 300, 2_000][client as usize % 3],
    })
}

/// Posts reports and then `done` for each id that they name, in one message, and books the replies.
pub async fn post(node: &Node, ledger: &Ledger, reports: &[Sent], done: &[&str]) {
    let message = |report: &Sent| {
        let seq = report.seq.map_or(String::new(), |seq| format!(r#""seq":{seq},"#));
        format!(r#"{{"op":"report","id":"{}",{seq}"data":{}}}"#, report.id, report.data)
    };
    let marker = |id: &&str| format!(r#"{{"op":"done","id":"{id}"}}"#);
    let messages: Vec<String> = reports.iter().map(message).chain(done.iter().map(marker)).collect();
    reports.iter().for_each(|report| ledger.sent(report));
    let replies = node.post(format!("[{}]", messages.join(","))).await;
    assert_eq!(replies.len(), messages.len(), "{replies:?}");
    for (report, reply) in reports.iter().zip(&replies) {
        assert!(ledger.replied(report, reply), "a good report is refused: {reply}");
    }
    for reply in &replies[reports.len()..] {
        assert_eq!(reply["code"], 200, "{reply}");
    }
}

/// A report with this number, and data that tells it from all others.
pub fn numbered(id: &str, seq: u64) -> Sent {
    Sent { id: id.to_owned(), seq: Some(seq), data: format!(r#"{{"id": "{id}", "n":{seq}}}"#) }
}

/// Dead letters that the node's log tells of: `id~source~seq` and the server's code.
pub fn dead_letters(node: &Node) -> Vec<(String, u64)> {
    let said = node.stderr();
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let dead = lines.filter_map(|line| {
        let fields = line.get("fields").unwrap_or(&line).clone();
        let is_one = fields["message"].as_str()?.contains("it is in the dead letters");
        is_one.then(|| (fields["key"].as_str().unwrap_or_default().to_owned(), fields["code"].as_u64().unwrap_or(0)))
    });
    dead.collect()
}
