//! What is pasted where it does not belong: no error, log or `check-config` repeats what may be a secret.

use std::process::Command;

use crate::support::http;
use crate::support::node::{FOREBAY, Node, Output, run, without_settings};

/// A part of each secret below, which must never be said.
const PART: &str = "hunter2";

/// A token, a password, a key, and URLs with passwords where a reader of URLs would not look for them.
const SECRETS: [&str; 8] = [
    "fby_0123456789abcdef0123456789abcdef0123456789abcdef01234567hunter2a",
    "hunter2-Pa55word",
    "-----BEGIN PRIVATE KEY-----\nMIIhunter2AgEAMBAGByqGSM49\n-----END PRIVATE KEY-----\n",
    "mysql://u@hunter2@h/d",
    "mysql://hunter2@:bad/d",
    "mysql://u:p/hunter2",
    "https://hunter2@h.example/x y",
    "https://h.example/ hunter2?hunter2",
];

/// Runs the program with one variable besides.
fn with(variable: &str, value: &str, arguments: &[&str]) -> Output {
    let output = without_settings(Command::new(FOREBAY)).env(variable, value).args(arguments).output();
    let output = output.expect("it runs");
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn assert_not_said(said: &Output, by: &str) {
    assert!(!said.stdout.contains(PART) && !said.stderr.contains(PART), "{by}: {said:?}");
}

/// Every key that there is, as `check-config` shows them.
fn keys() -> Vec<String> {
    let shown = run(&["check-config"]);
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in shown.stdout.lines() {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => section = format!("{name}."),
            None => keys.extend(line.split_once(" = ").map(|(key, _)| format!("{section}{key}"))),
        }
    }
    assert!(keys.len() > 50, "{keys:?}");
    keys
}

/// Whether any text may be meant for a key: a folder is made where there is none, and any name may be a host's.
fn may_be_meant(key: &str, secret: &str) -> bool {
    let is_word = !secret.contains(['/', '_', '\n', ' ']);
    is_word && matches!(key, "journal.dir" | "admin.allowed_hosts" | "ingest.allowed_hosts")
}

#[test]
fn no_setting_repeats_a_secret_that_is_pasted_into_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("forebay.toml");
    for key in keys() {
        for secret in SECRETS.into_iter().filter(|secret| !may_be_meant(&key, secret)) {
            let variable = format!("FOREBAY_{}", key.to_uppercase().replace('.', "__"));
            let said = with(&variable, secret, &["check-config"]);
            assert_eq!(said.code, Some(2), "{key} by a variable: {said:?}");
            assert_not_said(&said, &format!("{key} by a variable"));
            assert!(said.stderr.contains(&key), "{said:?}");
            let quoted = toml::Value::from(secret).to_string();
            for text in [&quoted, &format!("[{quoted}]")] {
                std::fs::write(&file, format!("{key} = {text}\n")).expect("a file");
                let said = run(&["check-config", "--config", &file.display().to_string()]);
                assert_not_said(&said, &format!("{key} = {text}"));
            }
        }
    }
}

#[test]
fn no_text_that_is_no_configuration_is_repeated() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("forebay.toml");
    let tokens = folder.path().join("tokens.toml");
    std::fs::write(&file, format!("access.tokens = {:?}", tokens.display().to_string())).expect("a file");
    for secret in SECRETS {
        let quoted = toml::Value::from(secret).to_string();
        let other = folder.path().join("other.toml");
        for text in [
            secret.to_owned(),
            format!("{secret} = 1"),
            format!("[{secret}]"),
            format!("{quoted} = 1"),
            format!("[{quoted}]\nx = 1"),
            format!("[sink]\n{quoted} = 1"),
            format!("node_id = {secret}"),
            format!("node_id = 1\nnode_id = {quoted}"),
            format!("sink.url = {quoted}{secret}"),
            format!("[sink]\nurl = \"{secret}\nx"),
            format!("{quoted} = 1\n{quoted} = 2"),
            format!("{quoted}.a = 1\n{quoted} = 2"),
            format!("[{quoted}]\n[{quoted}]"),
            format!("sink = {quoted}"),
            format!("sink = {{ url = {quoted}, url = {quoted} }}"),
        ] {
            std::fs::write(&other, &text).expect("a file");
            assert_not_said(&run(&["check-config", "--config", &other.display().to_string()]), &text);
        }
        for text in [
            secret.to_owned(),
            format!("{quoted} = 1"),
            format!("[[token]]\n{quoted} = 1"),
            format!("[[token]]\nname = {quoted}\nsha256 = {quoted}\nscope = {quoted}"),
            format!("[[token]]\nname = 'a'\nsha256 = {quoted}\nscope = 'ingest'\nids = {quoted}"),
            format!("[[token]]\nname = 'a'\nsha256 = {quoted}\nscope = 'ingest'\nids = [{quoted}]\nmax_ids = {quoted}"),
            format!("token = {quoted}"),
            format!("token = [{quoted}]"),
        ] {
            std::fs::write(&tokens, &text).expect("a file");
            let said = run(&["check-config", "--config", &file.display().to_string()]);
            assert_eq!(said.code, Some(2), "{text}: {said:?}");
            assert_not_said(&said, &text);
        }
    }
}

#[test]
fn no_flag_repeats_a_secret_that_is_pasted_into_it() {
    for secret in SECRETS {
        for arguments in [
            &["check-config", "--config"][..],
            &["check-config", "--listen"],
            &["check-config", "--admin-listen"],
            &["check-config", "--sink"],
            &["check-config", "--sink-url"],
            &["check-config"],
            &["schema", "--sink"],
            &["schema", "--config"],
            &["load"],
            &["load", "--token-file"],
            &["load", "--ca"],
            &["load", "wss://127.0.0.1:9/ws", "--ca"],
            &["load", "--rate"],
            &["load", "--duration"],
            &["load", "--numbering"],
            &["load", "--config", "/nonexistent/forebay.toml", "--verify"],
            &["load", "--verify"],
            &["load", "--verify-only", "--verify", "sqlite:x.db", "--ledger"],
            &["status", "--admin"],
            &["status", "--token-file"],
            &["status", "--ca"],
            &["status", "--admin", "https://127.0.0.1:9", "--ca"],
            &["status", "--timeout"],
            &["status"],
            &["streams", "--sort"],
            &["streams", "--limit"],
            &["token", "new", "--scope"],
            &["token", "new", "--ids"],
            &["token", "new", "--max-ids"],
            &["token", "new"],
            &["journal", "check"],
            &["journal", "export"],
            &["completions"],
            &[],
        ] {
            let said = run(&[arguments, &[secret]].concat());
            // A pattern of ids, and a folder, may be called so.
            let may_be_meant = said.code == Some(0)
                || (arguments[..].first() == Some(&"journal") && !secret.contains(['/', '_', '\n']));
            if may_be_meant {
                continue;
            }
            assert_not_said(&said, &format!("{arguments:?} {secret:?}"));
            if let Some((flag, before)) = arguments.split_last().filter(|(flag, _)| flag.starts_with("--")) {
                assert_not_said(
                    &run(&[before, &[&format!("{flag}={secret}")]].concat()),
                    &format!("{flag}={secret:?}"),
                );
            }
        }
        for variable in ["FOREBAY_ADMIN_URL", "FOREBAY_ADMIN_TOKEN_FILE", "FOREBAY_ADMIN_CA"] {
            assert_not_said(&with(variable, secret, &["status"]), variable);
        }
    }
    let said = run(&["check-config", "--data-dir", SECRETS[3]]);
    assert!(said.code == Some(2) && !said.stderr.contains(PART), "{said:?}");
}

/// What is said of files is of use only with their names: those that can be meant are named.
#[test]
fn a_path_is_named_where_it_can_be_one() {
    for path in ["/etc/forebay/no-such-tokens.toml", "no-such.pem", "/tmp/no_such_file"] {
        let said = with("FOREBAY_ACCESS__TOKENS", path, &["check-config"]);
        assert!(said.code == Some(2) && said.stderr.contains(path), "{said:?}");
    }
}

#[tokio::test]
async fn a_header_of_the_traces_that_cannot_be_read_is_warned_of_without_its_value() {
    for (variable, headers, count) in [
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter2,Bearer hunter2,x-hunter2=", 2),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "hunter2", 1),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a b=hunter2,x=%zzhunter2,y=hunter2%0A", 3),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter2, x=y,", 0),
    ] {
        let mut node = Node::new().set("trace.otlp_endpoint", "http://127.0.0.1:9");
        node.under(&["env", &format!("{variable}={headers}")]);
        let node = node.start().await;
        assert_eq!(http::get(node.admin(), "/healthz").await.expect("an answer").status, 200);
        let said = node.stderr();
        let warned = said.lines().filter(|line| line.contains(variable) && line.contains("WARN")).count();
        assert_eq!(warned, usize::from(count > 0), "{said}");
        assert!(count == 0 || said.contains(&format!("\"unreadable\":{count}")), "{said}");
        assert!(!said.contains(PART), "{said}");
    }
}
