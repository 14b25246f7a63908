//! What an operator does: each action asks first, and does what it says.

use serde_json::json;

use crate::driver::Browser;
use crate::page::loaded;
use crate::support::mariadb::MariaDb;
use crate::support::node::Node;
use crate::support::servers::{NARROW, WIDE};
use crate::support::wait::{eventually, same};

/// A node whose sink refuses codes over 32,767, with `dead` dead letters of the id `meter-7`.
pub async fn with_dead_letters(mariadb: &MariaDb, dead: u64) -> Node {
    let node = Node::new().set("sink.url", mariadb.url()).start().await;
    node.post(r#"{"op":"report","id":"first","seq":0}"#).await;
    node.drained().await;
    mariadb.run(&[NARROW]).await;
    let report = |seq| json!({"op": "report", "id": "meter-7", "seq": seq, "code": 100_000, "data": {"kwh": seq}});
    node.post(json!((1..=dead).map(report).collect::<Vec<_>>()).to_string()).await;
    assert_eq!(node.drained().await["dead"], dead);
    node
}

#[tokio::test]
async fn a_dead_letter_is_retried_by_clicking_and_becomes_a_row() {
    let mariadb = MariaDb::start().await;
    let (node, browser) = (with_dead_letters(&mariadb, 1).await, Browser::start().await);
    browser.open(node.admin(), "#/dead").await;
    browser.shows("#verdict", "1 dead letter").await;
    browser.press("meter-7~0~1").await;
    browser.shows("#ask", "Out of range").await;
    browser.shows("#ask pre", r#"{"kwh":1}"#).await;
    browser.press("Close").await;
    browser.click("#dead-rows button[aria-label^='Retry']").await;
    browser.shows("#ask", "Retry this dead letter?").await;
    browser.click("#ask .main").await;
    browser.shows("#toasts", "the sink refuses it again").await;
    mariadb.run(&[WIDE]).await;
    browser.click("#dead-rows button[aria-label^='Retry']").await;
    browser.press("Cancel").await;
    assert_eq!(node.audit().await["dead"], 1);
    browser.click("#dead-rows button[aria-label^='Retry']").await;
    browser.click("#ask .main").await;
    browser.shows("#toasts", "1 report is a row in the sink now").await;
    let rows = node.stored().data_of("meter-7").await.expect("a sink");
    assert_eq!(rows, [r#"{"kwh":1}"#]);
    browser.shows("#dead-note", "None").await;
    browser.shows("#verdict", "All is well").await;
}

#[tokio::test]
async fn dead_letters_are_retried_together_discarded_one_by_one_and_exported() {
    let mariadb = MariaDb::start().await;
    let (node, browser) = (with_dead_letters(&mariadb, 45).await, Browser::start().await);
    browser.open(node.admin(), "").await;
    loaded(&browser).await;
    assert_eq!(browser.texts("#dead-rows tr").await.len(), 20);
    browser.shows("#dead-pages", "1 to 20").await;
    browser.click("#dead-pages button:nth-child(2)").await;
    browser.shows("#dead-pages", "21 to 40").await;
    browser.click("#dead-pages button:nth-child(2)").await;
    browser.shows("#dead-pages", "41 to 45 of 45").await;
    browser.click("#dead-rows tr:first-child button[aria-label^='Discard']").await;
    browser.shows("#ask", "There is no way back").await;
    // The focus is on Cancel: Enter alone discards nothing.
    browser.keys("\u{e007}").await;
    browser.click("#dead-rows tr:first-child button[aria-label^='Discard']").await;
    browser.press("Discard for good").await;
    browser.shows("#toasts", "is discarded").await;
    browser.shows("#dead-pages", "of 44").await;
    let export = browser.script("return fetch(document.getElementById('export').href).then((a) => a.text())").await;
    assert_eq!(export.as_str().expect("a text").lines().count(), 44);
    mariadb.run(&[WIDE]).await;
    browser.press("Retry all").await;
    browser.click("#ask .main").await;
    browser.shows("#toasts", "44 reports are rows in the sink now").await;
    let audit = node.audit().await;
    assert_eq!((&audit["dead"], &audit["discarded"], &audit["balanced"]), (&json!(0), &json!(1), &json!(true)));
}

#[tokio::test]
async fn an_id_is_paused_and_resumed_by_clicking() {
    let (node, browser) = (Node::new().start().await, Browser::start().await);
    browser.open(node.admin(), "#/id/meter-7").await;
    browser.press("Pause").await;
    browser.shows("#ask", "Until it is resumed").await;
    browser.click("#ask .main").await;
    browser.shows("#toasts", "meter-7 is paused").await;
    node.post(r#"{"op":"report","id":"meter-7","seq":1,"data":{"kwh":"<b>12"}}"#).await;
    node.post(r#"{"op":"report","id":"other","seq":1}"#).await;
    browser.shows("#stream .state", "paused").await;
    browser.shows("#stream tbody", r#"{"kwh":"<b>12"}"#).await;
    let stored = eventually("the other id to be stored", async || same(node.audit().await["stored"].as_u64(), Some(1)));
    stored.await;
    assert!(node.stored().rows_of("meter-7").await.expect("a sink").is_empty());
    browser.press("Resume").await;
    browser.shows("#toasts", "meter-7 goes on").await;
    node.drained().await;
    assert_eq!(node.stored().rows_of("meter-7").await.expect("a sink").len(), 1);
    browser.shows("#stream .state", "drained").await;
    assert_eq!(browser.console().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_first_report_that_waits_is_set_aside_by_clicking_with_a_reason() {
    let node = Node::new().set("flush.tick", "1h").start().await;
    let browser = Browser::start().await;
    for seq in 1..=2 {
        node.post(json!({"op": "report", "id": "meter-7", "seq": seq, "data": {"kwh": seq}}).to_string()).await;
    }
    browser.open(node.admin(), "#/id/meter-7").await;
    browser.press("Set the first aside").await;
    browser.press("Cancel").await;
    browser.press("Set the first aside").await;
    browser.shows("#ask", "those behind it go on").await;
    browser.keys("<b>odd</b>").await;
    browser.click("#ask .main").await;
    browser.shows("#toasts", "meter-7~0~1 is a dead letter now").await;
    node.drained().await;
    browser.open(node.admin(), "#/dead").await;
    browser.shows("#dead-rows", "set aside").await;
    browser.shows("#dead-rows .error", "<b>odd</b>").await;
    browser
        .script(
            "const kind = document.getElementById('dead-kind'); kind.value = 'refused'; \
                    kind.dispatchEvent(new Event('change'))",
        )
        .await;
    browser.shows("#dead-note", "None of this kind").await;
    assert_eq!(node.audit().await["balanced"], true);
    assert_eq!(browser.console().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_id_that_waits_for_its_tick_is_flushed_by_clicking() {
    let node = Node::new().set("flush.tick", "1h").start().await;
    let browser = Browser::start().await;
    node.post(r#"{"op":"report","id":"slow","seq":1}"#).await;
    browser.open(node.admin(), "").await;
    browser.click("#ids-rows a").await;
    browser.shows("#stream .state", "waiting").await;
    browser.press("Flush now").await;
    browser.shows("#stream .state", "drained").await;
    assert_eq!(node.audit().await["stored"], 1);
}
