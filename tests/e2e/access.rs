//! Who may do what: tokens on both listeners, hosts and pages of other sites.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Error};

use crate::limits::DEAD;
use crate::support::client::{Client, report};
use crate::support::http::{self, Answer};
use crate::support::metrics::Page;
use crate::support::node::{Node, run};

/// A token of `forebay token new`, and its entry.
pub fn token(arguments: &[&str]) -> (String, String) {
    let made = run(&[&["token", "new"], arguments].concat());
    assert_eq!(made.code, Some(0), "{made:?}");
    let token = made.stdout.lines().find(|line| line.starts_with("fby_")).expect("a token").to_owned();
    let entry = &made.stdout[made.stdout.find("[[token]]").expect("an entry")..];
    assert!(!entry.contains(&token), "the file keeps a hash alone");
    (token, entry.to_owned())
}

/// A node with a tokens file.
async fn node(entries: &[&String]) -> Node {
    let node = Node::new();
    let file = node.folder().join("tokens.toml");
    std::fs::write(&file, entries.iter().map(|entry| entry.as_str()).collect::<String>()).expect("a file");
    node.set("access.tokens", file.display().to_string()).start().await
}

async fn asked(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    http::request(address, method, path, headers, body.as_bytes()).await.expect("an answer")
}

/// The answer to a WebSocket handshake that is refused.
async fn refused(node: &Node, headers: &[(&'static str, &str)]) -> tungstenite::http::Response<Option<Vec<u8>>> {
    match Client::connect_with(node.ingest(), headers).await {
        Err(Error::Http(answer)) => *answer,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the WebSocket was opened"),
    }
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn no_report_is_taken_without_a_token_that_is_known() {
    let (good, entry) = token(&["--name", "gateway"]);
    let (reader, reading) = token(&["--name", "reader", "--scope", "admin-read"]);
    let node = node(&[&entry, &reading]).await;
    // The last character of a token may be any.
    let other = if good.ends_with('0') { '1' } else { '0' };
    let wrong = bearer(&format!("{}{other}", &good[..good.len() - 1]));
    for (authorization, status) in [(None, 401), (Some(&wrong), 401), (Some(&bearer(&reader)), 403)] {
        let headers: Vec<(&'static str, &str)> =
            authorization.iter().map(|value| ("authorization", value.as_str())).collect();
        let answer = refused(&node, &headers).await;
        assert_eq!(answer.status(), status, "{authorization:?}");
        assert!(answer.headers()["www-authenticate"].to_str().is_ok_and(|value| value.starts_with("Bearer")));
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        // The body never comes: the answer does not wait for it.
        let authorization = authorization.map_or(String::new(), |value| format!("Authorization: {value}\r\n"));
        let request = format!(
            "POST /reports HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{authorization}Content-Length: 9999\r\n\r\n"
        );
        let answer = http::exchange(node.ingest(), request.as_bytes()).await.expect("an answer");
        assert_eq!((answer.status, answer.header("content-type")), (status, "application/problem+json"));
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{answer:?}");
    }
    let mut client = Client::connect_with(node.ingest(), &[("authorization", &bearer(&good))]).await.expect("let in");
    client.report("a", 1, "1").await;
    let headers = [("Authorization", &*bearer(&good))];
    let answer = asked(node.ingest(), "POST", "/reports", &headers, &report("a", 2, "1")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!node.stderr().contains(&good), "no token is logged");
}

#[tokio::test]
async fn a_browser_shows_its_token_as_a_subprotocol() {
    let (good, entry) = token(&[]);
    let node = node(&[&entry]).await;
    let protocols = format!("forebay, forebay.token.{good}");
    let mut client = Client::connect_with(node.ingest(), &[("sec-websocket-protocol", &protocols)])
        .await
        .expect("the client library insists on a subprotocol that it named");
    client.report("a", 1, "1").await;
    let answer = refused(&node, &[("sec-websocket-protocol", "forebay, forebay.token.wrong")]).await;
    assert_eq!(answer.status(), 401);
}

#[tokio::test]
async fn a_token_writes_its_own_ids_alone_and_the_connection_stays_open() {
    let (good, entry) = token(&["--ids", "eu-*", "--ids", "7", "--max-ids", "3"]);
    let node = node(&[&entry]).await;
    let mut client = Client::connect_with(node.ingest(), &[("authorization", &bearer(&good))]).await.expect("let in");
    client.report("eu-1", 1, "1").await;
    for message in [report("us-1", 1, "1"), r#"{"op":"done","id":"us-1","ref":"x"}"#.to_owned()] {
        let reply = client.ask(message).await;
        assert_eq!(
            (&reply["op"], &reply["code"], &reply["error"]),
            (&json!("error"), &json!(403), &json!("forbidden_id"))
        );
        assert_eq!((&reply["id"], &reply["retry_after_ms"]), (&json!("us-1"), &Value::Null), "{reply}");
    }
    let array = format!("[{},{},{}]", report("eu-1", 2, "1"), report("us-1", 2, "1"), report("eu-2", 1, "1"));
    let headers = [("Authorization", &*bearer(&good))];
    let answer = asked(node.ingest(), "POST", "/reports", &headers, &array).await;
    assert_eq!(answer.status, 207);
    let codes: Vec<_> = answer.json().as_array().expect("replies").iter().map(|reply| reply["code"].clone()).collect();
    assert_eq!(codes, [200, 403, 200]);
    client.report("7", 1, "1").await;
    let reply = client.ask(report("eu-4", 1, "1")).await;
    assert_eq!(reply["error"], "forbidden_id", "a fourth id: {reply}");
    client.report("eu-1", 3, "1").await;
    let answer = asked(node.ingest(), "POST", "/reports", &headers, &report("us-1", 1, "1")).await;
    assert_eq!(answer.status, 403);
}

#[tokio::test]
async fn the_admin_listener_wants_a_token_to_read_and_one_to_write() {
    let (reader, reading) = token(&["--name", "reader", "--scope", "admin-read"]);
    let (writer, writing) = token(&["--name", "writer", "--scope", "admin-write"]);
    let (gateway, ingesting) = token(&["--name", "gateway"]);
    let node = node(&[&reading, &writing, &ingesting]).await;
    let status = async |method: &str, path: &str, token: &str| {
        let authorization = bearer(token);
        let headers = [("Authorization", authorization.as_str())];
        let headers = if token.is_empty() { &[][..] } else { &headers[..] };
        let answer = asked(node.admin(), method, path, headers, "").await;
        let challenged = answer.header("www-authenticate").starts_with("Bearer");
        assert_eq!(challenged, matches!(answer.status, 401) || answer.text().contains("scope"), "{answer:?}");
        answer.status
    };
    for path in ["/healthz", "/readyz"] {
        assert_eq!(status("GET", path, "").await, 200, "{path} is for probes");
    }
    let mut found = Vec::new();
    for token in ["", "wrong", &gateway, &reader, &writer] {
        let read = status("GET", "/api/v1/audit", token).await;
        found.push((read, status("POST", "/api/v1/dead-letters/retry", token).await));
    }
    assert_eq!(found, [(401, 401), (401, 401), (403, 403), (200, 403), (200, 200)]);
}

#[tokio::test]
async fn the_admin_listener_serves_no_page_of_another_site_and_no_other_host() {
    let node = Node::new().set("sink.url", DEAD).start().await;
    for (method, path) in [("GET", "/api/v1/status"), ("POST", "/api/v1/dead-letters/retry")] {
        for (header, value, refused) in [
            ("Origin", "https://evil.example", true),
            ("Origin", "null", true),
            ("Origin", "http://localhost", false),
            ("Host", "evil.example", true),
        ] {
            let host = if header == "Host" { "" } else { "Host: localhost\r\n" };
            let request = format!("{method} {path} HTTP/1.1\r\n{host}{header}: {value}\r\nConnection: close\r\n\r\n");
            let answer = http::exchange(node.admin(), request.as_bytes()).await.expect("an answer");
            assert_eq!(answer.status == 403, refused, "{method} {path} {header}: {value}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn whoever_is_refused_for_whom_he_is_is_counted_by_listener_and_reason() {
    let (reader, reading) = token(&["--name", "reader", "--scope", "admin-read"]);
    let node = node(&[&reading]).await;
    let reader = bearer(&reader);
    let own = [("Authorization", reader.as_str())];
    let page = async || Page::read(asked(node.admin(), "GET", "/metrics", &own, "").await.text());
    let before = page().await;
    for (listener, method, path) in [("ingest", "POST", "/reports"), ("admin", "POST", "/api/v1/dead-letters/retry")] {
        let address = if listener == "ingest" { node.ingest() } else { node.admin() };
        for (header, status) in [
            (&[][..], 401),
            (&[("Authorization", "Bearer guessed")][..], 401),
            (&own[..], 403),
            (&[("Origin", "https://evil.example")][..], 403),
        ] {
            assert_eq!(asked(address, method, path, header, "").await.status, status, "{listener} {header:?}");
        }
    }
    let request = "GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    for address in [node.admin(), node.ingest()] {
        assert_eq!(http::exchange(address, request.as_bytes()).await.expect("an answer").status, 403);
    }
    let after = page().await;
    for listener in ["ingest", "admin"] {
        for reason in ["no_token", "unknown_token", "wrong_scope", "foreign_origin", "foreign_host"] {
            let series = format!("forebay_requests_refused_total{{listener=\"{listener}\",reason=\"{reason}\"}}");
            let counted = after.value(&series) - before.value(&series);
            assert_eq!(counted, 1.0, "{series}");
        }
    }
}

/// A page can point a name of its own at a listener that asks nobody for a token.
#[tokio::test]
async fn a_listener_for_everybody_answers_to_addresses_and_known_names_alone() {
    let node = Node::new()
        .set("admin.listen", "0.0.0.0:0")
        .set("access.allow_insecure_listen", true)
        .set("admin.allowed_hosts", vec!["metrics.example"])
        .start()
        .await;
    let address = SocketAddr::from(([127, 0, 0, 1], node.admin().port()));
    let names = [("127.0.0.1", 200), ("192.0.2.7:7002", 200), ("metrics.example", 200), ("evil.example", 403)];
    for (host, status) in names {
        let request = format!("GET /api/v1/audit HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(http::exchange(address, request.as_bytes()).await.expect("an answer").status, status, "{host}");
    }
}

#[tokio::test]
async fn a_tokens_file_at_fault_stops_the_start_with_every_fault_and_no_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let tokens = folder.path().join("tokens.toml");
    let config = folder.path().join("forebay.toml");
    std::fs::write(&config, format!("[access]\ntokens = {:?}\n", tokens.display().to_string())).expect("a file");
    let config = config.display().to_string();
    for command in ["serve", "check-config"] {
        let missing = run(&[command, "--config", &config]);
        assert_eq!(missing.code, Some(2), "{missing:?}");
        assert!(missing.stderr.contains("access.tokens") && missing.stderr.contains("tokens.toml"), "{missing:?}");
    }
    std::fs::write(&tokens, "[[token]]\nname = \"a\"\nsha256 = \"fby_secret\"\nscope = \"ingest\"\n").expect("a file");
    let bad = run(&["check-config", "--config", &config]);
    assert_eq!(bad.code, Some(2), "{bad:?}");
    assert!(bad.stderr.contains("sha256 must be") && !bad.stderr.contains("fby_secret"), "{bad:?}");
}

#[tokio::test]
async fn a_token_that_could_not_be_kept_is_not_made() {
    for arguments in [&["--scope", "root"][..], &["--ids", "a b"], &["--scope", "admin-read", "--max-ids", "3"]] {
        let made = run(&[&["token", "new"], arguments].concat());
        assert_eq!((made.code, made.stdout.as_str()), (Some(2), ""), "{made:?}");
    }
}
