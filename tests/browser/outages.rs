//! What an operator sees of an outage, of the sink and of the node itself.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::driver::Browser;
use crate::page::loaded;
use crate::support::http;
use crate::support::mariadb::MariaDb;
use crate::support::node::Node;

/// Between two reports of the traffic.
const BETWEEN: Duration = Duration::from_millis(5);

/// Reports that go on until the task is aborted, some hundred a second at most.
pub fn traffic(node: &Node) -> tokio::task::JoinHandle<()> {
    let ingest = node.ingest();
    tokio::spawn(async move {
        for seq in 0_u64.. {
            let report = json!({"op": "report", "id": format!("sensor-{}", seq % 40), "seq": seq, "data": {"n": seq}});
            http::post(ingest, "/reports", "application/json", report.to_string()).await;
            tokio::time::sleep(BETWEEN).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_sink_is_seen_and_so_is_its_end() {
    let mut mariadb = MariaDb::start().await;
    let node = Node::new().set("sink.url", mariadb.url()).start().await;
    let (browser, traffic) = (Browser::start().await, traffic(&node));
    browser.open(node.admin(), "").await;
    loaded(&browser).await;
    browser.shows("#verdict", "All is well").await;
    mariadb.kill();
    let killed = Instant::now();
    browser.shows("#verdict", "The sink is down").await;
    println!("seen {} ms after the kill", killed.elapsed().as_millis());
    browser.shows("#sink-now", "Down since").await;
    browser.shows("#seen", "The sink is down").await;
    let title = browser.script("return document.title").await;
    assert_eq!(title, "The sink is down · Forebay");
    mariadb.restart().await;
    browser.shows("#verdict", "All is well").await;
    browser.shows("#seen", "The sink is up again").await;
    assert_eq!(browser.console().await, Vec::<String>::new());
    traffic.abort();
}

#[tokio::test]
async fn a_node_that_is_gone_is_said_to_be_and_comes_back_by_itself() {
    let (mut node, browser) = (Node::new().start().await, Browser::start().await);
    browser.open(node.admin(), "").await;
    loaded(&browser).await;
    let admin = node.admin();
    node.kill();
    browser.shows("#gone", "has not answered since").await;
    browser.shows("#link", "No answer").await;
    assert_eq!(browser.script("return document.body.className").await, "gone");
    node.change("admin.listen", admin.to_string());
    node.restart().await;
    browser.shows("#link", "Live").await;
    browser.shows("#verdict", "All is well").await;
    browser.shows("#seen", "answers again").await;
    let banner = browser.script("return document.getElementById('gone').hidden").await;
    assert_eq!((banner, browser.script("return document.body.className").await), (true.into(), "".into()));
}
