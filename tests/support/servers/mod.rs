//! A private MariaDB or MySQL server for one test: own data directory, own port on the loopback, dead when the test is.
//!
//! The process dies with the thread that started it (`setpriv --pdeathsig KILL`), so a test that is killed leaves none
//! behind. Call `start` and `restart` from the test itself or from a task of its runtime, not from a thread that ends.

#![allow(dead_code, reason = "each test binary uses another part of it")]

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Opts, OptsBuilder, Pool};

mod programs;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// MariaDB, as Debian has it.
    MariaDb,
    /// MySQL, as `tests/servers/mysql.sh` fetches it.
    MySql,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::MariaDb => "MariaDB",
            Self::MySql => "MySQL",
        })
    }
}

/// Makes two tests of a function that takes a [`Kind`]: `NAME::mariadb` and `NAME::mysql`. A test that needs a runtime
/// of one thread says so behind its name.
#[allow(unused_macros, reason = "not every binary that has servers has tests over both")]
macro_rules! on_each_server {
    ($name:ident) => {
        $crate::support::servers::on_each_server!($name, flavor = "multi_thread", worker_threads = 2);
    };
    ($name:ident, $($runtime:tt)*) => {
        mod $name {
            use $crate::support::servers::Kind;

            #[tokio::test($($runtime)*)]
            async fn mariadb() {
                super::$name(Kind::MariaDb).await;
            }

            #[tokio::test($($runtime)*)]
            async fn mysql() {
                super::$name(Kind::MySql).await;
            }
        }
    };
}
#[allow(unused_imports, reason = "not every binary that has servers has tests over both")]
pub(crate) use on_each_server;

/// Lets the table refuse codes over 32,767, each for what it is (1264), as a narrower column would; but one that is
/// narrower is not written to at all.
pub const NARROW: &str = "CREATE TRIGGER narrow BEFORE INSERT ON reports FOR EACH ROW IF NEW.code > 32767 THEN SIGNAL \
    SQLSTATE '22003' SET MYSQL_ERRNO = 1264, MESSAGE_TEXT = 'Out of range value for column'; END IF";

/// Ends that.
pub const WIDE: &str = "DROP TRIGGER narrow";

/// Far longer than a start takes on a busy machine; past it something is broken.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Below the ports that the kernel hands to clients, so that nobody takes the port while the server is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A running (or killed, or paused) server.
pub struct Server {
    kind: Kind,
    port: u16,
    /// Holds the port against other tests of this machine: whoever starts a server on a TCP port has it in UDP too.
    _reserved: UdpSocket,
    folder: tempfile::TempDir,
    options: Vec<String>,
    /// MiB of the file system that the data is on, where it has one of its own.
    disk: Option<u32>,
    process: Option<Child>,
}

impl Server {
    /// A new, empty server with the database `forebay`.
    pub async fn start(kind: Kind) -> Self {
        Self::start_with(kind, &[]).await
    }

    /// The same with more options, such as `--max-allowed-packet=64K`. They hold for restarts too.
    pub async fn start_with(kind: Kind, options: &[&str]) -> Self {
        Self::start_on(kind, None, options).await
    }

    /// The same on a file system of its own, of so many MiB, which is there for this server alone and goes when it
    /// ends: not to be restarted. Needs root.
    pub async fn start_on_disk(kind: Kind, mib: u32) -> Self {
        let options = match kind {
            Kind::MariaDb => &["--innodb-log-file-size=8M"][..],
            Kind::MySql => &[],
        };
        Self::start_on(kind, Some(mib), options).await
    }

    async fn start_on(kind: Kind, disk: Option<u32>, options: &[&str]) -> Self {
        let (port, reserved) = reserve_port();
        let folder = tempfile::Builder::new().prefix("server-").tempdir_in(scratch()).expect("a folder for the server");
        copy_folder(&programs::template(kind), &folder.path().join("data"));
        let options = options.iter().map(ToString::to_string).collect();
        let mut server = Self { kind, port, _reserved: reserved, folder, options, disk, process: None };
        server.restart().await;
        server
    }

    /// Which server it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `mysql://root@127.0.0.1:PORT/forebay`
    pub fn url(&self) -> String {
        format!("mysql://root@127.0.0.1:{}/forebay", self.port)
    }

    /// The port on 127.0.0.1; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// SIGKILL; the data directory stays.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("a child that was not reaped can be killed");
            process.wait().expect("a child can be reaped");
        }
    }

    /// Starts the server again (kills it first, if it runs) on the same port and data; returns when it answers.
    pub async fn restart(&mut self) {
        self.kill();
        let started = Instant::now();
        self.process = Some(self.spawn());
        loop {
            match Conn::new(OptsBuilder::from_opts(self.opts()).db_name(None::<String>)).await {
                Ok(mut conn) => {
                    conn.query_drop("CREATE DATABASE IF NOT EXISTS forebay").await.expect("root can make a database");
                    conn.disconnect().await.expect("a fresh connection can be closed");
                    return;
                }
                Err(error) => {
                    let exited = self.process.as_mut().expect("just spawned").try_wait().expect("a child can be asked");
                    if exited.is_some() || started.elapsed() > READY_WITHIN {
                        panic!("{} is not ready ({exited:?}): {error}\n{}", self.kind, self.error_log());
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGSTOP: connections stay open, nothing is answered. Returns when the process has stopped.
    pub fn pause(&self) {
        self.signal("STOP");
        let stat = format!("/proc/{}/stat", self.pid().expect("only a running server can be paused"));
        loop {
            let line = fs::read_to_string(&stat).expect("the process is there");
            if line.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')) {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Fills the server's own file system to the last byte.
    pub fn fill_disk(&self) {
        let mut file = File::create(self.filler()).expect("a file can be made");
        let error = std::io::copy(&mut std::io::repeat(0), &mut file).expect_err("no disk is endless");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    }

    /// Gives the space back.
    pub fn free_disk(&self) {
        fs::remove_file(self.filler()).expect("the disk was filled");
    }

    fn filler(&self) -> PathBuf {
        let inside = self.folder.path().strip_prefix("/").expect("a full path").join("data/filler");
        // As the server sees it: nobody else sees its file system.
        Path::new(&format!("/proc/{}/root", self.pid().expect("it runs"))).join(inside)
    }

    /// A pool of connections as root to the database `forebay`.
    pub fn pool(&self) -> Pool {
        Pool::new(self.opts())
    }

    /// One connection as root to the database `forebay`.
    pub async fn conn(&self) -> Conn {
        Conn::new(self.opts()).await.expect("the server is up")
    }

    /// Runs statements, one after the other, over a connection of their own.
    pub async fn run(&self, statements: &[&str]) {
        let mut conn = self.conn().await;
        for statement in statements {
            conn.query_drop(*statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        conn.disconnect().await.expect("a connection can be closed");
    }

    /// All rows of a query.
    pub async fn rows<T: FromRow + Send + 'static>(&self, query: &str) -> Vec<T> {
        let mut conn = self.conn().await;
        let rows = conn.query(query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
        conn.disconnect().await.expect("a connection can be closed");
        rows
    }

    /// The one row of a query.
    pub async fn row<T: FromRow + Send + 'static>(&self, query: &str) -> T {
        let mut rows = self.rows(query).await;
        assert_eq!(rows.len(), 1, "{query}");
        rows.remove(0)
    }

    /// What the server has logged.
    pub fn error_log(&self) -> String {
        fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }

    fn opts(&self) -> Opts {
        let opts = Opts::from_url(&self.url()).expect("the URL is well formed");
        // Over TCP like everybody: the driver would move to the server's socket on its own.
        OptsBuilder::from_opts(opts).prefer_socket(false).into()
    }

    fn signal(&self, name: &str) {
        let pid = self.pid().expect("only a running server takes signals");
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().expect("sh runs");
        assert!(status.success(), "kill -{name} {pid}");
    }

    fn spawn(&self) -> Child {
        let folder = self.folder.path();
        let path = |name: &str| folder.join(name).display().to_string();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if let Some(mib) = self.disk {
            // In a mount namespace of its own, the file system ends with the process, however that ends.
            let script = "mkdir \"$0.disk\" && mount -t tmpfs -o size=\"$1\"m none \"$0.disk\" && cp -a \"$0\"/. \"$0.disk\" \
                          && mount --bind \"$0.disk\" \"$0\" && shift && exec \"$@\"";
            command.args(["unshare", "--mount", "sh", "-c", script, &path("data"), &mib.to_string()]);
        }
        command
            .args(programs::server(self.kind))
            .arg("--user=root")
            .arg(format!("--datadir={}", path("data")))
            .arg(format!("--log-error={}", path("error.log")))
            .arg(format!("--pid-file={}", path("pid")))
            .arg(format!("--port={}", self.port))
            // Relative to the data directory: a full path may exceed what a socket's address can hold.
            .args(["--bind-address=127.0.0.1", "--socket=s", "--skip-name-resolve"])
            .args(["--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=32M", "--key-buffer-size=64K"])
            .args(["--innodb-buffer-pool-dump-at-shutdown=OFF", "--innodb-buffer-pool-load-at-startup=OFF"])
            .args(["--performance-schema=OFF", "--max-connections=64"])
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setpriv (util-linux) runs")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where servers of this build live; swept with the target folder if a test is killed.
fn scratch() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&folder).expect("the target folder can be written");
    folder
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("the template is there") {
        let entry = entry.expect("the template can be listed");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("an entry has a type").is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("a file can be copied")),
        }
    }
}

/// A port that is free, and what holds it against others that ask here.
pub fn reserve_port() -> (u16, UdpSocket) {
    let start = PORTS.start + (std::process::id() as u16).wrapping_mul(31) % (PORTS.end - PORTS.start);
    for port in (start..PORTS.end).chain(PORTS.start..start) {
        let Ok(reserved) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return (port, reserved);
        }
    }
    panic!("no free port in {PORTS:?}");
}
