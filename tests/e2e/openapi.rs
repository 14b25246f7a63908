//! The admin API and its own description.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::dead_letters::with_dead_letters;
use crate::support::client::Client;
use crate::support::http;
use crate::support::node::Node;
use crate::support::servers::{Kind, Server, on_each_server};

const DESCRIPTION: &str = "/api/openapi.json";
/// Requests made up for each operation, unless `FOREBAY_API_EXAMPLES` says otherwise.
const EXAMPLES: &str = "10";

/// `get /path` of each operation that the description has.
fn described(description: &Value) -> BTreeSet<String> {
    let paths = description["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().expect("methods");
        methods.keys().map(move |method| format!("{method} {path}"))
    });
    operations.collect()
}

/// The same of the API's routes, read from the source; pages for people are routed elsewhere.
fn routed() -> BTreeSet<String> {
    let source = include_str!("../../src/admin/mod.rs");
    let mut routes = BTreeSet::new();
    for route in source.split(".route(\"").skip(1) {
        let (path, rest) = route.split_once('"').expect("a path ends");
        let handlers = rest.split(".route(").next().expect("there is one").lines().next().expect("a line");
        for method in ["get", "post", "put", "patch", "delete"] {
            let at = |before| handlers.contains(&format!("{before}{method}("));
            if at(" ") || at(".") {
                routes.insert(format!("{method} {path}"));
            }
        }
    }
    routes
}

#[tokio::test]
async fn the_description_has_every_route_and_no_other() {
    let node = Node::new().start().await;
    let answer = http::get(node.admin(), DESCRIPTION).await.expect("an answer");
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let description = answer.json();
    let routed = routed();
    assert!(routed.len() >= 18, "{routed:?}");
    assert_eq!(described(&description), routed);
    assert!(description["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    assert_eq!(description["info"]["version"], env!("CARGO_PKG_VERSION"));
}

on_each_server!(answers_are_as_described_whatever_is_asked);
/// Schemathesis makes up requests from the description, allowed ones and others, and holds the answers against it.
async fn answers_are_as_described_whatever_is_asked(kind: Kind) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/schemathesis/bin/schemathesis");
    assert!(program.exists(), "tests/run.sh installs schemathesis into target/schemathesis");
    let server = Server::start(kind).await;
    let node = with_dead_letters(&server).await;
    // Real backlog: of an id that is paused.
    let path = "/api/v1/streams/held/pause";
    assert_eq!(http::request(node.admin(), "POST", path, &[], b"").await.expect("an answer").status, 200);
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..30 {
        client.report("held", seq, r#"{"n": [1.0, null]}"#).await;
    }
    let folder = tempfile::tempdir().expect("a folder");
    // `after` of a list of streams is opaque: what is made up for it is no cursor.
    let config = r#"
        [generation]
        deterministic = true
        database = "none"
        [[operations]]
        include-name = "GET /api/v1/streams"
        parameters = { "query.after" = "" }
        [[operations]]
        include-name = "GET /api/v1/streams/{id}/reports"
        parameters = { "path.id" = "held" }
        [[operations]]
        include-name = "GET /api/v1/dead-letters/{key}"
        parameters = { "path.key" = "s0~0~0" }
        [[operations]]
        include-name = "POST /api/v1/dead-letters/{key}/retry"
        parameters = { "path.key" = "s0~0~3" }
    "#;
    std::fs::write(folder.path().join("schemathesis.toml"), config).expect("written");
    let examples = std::env::var("FOREBAY_API_EXAMPLES").unwrap_or_else(|_| EXAMPLES.to_owned());
    let base = format!("http://{}", node.admin());
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).arg("run").arg(format!("{base}{DESCRIPTION}"));
    command.args(["--url", &base, "--max-examples", &examples, "--phases", "examples,coverage,fuzzing"]);
    // Events never end.
    command.args([
        "--exclude-path",
        "/api/v1/events",
        "--continue-on-failure",
        "--no-color",
        "--request-timeout",
        "30",
    ]);
    command.current_dir(folder.path()).env("HOME", folder.path()).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it is only waited for");
    let output = output.expect("schemathesis starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    assert_eq!(node.audit().await["balanced"], true);
}
