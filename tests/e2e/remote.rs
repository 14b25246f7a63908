//! Commands and a node on another machine: through TLS, with the tokens that the node wants, and what is said where
//! one of these is wrong.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::access::token;
use crate::support::node::{Node, Output, run};
use crate::support::tls::{Own, certificate};
use crate::tls::with_tls;

/// A node that wants TLS and tokens on both listeners, its certificate, and files with a token for each.
struct Guarded {
    node: Node,
    own: Own,
    ingest: PathBuf,
    admin: PathBuf,
    folder: tempfile::TempDir,
}

impl Guarded {
    async fn start(last_year: i32) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let own = certificate(folder.path(), "own", last_year);
        let made = ["ingest", "admin-write"].map(|scope| {
            let (token, entry) = token(&["--name", scope, "--scope", scope]);
            let file = folder.path().join(scope);
            std::fs::write(&file, format!("{token}\n")).expect("a file");
            (file, entry)
        });
        let [(ingest, ingest_entry), (admin, admin_entry)] = made;
        let tokens = folder.path().join("tokens.toml");
        std::fs::write(&tokens, ingest_entry + &admin_entry).expect("a file");
        let mut node = with_tls(Node::new(), &own).set("access.tokens", tokens.display().to_string());
        node.launch().await;
        Self { node, own, ingest, admin, folder }
    }

    /// A file with a certificate that has signed nothing of the node's.
    fn other(&self) -> PathBuf {
        certificate(self.folder.path(), "other", 2100).cert
    }

    async fn ask(&self, command: &str, ca: Option<&Path>, token: Option<&Path>) -> Output {
        ask(&format!("{command} --admin https://{}", self.node.admin()), ca, token).await
    }

    async fn load(&self, flags: &str, ca: Option<&Path>, token: Option<&Path>) -> Output {
        ask(&format!("load wss://{}/ws --json {flags}", self.node.ingest()), ca, token).await
    }
}

/// Runs the command, whose words are split at spaces, on a thread that may wait for it.
async fn ask(command: &str, ca: Option<&Path>, token: Option<&Path>) -> Output {
    let mut words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    for (flag, file) in [("--ca", ca), ("--token-file", token)] {
        words.extend(file.iter().flat_map(|file| [flag.to_owned(), file.display().to_string()]));
    }
    let asked = tokio::task::spawn_blocking(move || run(&words.iter().map(String::as_str).collect::<Vec<_>>()));
    asked.await.expect("running a program does not panic")
}

/// The command failed, and its error has all of that.
#[track_caller]
fn assert_fails(output: &Output, code: i32, parts: &[&str]) {
    assert_eq!((output.code, output.stdout.as_str()), (Some(code), ""), "{output:?}");
    assert!(output.stderr.starts_with("forebay: "), "{output:?}");
    for part in parts {
        assert!(output.stderr.contains(part), "{part} in {}", output.stderr);
    }
}

#[tokio::test]
async fn a_node_is_asked_through_tls_with_a_token() {
    let guarded = Guarded::start(2100).await;
    let (ca, token) = (Some(&*guarded.own.cert), Some(&*guarded.admin));
    for (command, wanted) in [
        ("status", "ready         yes"),
        ("status --ready", "ready\n"),
        ("streams", "no id has backlog\n"),
        ("dead-letters", "no dead letters\n"),
        ("dead-letters retry --all", "0 stored, 0 refused again\n"),
        ("dead-letters export", ""),
    ] {
        let output = guarded.ask(command, ca, token).await;
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{command}: {output:?}");
        assert!(output.stdout.contains(wanted), "{command}: {output:?}");
    }
}

#[tokio::test]
async fn a_load_goes_through_tls_with_a_token_and_verifies() {
    let guarded = Guarded::start(2100).await;
    for flags in ["--connections 4 --in-flight 8 --ids 7", "--connections 2 --in-flight 200 --array 20 --size 2000"] {
        let sink = guarded.node.sqlite_file();
        let flags = format!("--count 1003 {flags} --verify sqlite:{}", sink.display());
        let output = guarded.load(&flags, Some(&guarded.own.cert), Some(&guarded.ingest)).await;
        assert_eq!(output.code, Some(0), "{output:?}");
        let json: Value = serde_json::from_str(&output.stdout).expect("JSON");
        assert_eq!((&json["acked"], &json["verify"]["stored"]), (&1003.into(), &1003.into()), "{json}");
        assert_eq!((&json["reconnects"], &json["verify"]["clean"]), (&0.into(), &true.into()), "{json}");
        assert_eq!(json["url"], format!("wss://{}/ws", guarded.node.ingest()));
    }
}

#[tokio::test]
async fn a_node_whose_certificate_nobody_trusted_has_signed_is_told_nothing() {
    let guarded = Guarded::start(2100).await;
    let other = guarded.other();
    for ca in [Some(&*other), None] {
        for output in [
            guarded.ask("status", ca, Some(&guarded.admin)).await,
            guarded.ask("dead-letters", ca, Some(&guarded.admin)).await,
            guarded.load("--count 1", ca, Some(&guarded.ingest)).await,
        ] {
            assert_fails(&output, 1, &["nobody who is trusted has signed its certificate; --ca names a file"]);
        }
    }
    let (ca, token) = (Some(&*guarded.own.cert), Some(&*guarded.admin));
    let elsewhere = format!("status --admin https://localhost:{}", guarded.node.admin().port());
    assert_fails(&ask(&elsewhere, ca, token).await, 1, &["localhost", "name the node in the URL as its certificate"]);
}

#[tokio::test]
async fn an_expired_certificate_is_named_as_that() {
    let guarded = Guarded::start(2020).await;
    let ca = Some(&*guarded.own.cert);
    assert_fails(&guarded.ask("status", ca, None).await, 1, &["expired; give the node a new one"]);
    assert_fails(&guarded.load("--count 1", ca, None).await, 1, &["expired; give the node a new one"]);
}

#[tokio::test]
async fn a_token_that_is_missing_or_another_one_is_told_with_what_to_do() {
    let guarded = Guarded::start(2100).await;
    let ca = Some(&*guarded.own.cert);
    for command in ["status", "dead-letters"] {
        assert_fails(&guarded.ask(command, ca, None).await, 1, &["give --token-file"]);
    }
    assert_fails(&guarded.load("--count 1", ca, None).await, 1, &["connection 1 of 1", "give --token-file"]);
    let unknown = guarded.folder.path().join("unknown");
    std::fs::write(&unknown, "fby_unknown").expect("a file");
    for output in [guarded.ask("status", ca, Some(&unknown)).await, guarded.load("--count 1", ca, Some(&unknown)).await]
    {
        assert_fails(&output, 1, &["the token of --token-file is not taken"]);
        assert!(!output.stderr.contains("fby_"), "{output:?}");
    }
    let swapped = guarded.load("--count 1", ca, Some(&guarded.admin)).await;
    assert_fails(&swapped, 1, &["the token of --token-file may not send reports"]);
}

#[tokio::test]
async fn a_scheme_that_the_listener_does_not_speak_is_told_of() {
    let guarded = Guarded::start(2100).await;
    let plain = Node::new().start().await;
    let output = ask(&format!("status --admin http://{}", guarded.node.admin()), None, None).await;
    assert_fails(&output, 1, &["does it want https://"]);
    let ca = Some(&*guarded.own.cert);
    let output = ask(&format!("status --admin https://{}", plain.admin()), ca, None).await;
    assert_fails(&output, 1, &["it speaks no TLS; use http:// or ws://"]);
    let output = ask(&format!("load wss://{}/ws --count 1", plain.ingest()), ca, None).await;
    assert_fails(&output, 1, &["it speaks no TLS; use http:// or ws://"]);
}

/// `0.0.0.0` leads to this machine, and is none of its loopback addresses.
#[tokio::test]
async fn a_token_goes_to_another_machine_in_plain_only_where_that_is_asked_for() {
    let node = Node::new().start().await;
    let file = node.folder().join("token");
    std::fs::write(&file, "fby_secret").expect("a file");
    let load = format!("load ws://0.0.0.0:{}/ws --count 1", node.ingest().port());
    let status = format!("status --admin http://0.0.0.0:{}", node.admin().port());
    for command in [&load, &status] {
        let output = ask(command, None, Some(&file)).await;
        assert_fails(&output, 2, &["could read the token", "s://", "--insecure-http"]);
    }
    let output = ask(&format!("{load} --insecure-http"), None, Some(&file)).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(ask(&load, None, None).await.code, Some(0), "without a token nothing is to be kept from anyone");
}

#[tokio::test]
async fn a_file_of_no_certificates_is_told_of_before_anything_is_asked() {
    let node = Node::new();
    let file = node.folder().join("ca");
    for (text, why) in [
        ("", "has no PEM of this kind"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no certificate"),
    ] {
        std::fs::write(&file, text).expect("a file");
        for command in ["status --admin https://127.0.0.1:1", "load wss://127.0.0.1:1/ws"] {
            assert_fails(&ask(command, Some(&file), None).await, 2, &["--ca cannot be used", why]);
        }
    }
}
