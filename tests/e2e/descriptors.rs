//! A process that may open few files: a crowd of connections takes none of those that the journal needs.

use std::net::TcpStream;

use crate::limits::DEAD;
use crate::support::client::Client;
use crate::support::node::Node;

/// Far more than the node may have open.
const CROWD: usize = 400;

/// The journal once got no descriptor for its next file of bundles, and the node ended.
#[tokio::test]
async fn a_crowd_of_connections_never_keeps_the_journal_from_its_files() {
    let mut node = Node::new().set("sink.url", DEAD);
    node.under(&["prlimit", "--nofile=160:160", "--"]);
    let node = node.start().await;
    let mut client = Client::connect(node.ingest()).await;
    // Who is refused is closed; the others stay.
    let crowd: Vec<TcpStream> = (0..CROWD).filter_map(|_| TcpStream::connect(node.ingest()).ok()).collect();
    assert!(crowd.len() > 160, "only {} connected", crowd.len());
    // Some files of bundles of 2 MiB each, and lanes beyond them.
    let data = format!("\"{}\"", "x".repeat(60_000));
    for seq in 0..300 {
        client.report(&format!("id-{}", seq % 7), seq, &data).await;
    }
    assert!(node.stderr().contains("what is left is for the journal"), "nobody says why connections are not taken");
    drop(crowd);
    assert_eq!(node.audit().await["backlog"], 300);
}
