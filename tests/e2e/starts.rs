//! What a node is given when it starts: signals before it is ready, few open files, a umask, files that others may
//! read.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::access::token;
use crate::support::client::Client;
use crate::support::http;
use crate::support::node::{FOREBAY, Node, without_settings};
use crate::support::tls::certificate;
use crate::support::wait::eventually;

/// A process that dies with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// A node whose configuration is a pipe: it waits for it in its first milliseconds, however long they last.
    fn waiting(pipe: &Path) -> Self {
        let made = Command::new("mkfifo").arg(pipe).status().expect("mkfifo (coreutils) runs");
        assert!(made.success());
        let mut command = without_settings(Command::new("setpriv"));
        command.args(["--pdeathsig", "KILL", "--", FOREBAY, "serve", "--config"]).arg(pipe);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"))
    }

    /// Waits until the process minds a signal of that number.
    async fn minds(&self, number: u32) {
        let file = format!("/proc/{}/status", self.0.id());
        let minds = eventually("the process to mind the signal", async || {
            let status = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).ok_or("no such line")?;
            let caught = u64::from_str_radix(caught.trim(), 16).map_err(|e| e.to_string())?;
            if caught >> (number - 1) & 1 == 1 { Ok(()) } else { Err(format!("it minds {caught:x}")) }
        });
        minds.await;
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("sh").args(["-c", "kill -$0 $1", name, &pid]).status().expect("sh runs").success());
    }
}

/// Writes to a pipe once somebody reads it.
fn write_to(pipe: &Path, text: String) -> std::thread::JoinHandle<()> {
    let pipe = pipe.to_owned();
    std::thread::spawn(move || std::fs::write(pipe, text).expect("a pipe"))
}

/// A SIGHUP in the first milliseconds once ended the process.
#[tokio::test]
async fn a_hangup_before_the_settings_are_read_ends_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("forebay.toml");
    let mut process = Process::waiting(&pipe);
    process.minds(1).await;
    process.signal("HUP");
    // A port that is free now: nobody else of these tests asks for a port by its number.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let [journal, sink] = ["journal", "reports.db"].map(|name| folder.path().join(name).display().to_string());
    let text = format!(
        "ingest.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:{port}\"\njournal.dir = {journal:?}\n\
         sink.url = \"sqlite:{sink}\"\n"
    );
    let first = write_to(&pipe, text.clone());
    let ready = eventually("the node to be ready", async || {
        if let Ok(Some(status)) = process.0.try_wait() {
            panic!("the node ended with {status}");
        }
        let answer = http::get(([127, 0, 0, 1], port).into(), "/readyz").await.map_err(|e| e.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    });
    ready.await;
    // Read once to start, and once more for the SIGHUP, which was kept.
    let second = write_to(&pipe, text);
    for writer in [first, second] {
        tokio::task::spawn_blocking(|| writer.join().expect("written")).await.expect("it ends");
    }
    process.signal("TERM");
    let ended = tokio::task::spawn_blocking(move || process.0.wait().expect("a child")).await.expect("it ends");
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn a_stop_before_the_settings_are_read_stops_in_order() {
    for (name, number) in [("TERM", 15), ("INT", 2)] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = Process::waiting(&folder.path().join("forebay.toml"));
        process.minds(number).await;
        process.signal(name);
        let ended = tokio::task::spawn_blocking(move || process.0.wait().expect("a child")).await.expect("it ends");
        assert!(ended.success(), "{name}: {ended}");
    }
}

/// The limit of open files of a process: the soft one, the hard one.
fn limit(node: &Node) -> (u64, u64) {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.pid())).expect("the process is there");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("Linux says so");
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
    (numbers.next().expect("a number"), numbers.next().expect("another"))
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised_and_one_that_is_too_low_is_said_with_its_numbers() {
    const SAID: &str = "may have fewer files open than its settings need";
    let mut node = Node::new();
    node.under(&["sh", "-c", "ulimit -Hn 20000; ulimit -Sn 300; exec \"$@\"", "sh"]);
    let node = node.start().await;
    assert_eq!(limit(&node), (20_000, 20_000));
    assert!(!node.stderr().contains(SAID), "{}", node.stderr());

    let mut node = Node::new().set("ingest.max_connections", 2_000);
    node.under(&["sh", "-c", "ulimit -n 1024; exec \"$@\"", "sh"]);
    let mut node = node.start().await;
    let said = node.stderr();
    let line = said.lines().find(|line| line.contains(SAID)).unwrap_or_else(|| panic!("not said: {said}"));
    for part in ["\"limit\":1024", "\"ingest\":2000", "\"admin\":256", "LimitNOFILE", "max_connections"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    Client::connect(node.ingest()).await.report("a", 1, "1").await;
    node.change("ingest.max_connections", 3_000);
    node.reload();
    node.said(SAID, 2).await;
}

/// Everything below a folder that somebody else than its owner may do something with.
fn open_to_others(folder: &Path) -> Vec<String> {
    let mut open = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            // A file of the sink may be gone again.
            let Ok(about) = entry.metadata() else { continue };
            if about.is_dir() {
                folders.push(entry.path());
            }
            if about.permissions().mode() & 0o077 != 0 && entry.file_name() != "forebay.toml" {
                open.push(format!("{} {:o}", entry.path().display(), about.permissions().mode()));
            }
        }
    }
    open
}

#[tokio::test]
async fn what_a_node_writes_is_its_owners_alone_whatever_the_umask() {
    let mut node = Node::new();
    node.under(&["sh", "-c", "umask 0; exec \"$@\"", "sh"]);
    let node = node.start().await;
    Client::connect(node.ingest()).await.report("a", 1, "1").await;
    node.drained().await;
    assert_eq!(open_to_others(node.folder()), [""; 0]);
}

#[tokio::test]
async fn secrets_that_others_may_read_or_write_are_warned_of() {
    const SAID: &str = "other users of this machine may";
    let folder = tempfile::tempdir().expect("a folder");
    let own = certificate(folder.path(), "own", 2100);
    let tokens = folder.path().join("tokens.toml");
    std::fs::write(&tokens, token(&[]).1).expect("a file");
    let chmod =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    chmod(&own.key, 0o600);
    chmod(&tokens, 0o640);
    let mut node = Node::new()
        .set("access.tokens", tokens.display().to_string())
        .set("ingest.tls_cert", own.cert.display().to_string())
        .set("ingest.tls_key", own.key.display().to_string());
    node.launch().await;
    assert!(!node.stderr().contains(SAID), "{}", node.stderr());
    for (file, mode, setting, may) in [
        (&own.key, 0o604, "ingest.tls_key", "read"),
        (&tokens, 0o644, "access.tokens", "read"),
        (&tokens, 0o620, "access.tokens", "write to"),
    ] {
        chmod(&own.key, 0o600);
        chmod(&tokens, 0o600);
        chmod(file, mode);
        let before = node.stderr().matches(SAID).count();
        node.reload();
        node.said(SAID, before + 1).await;
        let said = node.stderr();
        let line = said.lines().rfind(|line| line.contains(SAID)).expect("just said");
        assert!(line.contains(setting) && line.contains(&format!("may {may} this file")), "{line}");
    }
}
