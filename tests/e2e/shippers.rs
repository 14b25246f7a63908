//! The example configuration of docs/deploy for syslog-ng, in the real program: a log shipper that knows only the
//! status of a whole request, before a node that cannot take what it sends.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::http;
use crate::support::node::Node;
use crate::support::servers::reserve_port;
use crate::support::wait::{eventually, same};

/// Lines of the log, and how many of them are there when the node is full.
const LINES: usize = 3_000;
const FIRST: usize = 2_000;
/// What an id may have: no multiple of a batch, so that one of them would fit in part.
const FULL: i64 = 1_200;

/// A syslog-ng with files of its own; ends with the value.
struct Shipper {
    folder: PathBuf,
    process: Option<Child>,
}

impl Shipper {
    /// One that sends the lines of `app.log` in the folder of a node to that node; not started.
    fn before(node: &Node) -> Self {
        let folder = node.folder().to_owned();
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deploy/examples/syslog-ng.conf");
        let mut text = std::fs::read_to_string(example).expect("the example is there");
        for (there, here) in [
            ("127.0.0.1:7001", node.ingest().to_string()),
            ("/var/log/app.log", folder.join("app.log").display().to_string()),
            ("/var/lib/syslog-ng", folder.display().to_string()),
        ] {
            assert!(text.contains(there), "{there}: {text}");
            text = text.replace(there, &here);
        }
        std::fs::write(folder.join("syslog-ng.conf"), text).expect("a file");
        Self { folder, process: None }
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.folder.join("shipper.log")).expect("a file");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "syslog-ng", "--foreground", "--no-caps", "--stderr"]);
        for (flag, file) in [("-f", "syslog-ng.conf"), ("-R", "persist"), ("-c", "control"), ("-p", "pid")] {
            command.args([flag, &self.file(file)]);
        }
        command.env("PATH", "/usr/local/sbin:/usr/sbin:/usr/bin").stdin(Stdio::null()).stdout(Stdio::null());
        self.process = Some(command.stderr(log).spawn().expect("setpriv runs"));
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            process.wait().expect("a child can be waited for");
        }
    }

    /// Lines that it has taken over since it was started: they are in its disk buffer.
    fn taken(&self) -> Result<usize, String> {
        let output =
            Command::new("syslog-ng-ctl").args(["stats", &format!("--control={}", self.file("control"))]).output();
        let output = output.expect("syslog-ng-ctl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let found = text.lines().find_map(|line| line.strip_prefix("destination;d_forebay;;a;processed;"));
        found.and_then(|count| count.parse().ok()).ok_or_else(|| format!("it says {text:?}"))
    }

    /// How often it was told that a batch cannot be taken for now.
    fn refusals(&self) -> usize {
        let text = std::fs::read_to_string(self.folder.join("shipper.log")).expect("it says something");
        text.lines().filter(|line| line.contains("status_code='429'")).count()
    }

    async fn is_refused(&self) {
        let before = self.refusals();
        eventually("a refusal", async || {
            let refusals = self.refusals();
            if refusals > before { Ok(()) } else { Err(format!("there were {refusals}")) }
        })
        .await;
    }
}

impl Drop for Shipper {
    fn drop(&mut self) {
        self.kill();
    }
}

fn log(node: &Node, lines: std::ops::Range<usize>) {
    let file = File::options().create(true).append(true).open(node.folder().join("app.log"));
    let text: String = lines.map(|line| format!("line {line} \"quoted\" \\ é\n")).collect();
    file.expect("a file").write_all(text.as_bytes()).expect("it is written");
}

/// The node is full, then killed, then the shipper is, and while all of it drains the node once more.
#[tokio::test]
async fn a_log_shipper_before_a_full_id_loses_nothing_and_doubles_nothing() {
    let (port, _reserved) = reserve_port();
    let node = Node::new().set("ingest.listen", format!("127.0.0.1:{port}")).set("journal.max_backlog_per_id", FULL);
    let mut node = node.start().await;
    let done = http::post(node.ingest(), "/reports?wait=60s", "application/json", r#"{"op":"done","id":"a"}"#).await;
    assert_eq!(done.status, 200, "the sink is there: {done:?}");
    // It takes nothing while somebody else has its lock.
    let database = rusqlite::Connection::open(node.sqlite_file()).expect("the sink");
    database.execute_batch("BEGIN IMMEDIATE").expect("the lock is free");
    let mut shipper = Shipper::before(&node);
    log(&node, 0..FIRST);
    shipper.start();
    eventually("all lines to be taken over", async || same(shipper.taken()?, FIRST)).await;
    shipper.is_refused().await;
    let backlog = node.audit().await["backlog"].as_i64().expect("a number");
    assert!((1..=FULL).contains(&backlog), "{backlog}");
    node.kill();
    node.restart().await;
    shipper.is_refused().await;
    shipper.kill();
    log(&node, FIRST..LINES);
    shipper.start();
    shipper.is_refused().await;
    database.execute_batch("ROLLBACK").expect("the lock is given back");
    let stored = async || Ok::<_, String>(node.stored().rows().await?.len());
    eventually("the first rows", async || if stored().await? > 0 { Ok(()) } else { Err("there are none".to_owned()) })
        .await;
    node.kill();
    node.restart().await;
    eventually("a row for each line", async || same(node.stored().rows().await?.len(), LINES)).await;
    let audit = node.drained().await;
    assert_eq!((&audit["dead"], &audit["balanced"]), (&0.into(), &true.into()), "{audit}");
    let rows = node.stored().rows().await.expect("a sink");
    let data = rows.iter().map(|row| serde_json::from_str::<Value>(row.data.as_deref().unwrap_or("")).expect("JSON"));
    let found: Vec<Value> = data.map(|mut data| data["line"].take()).collect();
    let wanted: Vec<Value> = (0..LINES).map(|line| format!("line {line} \"quoted\" \\ é").into()).collect();
    assert_eq!(found, wanted, "in the order of their numbers");
}
