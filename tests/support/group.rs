//! A control group for memory, in which a node runs as in a small container.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A group with a limit; removed when it is dropped, which its processes must not outlive.
pub struct Group {
    folder: PathBuf,
    is_first_version: bool,
}

impl Group {
    /// A group that holds so many bytes; `Err` says why there is none here.
    pub fn of(bytes: u64) -> Result<Self, String> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("forebay-test-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let first = PathBuf::from("/sys/fs/cgroup/memory");
        let is_first_version = first.join("memory.limit_in_bytes").exists();
        let root = if is_first_version { first } else { PathBuf::from("/sys/fs/cgroup") };
        let folder = root.join(name);
        fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let group = Self { folder, is_first_version };
        group.write(if is_first_version { "memory.limit_in_bytes" } else { "memory.max" }, bytes)?;
        // What is swapped out is used all the same; a group without swap has no such file.
        let _ = group.write(if is_first_version { "memory.swappiness" } else { "memory.swap.max" }, 0);
        Ok(group)
    }

    fn write(&self, file: &str, value: u64) -> Result<(), String> {
        fs::write(self.folder.join(file), value.to_string()).map_err(|error| format!("{file}: {error}"))
    }

    /// The command that puts the process into the group, and becomes what follows it.
    pub fn wrapper(&self) -> Vec<String> {
        let script = "echo $$ > \"$0\" && exec \"$@\"";
        let processes = self.folder.join("cgroup.procs").display().to_string();
        ["sh", "-c", script, &processes].map(str::to_owned).to_vec()
    }

    /// The most bytes that its processes used at a time, pages of files among them.
    pub fn peak(&self) -> u64 {
        let file = if self.is_first_version { "memory.max_usage_in_bytes" } else { "memory.peak" };
        let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}
