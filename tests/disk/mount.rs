//! The file system, mounted: its log, and the faults that it can be told to have.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};

use fuser::{BackgroundSession, Config, Errno, MountOption, Session};

use crate::fs::Served;
use crate::log::Op;
use crate::tree::{Content, Node, PAGE, Tree};

/// What goes wrong with the journal's files and folders. Operations count from 1, from [`Disk::arm`] on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed (SIGKILL) in its change or sync of this number, which is not performed.
    KillBefore(u64),
    /// The same, and it is performed.
    KillAfter(u64),
    /// The sync of this number and all later ones fail with EIO.
    Syncs(u64),
    /// The write of this number and all later ones fail with EIO.
    Writes(u64),
}

/// How often the journal was changed or synced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Changes and syncs.
    pub all: u64,
    /// Syncs of files and folders.
    pub syncs: u64,
    /// Writes, whatever their length.
    pub writes: u64,
}

/// The disk as its processes see it, and how it came to be so.
pub struct State {
    /// As it is.
    pub live: Tree,
    /// All changes and syncs that were performed.
    log: Vec<Op>,
    /// The nodes of the journal: whatever is in a folder whose name begins with `journal`.
    journal: BTreeSet<u64>,
    counts: Counts,
    /// The file and the end of the last write to the journal, if no other change came after it.
    end_of_write: Option<(u64, u64)>,
    fault: Option<Fault>,
    /// Parts of files that cannot be read.
    bad: Vec<(u64, Range<u64>)>,
    /// Whether the fault has come.
    faulted: bool,
    /// After a kill nothing is performed, so that no other thread of the process does one thing more.
    halted: bool,
    next: u64,
}

impl State {
    fn new(tree: Tree) -> Self {
        let next = 1 + tree.0.keys().max().expect("the root is there");
        let mut journal = BTreeSet::new();
        // Numbers grow with time, except where names were changed: twice is enough for the depth of a journal.
        for _ in 0..2 {
            for (folder, node) in &tree.0 {
                let Node::Folder(entries) = node else { continue };
                let is_within = journal.contains(folder);
                let of_journal = |name: &std::ffi::OsStr| is_within || is_journal(name);
                journal.extend(entries.iter().filter(|(name, _)| of_journal(name)).map(|(_, node)| *node));
            }
        }
        Self {
            live: tree,
            log: Vec::new(),
            journal,
            counts: Counts::default(),
            end_of_write: None,
            fault: None,
            bad: Vec::new(),
            faulted: false,
            halted: false,
            next,
        }
    }

    /// Whether all of this part of a file can be read.
    pub fn can_read(&self, node: u64, offset: u64, bytes: u64) -> bool {
        self.bad.iter().all(|(of, bad)| *of != node || bad.end <= offset || offset + bytes <= bad.start)
    }

    /// A number for a new node.
    pub fn unused_number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Performs and logs a change or sync of the process (or thread) `pid`, unless the fault says otherwise.
    pub fn perform(&mut self, op: Op, pid: u32) -> Result<(), Errno> {
        if self.halted {
            return Err(Errno::EIO);
        }
        if self.is_of_journal(&op) {
            if !self.goes_on(&op) {
                self.counts.all += 1;
                self.counts.syncs += u64::from(op.is_sync());
                self.counts.writes += u64::from(matches!(op, Op::Write { .. }));
            }
            let Counts { all, syncs, writes } = self.counts;
            match self.fault {
                Some(Fault::KillBefore(number)) if all == number => {
                    self.kill(pid);
                    return Err(Errno::EIO);
                }
                Some(Fault::KillAfter(number)) if all == number => self.kill(pid),
                Some(Fault::Syncs(first)) if op.is_sync() && syncs >= first => {
                    self.faulted = true;
                    return Err(Errno::EIO);
                }
                Some(Fault::Writes(first)) if matches!(op, Op::Write { .. }) && writes >= first => {
                    self.faulted = true;
                    return Err(Errno::EIO);
                }
                _ => {}
            }
        }
        if let Op::Make { node, is_folder, folder, ref name } = op {
            let new = if is_folder { Node::Folder(Default::default()) } else { Node::File(Content::default()) };
            self.live.0.insert(node, new);
            if self.journal.contains(&folder) || is_journal(name) {
                self.journal.insert(node);
            }
        }
        self.live.apply(&op);
        self.log.push(op);
        Ok(())
    }

    /// Whether it is the next part of a write that the kernel hands over in parts.
    fn goes_on(&mut self, op: &Op) -> bool {
        let end = self.end_of_write.take();
        let Op::Write { file, offset, ref bytes } = *op else { return false };
        self.end_of_write = Some((file, offset + bytes.len() as u64));
        end == Some((file, offset))
    }

    fn is_of_journal(&self, op: &Op) -> bool {
        let by_name = match op {
            Op::Make { name, .. } | Op::Remove { name, .. } => is_journal(name),
            Op::Rename { from, .. } => is_journal(from),
            _ => false,
        };
        by_name || self.journal.contains(&op.node())
    }

    fn kill(&mut self, pid: u32) {
        (self.faulted, self.halted) = (true, true);
        // The number of a thread names its process as well.
        let pid = rustix::process::Pid::from_raw(pid as i32).expect("the journal is changed by a process");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it waits for this very answer");
    }
}

fn is_journal(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().starts_with("journal")
}

/// A mounted disk. Dropping it unmounts it, even while a process has files open on it.
pub struct Disk {
    state: Arc<Mutex<State>>,
    session: Option<BackgroundSession>,
    folder: tempfile::TempDir,
}

impl Disk {
    /// Mounts a disk with this on it, all of it synced. Takes root and `/dev/fuse`.
    pub fn mount(tree: Tree) -> Self {
        let folder = tempfile::Builder::new().prefix("forebay-disk-").tempdir().expect("a folder to mount on");
        let state = Arc::new(Mutex::new(State::new(tree)));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("forebay-disk".to_owned()), MountOption::DefaultPermissions];
        let session = Session::new(Served(Arc::clone(&state)), folder.path(), &config);
        let session = session.and_then(Session::spawn).expect("root can mount /dev/fuse");
        Self { state, session: Some(session), folder }
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// How many changes and syncs it has performed.
    pub fn length(&self) -> usize {
        self.state().log.len()
    }

    /// A reader of [`Disk::length`] for others.
    pub fn meter(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let state = Arc::clone(&self.state);
        move || state.lock().expect("no thread panics while it holds the disk").log.len()
    }

    /// What the journal's files were told since they were mounted or armed.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Counts anew, and lets this fault come.
    pub fn arm(&self, fault: Fault) {
        let mut state = self.state();
        (state.fault, state.counts, state.faulted) = (Some(fault), Counts::default(), false);
    }

    /// Answers reads of this page of a file with EIO from now on.
    pub fn spoil(&self, path: &Path, page: u64) {
        let mut state = self.state();
        let node = state.live.find(path);
        state.bad.push((node, page * PAGE..(page + 1) * PAGE));
    }

    /// Whether the fault has come.
    pub fn faulted(&self) -> bool {
        self.state().faulted
    }

    /// What is on it now, and the log since it was mounted.
    pub fn contents(&self) -> (Tree, Vec<Op>) {
        let state = self.state();
        (state.live.clone(), state.log.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that is still there keeps the rest of it until it ends.
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
        drop(self.session.take());
    }
}
