//! The admin listener.

use crate::limits::DEAD;
use crate::support::client::Client;
use crate::support::http;
use crate::support::node::Node;
use crate::support::wait::{eventually, same};

#[tokio::test]
async fn health_and_readiness_are_told() {
    let node = Node::new().set("sink.url", DEAD).start().await;
    for path in ["/healthz", "/readyz"] {
        let answer = http::get(node.admin(), path).await.expect("an answer");
        assert_eq!(answer.status, 200, "{path}, for acks go on without a sink: {answer:?}");
    }
}

#[tokio::test]
async fn status_has_the_fields_of_the_contract() {
    let node = Node::new().set("node_id", 17).set("sink.url", DEAD).start().await;
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..3 {
        client.report("a", seq, "1").await;
    }
    client.report("b", 1, "1").await;
    let status = eventually("the sink to be seen as down", async || {
        let status = node.admin_json("/api/v1/status").await;
        same(status["sink"]["state"].as_str(), Some("down")).map(|()| status.clone())
    });
    let status = status.await;
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"), "{status}");
    assert_eq!((&status["node_id"], &status["ready"], &status["connections"]), (&17.into(), &true.into(), &1.into()));
    assert!(status["uptime_s"].as_f64().is_some_and(|uptime| uptime >= 0.0), "{status}");
    let journal = &status["journal"];
    assert_eq!((&journal["reports"], &journal["streams"]), (&4.into(), &2.into()), "{status}");
    assert!(journal["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{status}");
    assert!(journal["oldest_age_s"].as_f64().is_some_and(|age| age >= 0.0), "{status}");
    assert!(status["sink"]["last_error"].is_string(), "{status}");
    assert!(!status["sink"]["since"].is_null(), "{status}");
    assert_eq!((&status["audit"]["accepted"], &status["audit"]["balanced"]), (&4.into(), &true.into()), "{status}");
}

#[tokio::test]
async fn the_audit_balances_at_every_moment() {
    let node = Node::new().start().await;
    let mut client = Client::connect(node.ingest()).await;
    let sending = tokio::spawn(async move {
        for seq in 0..1_000 {
            client.report(&format!("s{}", seq % 50), seq / 2, "1").await;
        }
    });
    let mut looks = 0;
    while !sending.is_finished() {
        let audit = node.audit().await;
        let number = |name: &str| audit[name].as_u64().unwrap_or_else(|| panic!("no {name} in {audit}"));
        let came = number("recovered") + number("accepted");
        let rest = number("stored") + number("duplicates") + number("dead") + number("discarded") + number("backlog");
        assert_eq!((came, &audit["balanced"]), (rest, &true.into()), "{audit}");
        looks += 1;
    }
    sending.await.expect("the client had its acks");
    println!("looked {looks} times");
    let audit = node.drained().await;
    assert_eq!(audit["accepted"], 1_000, "{audit}");
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_in_json() {
    let node = Node::new().start().await;
    let answer = http::get(node.admin(), "/api/v1/nothing").await.expect("an answer");
    assert_eq!((answer.status, answer.header("content-type")), (404, "application/problem+json"), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["status"], 404, "{problem}");
    assert!(problem["title"].is_string(), "{problem}");
    let answer = http::request(node.admin(), "POST", "/api/v1/audit", &[], b"").await.expect("an answer");
    assert_eq!((answer.status, answer.header("content-type")), (405, "application/problem+json"), "{answer:?}");
}

#[tokio::test]
async fn reports_are_not_taken_by_the_admin_listener_nor_the_admin_api_by_the_other() {
    let node = Node::new().start().await;
    let answer = http::post(node.admin(), "/reports", "application/json", r#"{"op":"report","id":1}"#).await;
    assert_eq!(answer.status, 404);
    let answer = http::get(node.ingest(), "/api/v1/audit").await.expect("an answer");
    assert_eq!(answer.status, 404);
}
