//! A control group that bounds the memory of a node, where this machine lets one be made.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Where control groups are mounted: the memory controller of version 1, or version 2.
const ROOTS: [(&str, &str, &str); 2] = [
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"),
    ("/sys/fs/cgroup", "memory.max", "memory.events"),
];

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A group of this test's own; removed when it is dropped, after its processes ended.
pub struct Group {
    folder: PathBuf,
    events: &'static str,
}

impl Group {
    /// A group whose processes may use `bytes` of memory. Says why there is none where it cannot be made.
    pub fn with_memory(bytes: u64) -> Option<Self> {
        let name = format!("forebay-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        for (root, limit, events) in ROOTS {
            if !Path::new(root).join("cgroup.procs").exists() {
                continue;
            }
            let group = Self { folder: Path::new(root).join(&name), events };
            let made =
                fs::create_dir(&group.folder).and_then(|()| fs::write(group.folder.join(limit), bytes.to_string()));
            match made {
                Ok(()) => return Some(group),
                Err(error) => println!("NO CONTROL GROUP in {root}: {error}"),
            }
        }
        println!("NO CONTROL GROUP: the bound of memory is looked at in /proc alone");
        None
    }

    /// The program that enters the group and becomes the one behind it.
    pub fn wrapper(&self) -> [String; 3] {
        let enter = format!("echo $$ >{}/cgroup.procs && exec \"$0\" \"$@\"", self.folder.display());
        ["sh".to_owned(), "-c".to_owned(), enter]
    }

    /// How many processes the kernel killed for their memory.
    pub fn kills(&self) -> u64 {
        let text = fs::read_to_string(self.folder.join(self.events)).expect("the group is there");
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.map_or(0, |count| count.trim().parse().expect("a number"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that was killed leaves its group a moment later.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() || !self.folder.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        println!("the control group {} is left", self.folder.display());
    }
}
