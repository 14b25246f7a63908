//! The usual build: a Node gateway, a Redis stream, a Node consumer that inserts into MariaDB (`tests/benches/usual`).

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::process::mortal;
use super::redis;
use super::server::{Server, installed};

/// What it is made of, and the Debian package of each.
pub const PROGRAMS: [(&str, &str); 3] = [("redis-server", "redis-server"), ("node", "nodejs"), ("npm", "npm")];

/// Its three processes; killed when it is dropped.
pub struct Usual {
    gateway: Script,
    consumer: Script,
    /// The last to go: the two would complain.
    redis: Server,
    address: SocketAddr,
}

impl Usual {
    /// Starts it for this database, whose tables must be there, with as many consumers.
    pub async fn start(database: &str, consumers: u64) -> Self {
        let node = installed("node");
        let folder = install();
        let redis = redis::start(true).await;
        let port = redis.address().port().to_string();
        let (consumer, ready) =
            Script::start(&node, &folder.join("consumer.js"), &[&port, database, &consumers.to_string()]);
        assert_eq!(ready, "ready", "the consumer says what is wrong on standard error");
        let (gateway, listens) = Script::start(&node, &folder.join("gateway.js"), &[&port]);
        let listens = listens.parse().expect("the gateway says its port, or on standard error what is wrong");
        Self { gateway, consumer, redis, address: SocketAddr::from((Ipv4Addr::LOCALHOST, listens)) }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its stream can be asked for.
    pub fn redis(&self) -> SocketAddr {
        self.redis.address()
    }

    /// Gateway, Redis and consumer.
    pub fn pids(&self) -> [u32; 3] {
        [self.gateway.0.id(), self.redis.pid(), self.consumer.0.id()]
    }
}

/// A Node process; killed when it is dropped.
struct Script(Child);

impl Script {
    /// Starts it; the first line that it says.
    fn start(node: &Path, script: &Path, arguments: &[&str]) -> (Self, String) {
        let mut command = mortal(node);
        command.arg(script).args(arguments).env("NODE_ENV", "production");
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut script = Self(command.spawn().expect("setpriv (util-linux) starts it"));
        let mut line = String::new();
        let said = script.0.stdout.take().expect("it is piped");
        BufReader::new(said).read_line(&mut line).expect("it says that it is ready");
        (script, line.trim().to_owned())
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // What it has acknowledged is in Redis or in MariaDB.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Copies the scripts to `target/usual`, with the libraries that their lock file names; the folder.
fn install() -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/benches/usual");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("usual");
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    let lock = |folder: &Path| std::fs::read(folder.join("package-lock.json")).unwrap_or_default();
    let fresh = lock(&from) == lock(&folder) && folder.join("node_modules/.package-lock.json").exists();
    for name in ["gateway.js", "consumer.js", "package.json", "package-lock.json"] {
        std::fs::copy(from.join(name), folder.join(name)).expect("the scripts can be copied");
    }
    if !fresh {
        super::progress("npm ci: ws, ioredis and mysql2 into target/usual");
        let mut npm = Command::new(installed("npm"));
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&folder).stdout(Stdio::null());
        assert!(npm.status().expect("npm runs").success(), "npm ci in {} failed", folder.display());
    }
    folder
}
