//! The programs of both servers, and a fresh data directory of each.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Kind, scratch};

/// Statements that make a fresh MySQL what a fresh MariaDB is: `root` may log in from the loopback.
const MYSQL_ROOT: &str = "CREATE USER root@'127.0.0.1';\nGRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n";

/// A server's command line, as far as it is its own kind's.
pub fn server(kind: Kind) -> Vec<OsString> {
    let (program, options) = match kind {
        Kind::MariaDb => (mariadbd(), ["--no-defaults", "--aria-pagecache-buffer-size=1M"]),
        Kind::MySql => (mysqld(), ["--innodb-redo-log-capacity=32M", "--innodb-log-buffer-size=1M"]),
    };
    // MySQL's binlog is on unless it is told otherwise.
    std::iter::once(program.into()).chain(options.map(OsString::from)).chain(["--skip-log-bin".into()]).collect()
}

fn mariadbd() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|folder| folder.join("mariadbd"))
        .find(|file| file.exists());
    found.expect("mariadbd is installed: these tests run against a real server")
}

/// Its first option is `--no-defaults` already.
fn mysqld() -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/mysql/mysqld");
    assert!(program.exists(), "tests/run.sh fetches MySQL into target/mysql, by tests/servers/mysql.sh");
    program
}

/// An initialised data directory, made once for all tests of a build: copying it is ten times as quick as making one.
pub fn template(kind: Kind) -> PathBuf {
    let name = format!("{}-template", kind.to_string().to_lowercase());
    let ready = scratch().join(&name);
    let lock = File::create(scratch().join(format!("{name}.lock"))).expect("a lock file can be made");
    lock.lock().expect("a file can be locked");
    if !ready.exists() {
        let making = tempfile::Builder::new().prefix("template-making-").tempdir_in(scratch()).expect("a folder");
        let data = making.path().join("data");
        let output = match kind {
            Kind::MariaDb => Command::new("mariadb-install-db")
                .args(["--no-defaults", "--user=root", "--auth-root-authentication-method=normal", "--skip-test-db"])
                .args(["--innodb-log-file-size=8M", &format!("--datadir={}", data.display())])
                .output(),
            Kind::MySql => {
                let root = making.path().join("root.sql");
                fs::write(&root, MYSQL_ROOT).expect("the folder can be written");
                let [program, options @ ..] = &server(kind)[..] else { panic!("a program") };
                Command::new(program)
                    .args(options)
                    .args(["--user=root", "--initialize-insecure", &format!("--init-file={}", root.display())])
                    .args(["--innodb-buffer-pool-size=32M", &format!("--datadir={}", data.display())])
                    .output()
            }
        };
        let output = output.expect("the server's programs are installed");
        assert!(output.status.success(), "{kind} makes no data directory: {}", String::from_utf8_lossy(&output.stderr));
        fs::rename(&data, &ready).expect("both are in one folder");
    }
    ready
}
