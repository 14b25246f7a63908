//! The configuration: validated as a whole, every fault at once, no secret said.

use std::process::Command;

use crate::limits::DEAD;
use crate::support::client::Client;
use crate::support::node::{FOREBAY, Node, Output, run, without_settings};
use crate::support::wait::eventually;

/// Writes a configuration and checks it.
fn check(text: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("forebay.toml");
    std::fs::write(&file, text).expect("a file");
    run(&["check-config", "--config", &file.display().to_string()])
}

#[tokio::test]
async fn a_good_configuration_is_said_to_be_good() {
    let good = check("node_id = 65535\n[flush]\ntick = \"10s\"\n[journal]\nmax_bytes = \"8GiB\"\n");
    assert_eq!(good.code, Some(0), "{good:?}");
}

#[tokio::test]
async fn every_fault_is_reported_at_once_with_its_key_and_value() {
    let bad = check(
        "node_id = 70000\non_disconnect = \"perhaps\"\n\
         [ingest]\nlisten = \"nowhere\"\nmax_report_bytes = \"97KiB\"\nidle_timeout = \"soon\"\nspeed = 9\n\
         [journal]\nlanes = 5000\nmin_free_disk = \"-1\"\n[flush]\nbatch = 0\ntick = 10\n\
         [sink]\nurl = \"ftp://example\"\ntable = \"re ports\"\n[log]\nlevel = \"chatty\"\nformat = \"xml\"\n\
         [more]\nx = 1\n",
    );
    assert_eq!(bad.code, Some(2), "{bad:?}");
    for (key, value) in [
        ("node_id", "70000"),
        ("on_disconnect", "perhaps"),
        ("ingest.listen", "nowhere"),
        ("ingest.max_report_bytes", "97KiB"),
        ("ingest.idle_timeout", "soon"),
        ("ingest.speed", ""),
        ("journal.lanes", "5000"),
        ("journal.min_free_disk", "-1"),
        ("flush.batch", "0"),
        ("flush.tick", "10"),
        ("sink.url", "ftp"),
        ("sink.table", "re ports"),
        ("log.level", "chatty"),
        ("log.format", "xml"),
        ("more", ""),
    ] {
        let named = bad.stderr.lines().any(|line| line.contains(key) && line.contains(value));
        assert!(named, "`{key}` with its value {value:?} is not in\n{}", bad.stderr);
    }
}

#[tokio::test]
async fn serve_refuses_what_check_config_refuses() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("forebay.toml");
    std::fs::write(&file, "node_id = 0\n[flush]\ntack = \"1s\"\n").expect("a file");
    let bad = run(&["serve", "--config", &file.display().to_string()]);
    assert_eq!(bad.code, Some(2), "{bad:?}");
    assert!(bad.stderr.contains("node_id") && bad.stderr.contains("flush.tack"), "{}", bad.stderr);
}

#[tokio::test]
async fn what_is_no_toml_or_no_file_or_no_flag_ends_with_two() {
    assert_eq!(check("node_id = = 1").code, Some(2));
    assert_eq!(run(&["check-config", "--config", "/nonexistent/forebay.toml"]).code, Some(2));
    assert_eq!(run(&["serve", "--no-such-flag"]).code, Some(2));
    assert_eq!(run(&["no-such-command"]).code, Some(2));
}

#[tokio::test]
async fn a_variable_that_is_unknown_or_wrong_is_a_fault() {
    for (name, value) in [("FOREBAY_FLUSH__TACK", "1s"), ("FOREBAY_FLUSH__BATCH", "none")] {
        let mut command = without_settings(Command::new(FOREBAY));
        let output = command.arg("check-config").env(name, value).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        let key = name.trim_start_matches("FOREBAY_").to_lowercase().replace("__", ".");
        assert!(said.contains(name) || said.contains(&key), "{name} is not in {said}");
    }
}

#[tokio::test]
async fn a_flag_overrules_a_variable_and_a_variable_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("forebay.toml");
    std::fs::write(&file, "[sink]\nurl = \"sqlite:from-file.db\"\n").expect("a file");
    // `schema` prints for the sink that is set; the two dialects tell which one that is.
    let schema = |variable: Option<&str>, flag: Option<&str>| {
        let mut command = without_settings(Command::new(FOREBAY));
        command.arg("schema").arg("--config").arg(&file);
        command.args(flag.map(|url| format!("--sink={url}")));
        command.envs(variable.map(|url| ("FOREBAY_SINK__URL", url)));
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).contains("ENUM")
    };
    assert!(!schema(None, None), "the file's SQLite");
    assert!(schema(Some(DEAD), None), "the variable's MySQL");
    assert!(!schema(Some(DEAD), Some("sqlite:flag.db")), "the flag's SQLite");
}

#[tokio::test]
async fn a_password_is_never_said() {
    for url in ["mysql://root:hunter2@:bad/d", "mysql://root:hunter2@127.0.0.1:99999/d", "mysq://root:hunter2@h/d"] {
        let bad = check(&format!("[sink]\nurl = \"{url}\"\n"));
        assert_eq!(bad.code, Some(2), "{bad:?}");
        assert!(!format!("{bad:?}").contains("hunter2"), "{bad:?}");
    }
    let url = DEAD.replace("nothing", "hunter2");
    let node = Node::new().set("sink.url", url).set("log.level", "trace").start().await;
    Client::connect(node.ingest()).await.report("s", 1, "1").await;
    let status = eventually("an error of the sink", async || {
        let status = node.admin_json("/api/v1/status").await;
        if status["sink"]["last_error"].is_string() { Ok(status) } else { Err(format!("the status is {status}")) }
    });
    let said = format!("{}\n{}", status.await, node.stderr());
    assert!(!said.contains("hunter2"), "a password is in the logs or the status");
}
