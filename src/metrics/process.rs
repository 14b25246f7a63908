//! What the system says of this process, from Linux' `/proc`.

use std::fs;
use std::time::{Duration, SystemTime};

/// A second of CPU time in `/proc/self/stat`: `USER_HZ`, which is part of the kernel's interface (proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

/// The process at one instant; what the system does not say is 0.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// User and kernel, of all threads.
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) open_fds: u64,
    pub(super) max_fds: u64,
}

impl Process {
    /// Asks the system; reads a few small files, and lists the open ones.
    pub(super) fn now() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu_seconds: cpu_seconds(&text("/proc/self/stat")).unwrap_or(0.0),
            resident_bytes: resident_bytes(&text("/proc/self/status")).unwrap_or(0),
            open_fds: fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
            max_fds: max_fds(&text("/proc/self/limits")).unwrap_or(0),
        }
    }
}

/// When this process started, in seconds of the epoch; to a hundredth of a second, by the clock as it stands now.
pub(super) fn started() -> f64 {
    let text = |path| fs::read_to_string(path).unwrap_or_default();
    let age = || {
        let up: f64 = text("/proc/uptime").split(' ').next()?.parse().ok()?;
        Some(up - field(&text("/proc/self/stat"), 22)? / TICKS_PER_SECOND)
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    now.as_secs_f64() - age().unwrap_or(0.0)
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((field(stat, 14)? + field(stat, 15)?) / TICKS_PER_SECOND)
}

/// A field of `/proc/self/stat`, numbered from 1 as in proc(5). The second, in parentheses, may have spaces.
fn field(stat: &str, number: usize) -> Option<f64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn max_fds(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_files_are_read_by_their_fields() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 500 0 3 0 250 50 0 0 20 0 9 0 12345 1000 200 x";
        assert_eq!((cpu_seconds(stat), field(stat, 22)), (Some(3.0), Some(12345.0)));
        assert_eq!(resident_bytes("VmHWM:\t  9 kB\nVmRSS:\t    1024 kB\n"), Some(1 << 20));
        assert_eq!(max_fds("Limit  Soft\nMax open files            1024                 4096   files \n"), Some(1024));
        assert_eq!((cpu_seconds(""), resident_bytes("VmRSS: many"), max_fds("")), (None, None, None));
    }

    #[test]
    fn this_process_is_seen() {
        let process = Process::now();
        assert!(process.resident_bytes > 0 && process.open_fds > 2 && process.max_fds > 2, "{process:?}");
        assert!(started() > 1e9);
    }
}
