//! A peer's server: a package's program in a process of its own, on a folder and a port of its own, all gone when it is
//! dropped.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::process::mortal;
use super::servers::reserve_port;

/// Far longer than a start takes; past it something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// The running server.
pub struct Server {
    child: Child,
    address: SocketAddr,
    /// Holds the port against other programs of this kind.
    _reserved: UdpSocket,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts it, with the arguments that `arguments` makes of its folder and port, and waits until it listens.
    pub async fn start(program: &Path, arguments: impl FnOnce(&Path, u16) -> Vec<String>) -> Self {
        let (port, reserved) = reserve_port();
        let folder = super::folder("peer-");
        let arguments = arguments(folder.path(), port);
        let log = File::create(folder.path().join("log")).expect("the log can be written");
        let mut command = mortal(program);
        command.args(arguments).current_dir(folder.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file has more than one handle")).stderr(log);
        let child = command.spawn().expect("setpriv (util-linux) starts the server");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = Self { child, address, _reserved: reserved, folder };
        server.listens().await;
        server
    }

    async fn listens(&mut self) {
        let start = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            let ended = self.child.try_wait().expect("a child can be asked");
            assert!(ended.is_none() && start.elapsed() < PATIENCE, "not listening (exit: {ended:?}):\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What it keeps goes with its folder.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a program is, each of which [`require`] has found.
pub fn installed(program: &str) -> PathBuf {
    find(program).unwrap_or_else(|| panic!("{program} is installed"))
}

/// Ends the benchmark before it starts anything where a program is missing, and says which Debian packages have them.
pub fn require(programs: &[(&str, &str)]) {
    let missing = programs.iter().filter(|(program, _)| find(program).is_none());
    let (programs, packages): (Vec<&str>, Vec<&str>) = missing.copied().unzip();
    if !programs.is_empty() {
        super::progress(&format!("not installed: {}", programs.join(", ")));
        super::progress(&format!("  sudo RUNLEVEL=1 apt-get install --no-install-recommends {}", packages.join(" ")));
        std::process::exit(2);
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut files = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).map(|folder| folder.join(program));
    files.find(|file| file.exists())
}
