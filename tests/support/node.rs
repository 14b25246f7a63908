//! One node: the real program in a process of its own, on a folder of its own, which dies with the test.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::http;
use super::stored::Stored;
use super::wait::{PATIENCE, eventually};

/// The program under test.
pub const FOREBAY: &str = env!("CARGO_BIN_EXE_forebay");

/// The program that nodes run: that of `FOREBAY_BINARY` (a release build, where time counts), or the one under test.
fn binary() -> std::ffi::OsString {
    std::env::var_os("FOREBAY_BINARY").unwrap_or_else(|| FOREBAY.into())
}

/// Lines of stderr that are kept for messages of failed tests.
const KEPT_LINES: usize = 200_000;

/// Where clients find a node; `None` while it is down. Ports change with each start.
pub type Address = Arc<Mutex<Option<SocketAddr>>>;

/// A node's settings, and the node itself once it runs. Dropping it kills the process and removes the folder.
pub struct Node {
    folder: tempfile::TempDir,
    settings: toml::Table,
    wrapper: Vec<String>,
    /// Whether it is told where its configuration is, rather than left to find it in its folder.
    is_told: bool,
    child: Option<Child>,
    errors: Arc<Mutex<VecDeque<String>>>,
    /// Reads what the process says until it has ended.
    listener: Option<std::thread::JoinHandle<()>>,
    address: Address,
    admin: Option<SocketAddr>,
}

impl Node {
    /// A node with a short tick, an SQLite sink, and both listeners on ports of their own; not started.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("forebay-").tempdir().expect("a folder for the node");
        let node = Self {
            folder,
            settings: toml::Table::new(),
            wrapper: Vec::new(),
            is_told: true,
            child: None,
            errors: Arc::default(),
            listener: None,
            address: Arc::default(),
            admin: None,
        };
        let sink = format!("sqlite:{}", node.sqlite_file().display());
        let journal = node.journal().display().to_string();
        node.set("ingest.listen", "127.0.0.1:0")
            .set("admin.listen", "127.0.0.1:0")
            .set("journal.dir", journal)
            .set("sink.url", sink)
            .set("flush.tick", "200ms")
            .set("log.format", "json")
    }

    /// Changes one setting, named as `section.key`.
    pub fn set(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.change(key, value);
        self
    }

    /// Changes one setting for the next start.
    pub fn change(&mut self, key: &str, value: impl Into<toml::Value>) {
        match key.split_once('.') {
            None => self.settings.insert(key.to_owned(), value.into()),
            Some((section, key)) => self
                .settings
                .entry(section)
                .or_insert_with(|| toml::Table::new().into())
                .as_table_mut()
                .expect("a section is a table")
                .insert(key.to_owned(), value.into()),
        };
    }

    /// Runs the program under another, such as strace, from the next start on; it must `exec` the program itself.
    pub fn under(&mut self, wrapper: &[&str]) {
        self.wrapper = wrapper.iter().map(|&part| part.to_owned()).collect();
    }

    /// Lets the program find its configuration by itself, as `./forebay.toml`.
    pub fn untold(mut self) -> Self {
        self.is_told = false;
        self
    }

    /// Starts the node and waits until it is ready.
    pub async fn start(mut self) -> Self {
        self.restart().await;
        self
    }

    /// Starts the node on the folder as it is, and waits until it is ready.
    pub async fn restart(&mut self) {
        self.launch().await;
        let admin = self.admin();
        let ready = eventually("the node to be ready", async || {
            if let Some(status) = self.exited() {
                return Ok(Err(status));
            }
            match http::get(admin, "/readyz").await {
                Ok(answer) if answer.status == 200 => Ok(Ok(())),
                Ok(answer) => Err(format!("/readyz answers {} {}", answer.status, answer.text())),
                Err(e) => Err(format!("/readyz cannot be asked: {e}")),
            }
        });
        if let Err(status) = ready.await {
            panic!("the node ended with {status} before it was ready:\n{}", self.stderr());
        }
    }

    /// Starts the node and waits only until it listens.
    pub async fn launch(&mut self) {
        if !self.spawn_until_listening().await {
            let status = self.exited();
            panic!("the node said no `listening` (exit: {status:?}); its stderr:\n{}", self.stderr());
        }
    }

    /// Starts a node that may end by itself before it listens; whether it listens.
    pub async fn try_launch(&mut self) -> bool {
        self.spawn_until_listening().await
    }

    /// Starts a node that is bound to end by itself, before or after it listens; how it ended.
    pub async fn launch_to_die(&mut self) -> ExitStatus {
        self.spawn_until_listening().await;
        self.ended().await
    }

    /// Whether it came to listen.
    async fn spawn_until_listening(&mut self) -> bool {
        assert!(self.child.is_none(), "the node runs already");
        let file = self.config_file();
        std::fs::write(&file, self.settings.to_string()).expect("the configuration can be written");
        // The kernel kills the node when the test's thread ends, however it ends.
        let mut command = without_settings(Command::new("setpriv"));
        command.args(["--pdeathsig", "KILL", "--"]).args(&self.wrapper).arg(binary()).arg("serve");
        if self.is_told {
            command.arg("--config").arg(file);
        }
        command.current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("setpriv (util-linux) starts the node");
        let stderr = child.stderr.take().expect("stderr is piped");
        let (found, mut listening) = tokio::sync::mpsc::unbounded_channel();
        let errors = Arc::clone(&self.errors);
        self.listener = Some(std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if let Some(addresses) = listening_addresses(&line) {
                    let _ = found.send(addresses);
                }
                let mut errors = errors.lock().expect("no thread panics while it holds the lines");
                if errors.len() == KEPT_LINES {
                    errors.pop_front();
                }
                errors.push_back(line);
            }
        }));
        self.child = Some(child);
        let found = tokio::time::timeout(PATIENCE, listening.recv()).await;
        let Ok(Some((ingest, admin))) = found else { return false };
        *self.address.lock().expect("no thread panics while it holds the address") = Some(ingest);
        self.admin = Some(admin);
        true
    }

    /// The folder of this node; everything it writes is in there.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The journal's folder.
    pub fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    /// Changes one bit of each value in a tree of the journal of a node that does not run. The storage's own checksums
    /// hold, as if this program had written what it should not.
    pub fn damage_tree(&self, tree: &str) {
        assert!(self.child.is_none(), "the node has its journal open");
        let config = sled::Config::new().path(self.journal()).segment_size(8 << 20).flush_every_ms(None);
        let tree = config.open().expect("a journal").open_tree(tree).expect("a tree");
        for pair in &tree {
            let (key, value) = pair.expect("the tree can be read");
            let mut value = value.to_vec();
            *value.last_mut().expect("no value is empty") ^= 1;
            tree.insert(key, value).expect("the tree takes it");
        }
        tree.flush().expect("the tree can be written");
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("forebay.toml")
    }

    /// The file of the SQLite sink.
    pub fn sqlite_file(&self) -> PathBuf {
        self.folder.path().join("reports.db")
    }

    /// What is in the sink that this node is set to.
    pub fn stored(&self) -> Stored {
        let url = self.settings["sink"]["url"].as_str().expect("sink.url is a text");
        Stored::at(url)
    }

    /// Where clients connect.
    pub fn ingest(&self) -> SocketAddr {
        self.address.lock().expect("no thread panics while it holds the address").expect("the node runs")
    }

    /// The same for clients that outlive this start.
    pub fn address(&self) -> Address {
        Arc::clone(&self.address)
    }

    /// The admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.admin.expect("the node was started")
    }

    /// All that the node has said so far, over all starts.
    pub fn stderr(&self) -> String {
        let errors = self.errors.lock().expect("no thread panics while it holds the lines");
        errors.iter().map(|line| format!("{line}\n")).collect()
    }

    /// `GET` on the admin listener, 200 expected.
    pub async fn admin_json(&self, path: &str) -> Value {
        let answer = http::get(self.admin(), path).await.expect("the admin listener answers");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// The audit.
    pub async fn audit(&self) -> Value {
        self.admin_json("/api/v1/audit").await
    }

    /// Waits until the journal holds nothing that is not in the sink; returns the audit, which must balance.
    pub async fn drained(&self) -> Value {
        let audit = eventually("the backlog to drain", async || {
            let audit = self.audit().await;
            if audit["backlog"] == 0 { Ok(audit) } else { Err(format!("the audit is {audit}")) }
        });
        let audit = audit.await;
        assert_eq!(audit["balanced"], true, "{audit}");
        audit
    }

    /// One message or many by `POST /reports` as JSON; the replies, whatever the status.
    pub async fn post(&self, body: impl AsRef<[u8]>) -> Vec<Value> {
        let answer = http::post(self.ingest(), "/reports", "application/json", body).await;
        answer.json().as_array().unwrap_or_else(|| panic!("no array of replies: {answer:?}")).clone()
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            *self.address.lock().expect("no thread panics while it holds the address") = None;
            let _ = child.kill();
            child.wait().expect("a child can be waited for");
            self.hear_out();
        }
    }

    /// Waits until the last line of a process that has ended is among the lines.
    fn hear_out(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.join().expect("the listener only keeps lines");
        }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// SIGTERM, without waiting.
    pub fn ask_to_stop(&self) {
        let pid = self.pid().to_string();
        let status = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &pid]).status().expect("sh runs");
        assert!(status.success(), "SIGTERM cannot be sent");
    }

    /// Writes the settings as they are now, and SIGHUP.
    pub fn reload(&self) {
        std::fs::write(self.config_file(), self.settings.to_string()).expect("the configuration can be written");
        self.hang_up();
    }

    /// SIGHUP alone.
    pub fn hang_up(&self) {
        let pid = self.pid().to_string();
        let status = Command::new("sh").args(["-c", "kill -HUP \"$0\"", &pid]).status().expect("sh runs");
        assert!(status.success(), "SIGHUP cannot be sent");
    }

    /// Waits until the node has said a line with `text` in it `times` times.
    pub async fn said(&self, text: &str, times: usize) {
        let said = eventually("the node to say so", async || {
            let found = self.stderr().lines().filter(|line| line.contains(text)).count();
            if found >= times { Ok(()) } else { Err(format!("{text:?} was said {found} times")) }
        });
        said.await;
    }

    /// Memory of the process, in KiB.
    pub fn memory(&self) -> u64 {
        let pid = self.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says so");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// The most memory that the process has had, in KiB.
    pub fn peak_memory(&self) -> u64 {
        let pid = self.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.ask_to_stop();
        self.ended().await
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self) -> ExitStatus {
        let status = eventually("the node to end", async || self.exited().ok_or_else(|| "it still runs".to_owned()));
        let status = status.await;
        self.kill();
        status
    }

    /// How the process ended, if it has.
    fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("a child can be waited for")?;
        self.hear_out();
        Some(status)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            // The test has failed: what the node said last is what a person wants to read first.
            let said = self.stderr();
            let lines: Vec<&str> = said.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            println!("the node's last lines:\n{}", last.join("\n"));
        }
    }
}

/// The bound addresses (ingest, admin) in the line `listening`.
pub fn listening_addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line: Value = serde_json::from_str(line).ok()?;
    // Fields may stand beside the message or within `fields`: that is the log's own affair.
    let fields = line.get("fields").unwrap_or(&line);
    if fields["message"] != "listening" {
        return None;
    }
    let address = |name: &str| fields[name].as_str()?.parse().ok();
    Some((address("ingest")?, address("admin")?))
}

/// Without the variables that the program would read: those of the tests themselves begin with `FOREBAY_` too.
pub fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FOREBAY_")) {
        command.env_remove(name);
    }
    command
}

/// Runs the program to its end; for the commands that are not `serve`.
pub fn run(args: &[&str]) -> Output {
    let mut command = without_settings(Command::new("timeout"));
    command.args(["60", FOREBAY]).args(args).stdin(Stdio::null());
    let output = command.output().expect("timeout (coreutils) starts the program");
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Output {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

/// A short time in which something that must not happen could; nothing is concluded from its length.
pub const A_WHILE: Duration = Duration::from_millis(1_500);
