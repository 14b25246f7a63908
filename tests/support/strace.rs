//! System calls of the node, as strace saw them.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::wait::eventually;

/// One system call. Calls are ordered by the lines of the log on which they began and ended.
#[derive(Debug, Clone)]
pub struct Call {
    /// The thread.
    pub thread: u32,
    /// Its name, such as `fdatasync`.
    pub name: String,
    /// Arguments and result, as strace prints them.
    pub text: String,
    /// The line on which it began.
    pub began: usize,
    /// The line on which it ended.
    pub ended: usize,
}

impl Call {
    /// Whether it ended without an error.
    pub fn succeeded(&self) -> bool {
        self.text.rsplit_once(" = ").is_some_and(|(_, result)| !result.starts_with('-') && !result.starts_with('?'))
    }

    /// Whether it sends bytes to a socket or file.
    pub fn writes(&self) -> bool {
        matches!(self.name.as_str(), "write" | "writev" | "sendto" | "sendmsg" | "pwrite64" | "pwritev" | "pwritev2")
    }

    /// Whether it takes bytes from a socket or file.
    pub fn reads(&self) -> bool {
        matches!(self.name.as_str(), "read" | "readv" | "recvfrom" | "recvmsg")
    }

    /// Whether it makes a file's bytes durable; `sync_file_range` does not.
    pub fn syncs(&self) -> bool {
        matches!(self.name.as_str(), "fsync" | "fdatasync")
    }

    /// Whether it is about the files that a commit is written to, `<journal>/recent/…`.
    pub fn on_journal(&self, journal: &Path) -> bool {
        self.text.contains(&format!("<{}/recent/", journal.display()))
    }
}

/// strace with its log, as a wrapper for a node (`tests/run.sh` installs it); `more` are its options.
pub fn command(log: &Path, more: &[&str]) -> Vec<String> {
    let log = log.display().to_string();
    // -D: the node stays the test's own child, so that its exit status and its end are seen.
    let mut command: Vec<String> = ["strace", "-D", "-f", "-y", "-s", "400", "-o", &log].map(str::to_owned).into();
    command.extend(more.iter().map(|&part| part.to_owned()));
    command.extend(["setpriv", "--pdeathsig", "KILL", "--"].map(str::to_owned));
    command
}

/// strace that came to a process which runs already; ends with it, or when this is dropped.
pub struct Attached(Child);

/// Attaches strace to all threads of a process, and waits until it has them; `options` are its own.
pub async fn attach(pid: u32, options: &[&str]) -> Attached {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "strace", "-f", "-q", "-o", "/dev/null", "-p", &pid.to_string()]);
    let child = command.args(options).stdin(Stdio::null()).stderr(Stdio::null()).spawn();
    let attached = Attached(child.expect("strace starts; tests/run.sh installs it"));
    let traced = eventually("strace to have every thread", async || {
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| e.to_string())? {
            let status = thread.map_err(|e| e.to_string())?.path().join("status");
            let status = std::fs::read_to_string(status).map_err(|e| e.to_string())?;
            if status.contains("TracerPid:\t0\n") {
                return Err("a thread is not traced".to_owned());
            }
        }
        Ok(())
    });
    traced.await;
    attached
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The log of a process that has ended, once strace has written all of it.
pub async fn finished(log: &Path) -> Vec<Call> {
    let text = eventually("strace to finish its log", async || {
        let bytes = std::fs::read(log).map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let last = text.lines().last().unwrap_or_default();
        if last.contains("+++ ") && text.ends_with('\n') { Ok(text) } else { Err(format!("it ends with {last}")) }
    });
    parse(&text.await)
}

/// Reads a log of `strace -f -o`.
pub fn parse(log: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut open: HashMap<u32, usize> = HashMap::new();
    for (line, text) in log.lines().enumerate() {
        let Some((thread, rest)) = text.split_once(' ') else { continue };
        let (Ok(thread), rest) = (thread.parse(), rest.trim_start()) else { continue };
        if let Some(resumed) = rest.strip_prefix("<... ") {
            if let Some(call) = open.remove(&thread).and_then(|i| calls.get_mut(i)) {
                call.text.push_str(resumed.split_once("resumed>").map_or("", |(_, rest)| rest));
                call.ended = line;
            }
        } else if let Some((name, arguments)) = rest.split_once('(') {
            if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                continue;
            }
            let unfinished = arguments.strip_suffix(" <unfinished ...>");
            if unfinished.is_some() {
                open.insert(thread, calls.len());
            }
            let text = unfinished.unwrap_or(arguments).to_owned();
            let ended = if unfinished.is_some() { usize::MAX } else { line };
            calls.push(Call { thread, name: name.to_owned(), text, began: line, ended });
        }
    }
    calls
}
