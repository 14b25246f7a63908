//! The page itself: what it loads, what it may do, and that what clients say stays text.

use serde_json::{Value, json};

use crate::driver::Browser;
use crate::support::http;
use crate::support::mariadb::MariaDb;
use crate::support::node::Node;
use crate::support::wait::{eventually, same};

/// Waits until the page shows a status and its lists.
pub async fn loaded(browser: &Browser) {
    let loaded = eventually("the page to be loaded", async || {
        let state = browser
            .script("return [document.body.className, ...['ids-note', 'dead-note'].map((id) => document.getElementById(id).textContent)]")
            .await;
        if state.as_array().is_some_and(|s| s[0] == "" && s[1] != "Loading" && s[2] != "Loading") {
            Ok(())
        } else {
            Err(state.to_string())
        }
    });
    loaded.await;
}

#[tokio::test]
async fn the_page_and_all_it_loads_may_reach_this_node_alone_and_is_asked_for_anew_only_where_it_changed() {
    let node = Node::new().start().await;
    let page = http::get(node.admin(), "/").await.expect("an answer");
    let mut paths = vec!["/".to_owned()];
    let text = page.text();
    paths.extend(
        text.split("\"assets/").skip(1).map(|rest| format!("/assets/{}", rest.split('"').next().expect("a name"))),
    );
    assert!(paths.len() > 5, "{paths:?}");
    for path in paths {
        let file = http::get(node.admin(), &path).await.expect("an answer");
        assert_eq!(file.status, 200, "{path}");
        let policy = file.header("content-security-policy");
        assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!((file.header("cache-control"), file.header("x-content-type-options")), ("no-cache", "nosniff"));
        let known = [("If-None-Match", file.header("etag"))];
        let again = http::request(node.admin(), "GET", &path, &known, b"").await.expect("an answer");
        assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, file.header("etag")), "{path}");
        let other = http::request(node.admin(), "GET", &path, &[("If-None-Match", "\"0\"")], b"").await;
        assert_eq!(other.expect("an answer").status, 200, "{path}");
    }
    assert!(!text.contains("<script>") && !text.contains("onclick") && !text.contains("style="), "nothing is inline");
    assert_eq!(http::get(node.admin(), "/assets/none.js").await.expect("an answer").status, 404);
}

#[tokio::test]
async fn an_empty_node_is_well_and_says_that_nothing_waits_without_an_error_or_another_host() {
    let (node, browser) = (Node::new().start().await, Browser::start().await);
    browser.open(node.admin(), "").await;
    loaded(&browser).await;
    browser.shows("#verdict", "All is well").await;
    browser.shows("#ids-note", "Nothing waits").await;
    browser.shows("#dead-note", "None").await;
    browser.shows("#link", "Live").await;
    let [badge, retry] = ["dead-badge", "retry-all"].map(|id| format!("return document.getElementById('{id}')"));
    assert_eq!(browser.script(&format!("{badge}.hidden")).await, true);
    assert_eq!(browser.script(&format!("{retry}.disabled")).await, true);
    // A chart is drawn once there are two statuses to draw a line between.
    browser.shows("#chart-rates .u-legend", "accepted").await;
    assert_eq!(browser.console().await, Vec::<String>::new());
    let requests = browser.requests().await;
    let own = format!("http://{}/", node.admin());
    assert!(requests.len() > 10, "{requests:?}");
    assert_eq!(requests.iter().filter(|url| !url.starts_with(&own)).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// What a hostile client can have shown: its data, and what a server says about it.
const HOSTILE: &str = "<script>window.hit=1</script><img src=x onerror=window.hit=1>";

#[tokio::test]
async fn what_a_client_says_is_shown_as_text() {
    let mariadb = MariaDb::start().await;
    let node = Node::new().set("sink.url", mariadb.url()).start().await;
    let browser = Browser::start().await;
    node.post(r#"{"op":"report","id":"first","seq":0}"#).await;
    node.drained().await;
    // A reason that quotes the client's data.
    let trigger = "CREATE TRIGGER refuse BEFORE INSERT ON reports FOR EACH ROW IF NEW.code = 9 THEN \
                   SIGNAL SQLSTATE '22001' SET MYSQL_ERRNO = 1406, MESSAGE_TEXT = NEW.data; END IF";
    mariadb.run(&[trigger]).await;
    node.post(json!({"op": "report", "id": "hostile", "seq": 1, "code": 9, "data": HOSTILE}).to_string()).await;
    assert_eq!(node.drained().await["dead"], 1);
    browser.open(node.admin(), "").await;
    browser.shows("#dead-rows .error", HOSTILE).await;
    browser.press("hostile~0~1").await;
    browser.shows("#ask pre", HOSTILE).await;
    browser.press("Close").await;
    browser.open(node.admin(), "#/id/%3Cscript%3Ewindow.hit=1%3C%2Fscript%3E").await;
    browser.shows("#stream h1", "<script>window.hit=1</script>").await;
    assert_eq!(browser.script("return window.hit").await, Value::Null);
    assert_eq!(browser.script("return document.querySelectorAll('main img, main script').length").await, 0);
}

/// The browser's own requests stand in for a node that wants a token.
const WANTS_A_TOKEN: &str = "const real = window.fetch;
    window.fetch = (address, options = {}) => (options.headers?.Authorization === 'Bearer s3cret'
      ? real(address, options) : Promise.resolve(new Response('{}', { status: 401 })))";

#[tokio::test]
async fn a_token_is_asked_for_where_the_node_wants_one_and_kept_for_the_tab_alone() {
    let (node, browser) = (Node::new().start().await, Browser::start().await);
    browser.open(node.admin(), "").await;
    loaded(&browser).await;
    browser.script(WANTS_A_TOKEN).await;
    browser.shows("#ask", "wants a token").await;
    // Escape gives no token, and the question is asked again.
    browser.script("document.querySelector('#ask input').name = 'first'").await;
    browser.keys("\u{e00c}").await;
    browser.click("#ask input:not([name])").await;
    browser.keys("wrong\u{e007}").await;
    browser.shows("#ask", "does not take this token").await;
    browser.type_into("#ask input", "s3cret\u{e007}").await;
    let kept = eventually("the question to be over", async || {
        let state =
            browser.script("return [document.getElementById('ask').open, {...sessionStorage}, localStorage.length]");
        same(state.await, json!([false, {"forebay-token": "s3cret"}, 0]))
    });
    kept.await;
    node.post(r#"{"op":"report","id":"slow","seq":1}"#).await;
    browser.shows("#behind", "1 since start").await;
}
