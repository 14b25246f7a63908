//! Forebay: the release program in a process of its own, on a folder of its own, both gone when it is dropped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::process::{mortal, terminate};

/// A sink that is not there: nobody listens on this port.
pub const DEAD_SINK: &str = "mysql://root@127.0.0.1:1/forebay";

/// Far longer than anything here takes; past it something is broken.
const PATIENCE: Duration = Duration::from_secs(600);

/// A node's folder and settings, and the node itself while it runs.
pub struct Node {
    folder: tempfile::TempDir,
    settings: BTreeMap<String, String>,
    child: Option<Child>,
    addresses: Option<(SocketAddr, SocketAddr)>,
}

/// How long a start took.
#[derive(Debug, Clone, Copy)]
pub struct Started {
    /// When the process was started.
    pub at: Instant,
    /// Until `/readyz` answered 200.
    pub ready: Duration,
}

impl Node {
    /// A node with an empty journal, and the defaults of the program; not started.
    pub fn new(sink: &str) -> Self {
        let folder = super::folder("forebay-");
        let journal = folder.path().join("journal").display().to_string();
        let mut node = Self { folder, settings: BTreeMap::new(), child: None, addresses: None };
        let text = |text: &str| toml::Value::from(text);
        node.set("ingest.listen", text("127.0.0.1:0"));
        node.set("admin.listen", text("127.0.0.1:0"));
        node.set("journal.dir", text(&journal));
        node.set("log.format", text("json"));
        node.set("sink.url", text(sink));
        node
    }

    /// Changes one setting, named as `section.key`, for the next start.
    pub fn set(&mut self, key: &str, value: impl Into<toml::Value>) {
        self.settings.insert(key.to_owned(), value.into().to_string());
    }

    /// Starts the process and waits until it is ready.
    pub async fn start(&mut self) -> Started {
        assert!(self.child.is_none(), "the node runs already");
        let settings = self.folder.path().join("forebay.toml");
        let lines: String = self.settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        std::fs::write(&settings, lines).expect("the settings can be written");
        let log = File::create(self.log()).expect("the log can be written");
        let mut command = mortal(Path::new(env!("CARGO_BIN_EXE_forebay")));
        command.arg("serve").arg("--config").arg(settings).current_dir(self.folder.path());
        let at = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.expect("setpriv (util-linux) starts the node"));
        loop {
            self.addresses = self.listening();
            if self.addresses.is_some() && self.get("/readyz").is_some() {
                return Started { at, ready: at.elapsed() };
            }
            let ended = self.child.as_mut().expect("it was started").try_wait().expect("a child can be asked");
            let wrong = ended.is_some() || at.elapsed() > PATIENCE;
            assert!(!wrong, "the node is not ready (exit: {ended:?}):\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Where clients connect.
    pub fn ingest(&self) -> SocketAddr {
        self.addresses.expect("the node runs").0
    }

    /// Where operators ask.
    pub fn admin(&self) -> SocketAddr {
        self.addresses.expect("the node runs").1
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// The journal's folder.
    pub fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    /// `GET /api/v1/status`
    pub fn status(&self) -> Value {
        self.json("/api/v1/status")
    }

    /// `GET /api/v1/audit`
    pub fn audit(&self) -> Value {
        self.json("/api/v1/audit")
    }

    /// Waits until all is in the sink; the audit, which balances and has no dead letter.
    pub async fn drained(&self) -> Value {
        let start = Instant::now();
        loop {
            let audit = self.audit();
            if audit["backlog"] == 0 {
                assert_eq!((&audit["balanced"], &audit["dead"]), (&Value::from(true), &Value::from(0)), "{audit}");
                return audit;
            }
            assert!(start.elapsed() < PATIENCE, "the backlog does not drain: {audit}\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGTERM; the node must end with 0.
    pub async fn stop(&mut self) {
        terminate(self.child.as_ref().expect("the node runs"));
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.as_mut().expect("it ran").try_wait().expect("a child can be asked") {
                assert!(status.success(), "the node ended with {status}:\n{}", self.said());
                self.child = None;
                return;
            }
            assert!(start.elapsed() < PATIENCE, "the node does not stop:\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; it is reaped either way.
            let _ = child.kill();
            child.wait().expect("a child can be waited for");
        }
    }

    fn json(&self, path: &str) -> Value {
        let body = self.get(path).unwrap_or_else(|| panic!("{path} is not answered:\n{}", self.said()));
        serde_json::from_str(&body).expect("the admin API speaks JSON")
    }

    /// The body of a 200.
    fn get(&self, path: &str) -> Option<String> {
        let (_, admin) = self.addresses?;
        let mut socket = TcpStream::connect(admin).ok()?;
        write!(socket, "GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200 ").then(|| body.to_owned())
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The ports that the system chose, once the node has said them.
    fn listening(&self) -> Option<(SocketAddr, SocketAddr)> {
        let said = self.said();
        let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let line = lines.into_iter().find(|line| line["message"] == "listening")?;
        let address = |name: &str| line[name].as_str()?.parse().ok();
        Some((address("ingest")?, address("admin")?))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
