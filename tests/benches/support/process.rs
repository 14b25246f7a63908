//! What a process used, from `/proc`, and ways to start and end one.

use std::process::{Child, Command};
use std::time::Duration;

/// `USER_HZ`: the unit of times in `/proc/PID/stat`, 100 a second on every Linux in use.
const TICKS_A_SECOND: u32 = 100;

/// Memory that changed less than this between two looks has settled.
const SETTLED: u64 = 512 * 1024;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// Looks, at most.
const LOOKS: usize = 15;

/// What a process has used since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Of all threads, in user space and kernel; in steps of 10 ms.
    pub cpu: Duration,
    /// Bytes that it caused to be written to disk, the file system's own aside.
    pub written: u64,
}

impl Usage {
    /// Of the process with this id, or of this one.
    pub fn of(pid: impl std::fmt::Display) -> Self {
        let stat = read(&format!("/proc/{pid}/stat"));
        // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th fields after it.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u32 = fields[11..13].iter().map(|field| field.parse::<u32>().expect("a count of ticks")).sum();
        let written = field(&read(&format!("/proc/{pid}/io")), "write_bytes:");
        Self { cpu: Duration::from_secs(1) * ticks / TICKS_A_SECOND, written }
    }

    /// What was used since an earlier moment.
    pub fn since(self, earlier: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(earlier.cpu), written: self.written.saturating_sub(earlier.written) }
    }
}

/// Resident memory in bytes: now (`VmRSS`) or at most (`VmHWM`).
pub fn memory(pid: u32, name: &str) -> u64 {
    field(&read(&format!("/proc/{pid}/status")), &format!("{name}:")) * 1024
}

/// Resident memory once it no longer changes.
pub async fn settled_memory(pid: u32) -> u64 {
    let mut last = 0_u64;
    for _ in 0..LOOKS {
        tokio::time::sleep(LOOK).await;
        let now = memory(pid, "VmRSS");
        if now.abs_diff(last) < SETTLED {
            return now;
        }
        last = now;
    }
    last
}

/// A command for a program that dies with the thread that starts it, however that ends.
pub fn mortal(program: &std::path::Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FOREBAY_")) {
        command.env_remove(name);
    }
    command
}

/// SIGTERM, without waiting.
pub fn terminate(child: &Child) {
    let pid = child.id().to_string();
    let status = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &pid]).status().expect("sh runs");
    assert!(status.success(), "SIGTERM cannot be sent");
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number after the name")
}
