//! Ids with a backlog: sorted, searched, page by page; by keyboard too.

use serde_json::json;

use crate::driver::Browser;
use crate::page::loaded;
use crate::support::node::Node;
use crate::support::wait::eventually;

const NAMES: &str = "#ids-rows th";

/// 300 ids: `a-000` with one report, `a-001` with two, and so on to `c-299`; nothing is drained.
async fn with_backlog() -> Node {
    let node = Node::new().set("flush.tick", "1h").set("flush.batch", 1_000).start().await;
    for id in 0..300_u64 {
        let report = |seq| json!({"op": "report", "id": name(id), "seq": seq});
        node.post(json!((0..=id % 100).map(report).collect::<Vec<_>>()).to_string()).await;
    }
    node
}

fn name(id: u64) -> String {
    format!("{}-{id:03}", ["a", "b", "c"][(id / 100) as usize])
}

async fn names_are(browser: &Browser, wanted: impl Fn(&[String]) -> bool) {
    let right = eventually("the right ids", async || {
        let names = browser.texts(NAMES).await;
        if wanted(&names) { Ok(()) } else { Err(format!("they are {names:?}")) }
    });
    right.await;
}

#[tokio::test]
async fn ids_are_sorted_searched_and_paged() {
    let (node, browser) = (with_backlog().await, Browser::start().await);
    browser.open(node.admin(), "#/ids").await;
    loaded(&browser).await;
    // The largest backlog first: x99 has a hundred.
    names_are(&browser, |names| names.len() == 20 && names[..3].iter().all(|name| name.ends_with("99"))).await;
    browser.shows("#ids-pages", "1 to 20 of 300").await;
    let sorted = "return [...document.querySelectorAll('#ids th[data-sort]')].map((h) => h.ariaSort)";
    assert_eq!(browser.script(sorted).await, json!([null, "descending", null]));
    // By keyboard: the header is a button.
    browser.script("document.querySelector('#ids th[data-sort=id] button').focus()").await;
    browser.keys("\u{e007}").await;
    names_are(&browser, |names| names.first().is_some_and(|name| name == "a-000")).await;
    assert_eq!(browser.script(sorted).await, json!(["ascending", null, null]));
    browser.click("#ids-pages button:nth-child(2)").await;
    names_are(&browser, |names| names.len() == 20 && names[0] == "a-020").await;
    browser.shows("#ids-pages", "21 to 40 of 300").await;
    browser.click("#ids-pages button:nth-child(1)").await;
    names_are(&browser, |names| names.first().is_some_and(|name| name == "a-000")).await;
    browser.click("#ids th[data-sort=oldest] button").await;
    names_are(&browser, |names| names.first().is_some_and(|name| name == "a-000")).await;

    browser.type_into("#prefix", "b-19").await;
    names_are(&browser, |names| names.len() == 10 && names.iter().all(|name| name.starts_with("b-19"))).await;
    browser.type_into("#prefix", "9x").await;
    browser.shows("#ids-note", "No id with a backlog starts with “b-199x”").await;
    assert_eq!(browser.console().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_ids_page_lists_its_queued_reports_and_is_reached_by_keyboard() {
    let (node, browser) = (with_backlog().await, Browser::start().await);
    browser.open(node.admin(), "").await;
    loaded(&browser).await;
    browser.script("document.querySelector('#ids-rows a').focus()").await;
    browser.keys("\u{e007}").await;
    browser.shows("#stream h1", "-").await;
    browser.shows("#stream dl", "100 reports").await;
    browser.shows("#stream .state", "waiting").await;
    let found = eventually("the first reports", async || {
        let seqs = browser.texts("#stream tbody th").await;
        if seqs == (0..20).map(|seq| seq.to_string()).collect::<Vec<_>>() { Ok(()) } else { Err(format!("{seqs:?}")) }
    });
    found.await;
    browser.click("#stream .pages button:nth-child(2)").await;
    browser.shows("#stream tbody th", "20").await;
    browser.click("#stream > p a").await;
    browser.shows("#ids-h", "Ids with a backlog").await;
}
