//! How much memory this process may use, as the system says: what its control groups (v1, v2) leave of the machine's.

use std::fs;
use std::path::{Path, PathBuf};

/// Where control groups are found.
const GROUPS: &str = "/sys/fs/cgroup";

/// The least that is taken for true: no machine has less.
const LEAST_BYTES: u64 = 64 << 20;

/// Bytes of memory that this process may use; `None` where the system does not say.
pub(super) fn usable_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(Path::new(GROUPS), &groups).into_iter();
    let limits = limits.filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    // A group without a limit says `max`, or more than any machine has.
    limits.chain(machine).min().map(|bytes: u64| bytes.max(LEAST_BYTES))
}

/// The machine's memory, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok().map(|kib: u64| kib << 10)
}

/// The files with the limits of the process's groups and of those around them. A container may see its own group at
/// the root.
fn limit_files(root: &Path, groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (root, name) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let own = root.join(path.trim_start_matches('/'));
        files.extend(own.ancestors().take_while(|group| group.starts_with(&root)).map(|group| group.join(name)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_how_much_it_has() {
        assert_eq!(total("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(total("nothing of it"), None);
        assert!(usable_bytes().is_some_and(|bytes| bytes >= LEAST_BYTES));
    }

    #[test]
    fn limits_are_asked_of_the_own_group_and_of_all_around_it() {
        let files = |groups| {
            let files = limit_files(Path::new("/g"), groups).into_iter();
            files.map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(files("0::/a/b\n"), ["/g/a/b/memory.max", "/g/a/memory.max", "/g/memory.max"]);
        assert_eq!(
            files("5:cpu,memory:/x\n4:cpuset:/y\n0::/\n"),
            ["/g/memory/x/memory.limit_in_bytes", "/g/memory/memory.limit_in_bytes", "/g/memory.max"]
        );
        assert_eq!(files(""), [""; 0]);
    }
}
