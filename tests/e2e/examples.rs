//! The programs of docs/examples do what they say, in the real world: over kill -9 of the node, and on its own files.

use crate::support::node::Node;
use crate::support::wait::eventually;

#[path = "../../docs/examples/embed.rs"]
#[allow(dead_code, reason = "a program: its `main` is not called here")]
mod embed;
#[path = "../../docs/examples/resend.rs"]
#[allow(dead_code, reason = "a program: its `main` is not called here")]
mod resend;

#[tokio::test]
async fn the_client_that_resends_is_exact_over_kill_nine() {
    let mut node = Node::new().start().await;
    // It comes back where the client looks for it.
    node.change("ingest.listen", node.ingest().to_string());
    let url = format!("ws://{}/ws", node.ingest());
    let client = tokio::spawn(async move { resend::report(&url, "resent", 20_000).await });
    let mut kills = 0;
    for _ in 0..3 {
        eventually("reports of this life", async || {
            let audit = node.audit().await;
            if audit["accepted"] != 0 || client.is_finished() { Ok(()) } else { Err(audit.to_string()) }
        })
        .await;
        kills += u32::from(!client.is_finished());
        node.kill();
        node.restart().await;
    }
    assert!(kills > 0, "the client was done before the first kill");
    let rows = client.await.expect("it does not panic").expect("nothing is refused for good");
    assert_eq!(rows, 20_000);
    node.drained().await;
    assert_eq!(node.stored().rows_of("resent").await.expect("a sink").len(), 20_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_service_stores_its_reports() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().display().to_string();
    for life in 1..=2 {
        assert_eq!(embed::run(&folder).await.expect("it runs"), 2 * life);
    }
}
