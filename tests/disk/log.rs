//! The changes that a disk was told, in order, and what it may hold after a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::Arc;

use crate::tree::{Content, Node, Tree};

/// One change or sync. Nodes go by their numbers.
#[derive(Debug, Clone)]
pub enum Op {
    /// A new file or folder.
    Make { folder: u64, name: OsString, node: u64, is_folder: bool },
    /// `unlink` or `rmdir`.
    Remove { folder: u64, name: OsString },
    /// A rename, perhaps into another folder: then it is in both folders or in none.
    Rename { folder: u64, from: OsString, to_folder: u64, to: OsString, node: u64 },
    /// Bytes at an offset.
    Write { file: u64, offset: u64, bytes: Arc<[u8]> },
    /// A new length.
    Resize { file: u64, size: u64 },
    /// `fsync` or `fdatasync`: the file's bytes and its length.
    Sync { file: u64 },
    /// `fsync` of a folder: its entries.
    SyncFolder { folder: u64 },
}

impl Op {
    /// The file or folder that it changes or syncs; the first of two.
    pub fn node(&self) -> u64 {
        match *self {
            Self::Make { folder, .. } | Self::Remove { folder, .. } | Self::Rename { folder, .. } => folder,
            Self::SyncFolder { folder } => folder,
            Self::Write { file, .. } | Self::Resize { file, .. } | Self::Sync { file } => file,
        }
    }

    /// The second folder that it changes.
    fn other_node(&self) -> Option<u64> {
        match *self {
            Self::Rename { folder, to_folder, .. } => Some(to_folder).filter(|to| *to != folder),
            _ => None,
        }
    }

    fn nodes(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.node()).chain(self.other_node())
    }

    /// Whether it makes something durable.
    pub fn is_sync(&self) -> bool {
        matches!(self, Self::Sync { .. } | Self::SyncFolder { .. })
    }

    fn is_of_folder(&self) -> bool {
        matches!(self, Self::Make { .. } | Self::Remove { .. } | Self::Rename { .. })
    }
}

/// What becomes, in a power cut, of the changes that no sync has covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// All are gone.
    Gone,
    /// Some are there, whatever their order; of each folder's, the first few.
    Some,
    /// The same, and writes are torn at 512 or at 4,096 bytes.
    Torn,
    /// The bytes of files are there, the names are not.
    NamesGone,
    /// The names and lengths are there, the bytes are not.
    BytesGone,
}

/// All of them.
pub const POLICIES: [Policy; 5] = [Policy::Gone, Policy::Some, Policy::Torn, Policy::NamesGone, Policy::BytesGone];

/// A disk on the way through its log.
pub struct Replay {
    /// What is surely there after a power cut.
    durable: Tree,
    /// Changes that no sync has covered.
    pending: Vec<Op>,
    /// How many operations of the log were performed.
    pub position: usize,
}

impl Replay {
    /// Begins with a disk that is synced.
    pub fn new(base: Tree) -> Self {
        Self { durable: base, pending: Vec::new(), position: 0 }
    }

    /// Performs the log's operations up to `position`.
    pub fn advance(&mut self, log: &[Op], position: usize) {
        for op in &log[self.position..position] {
            if let Op::Make { node, is_folder, .. } = op {
                let new = if *is_folder { Node::Folder(BTreeMap::new()) } else { Node::File(Content::default()) };
                self.durable.0.insert(*node, new);
            }
            if op.is_sync() {
                let covered = covered(&self.pending, op.node());
                let (mut at, durable) = (0, &mut self.durable);
                let synced = self.pending.extract_if(.., |_| {
                    at += 1;
                    covered[at - 1]
                });
                synced.for_each(|op| durable.apply(&op));
            } else {
                self.pending.push(op.clone());
            }
        }
        self.position = position;
    }

    /// What the disk could hold if the power were cut here.
    pub fn image(&self, policy: Policy, random: &mut Random) -> Tree {
        let mut tree = self.durable.clone();
        let share = 1 + random.below(9);
        let kept = |random: &mut Random| random.below(10) < share;
        let sector = if random.below(2) == 0 { 512 } else { 4096 };
        let mut cut_off = BTreeSet::new();
        for op in &self.pending {
            match policy {
                Policy::Gone => {}
                Policy::NamesGone if op.is_of_folder() => {}
                Policy::NamesGone => tree.apply(op),
                Policy::BytesGone => match op {
                    Op::Write { file, offset, bytes } => {
                        let content = tree.content(*file);
                        content.resize(content.size.max(offset + bytes.len() as u64));
                    }
                    _ => tree.apply(op),
                },
                Policy::Some | Policy::Torn if op.is_of_folder() => {
                    // A folder's changes reach the disk in their order.
                    if !op.nodes().any(|node| cut_off.contains(&node)) && kept(random) {
                        tree.apply(op);
                    } else {
                        cut_off.extend(op.nodes());
                    }
                }
                Policy::Torn => match op {
                    Op::Write { file, offset, bytes } => {
                        for (at, part) in sectors(*offset, bytes, sector) {
                            if kept(random) {
                                tree.content(*file).write(at, part);
                            }
                        }
                    }
                    _ if kept(random) => tree.apply(op),
                    _ => {}
                },
                Policy::Some if kept(random) => tree.apply(op),
                Policy::Some => {}
            }
        }
        tree
    }
}

/// Which changes a sync of `node` makes durable: all of it, and where a rename between it and another folder is among
/// them, all of that one up to there.
fn covered(pending: &[Op], node: u64) -> Vec<bool> {
    let mut up_to = BTreeMap::from([(node, pending.len())]);
    let mut covered = vec![false; pending.len()];
    for (at, op) in pending.iter().enumerate().rev() {
        covered[at] = op.nodes().any(|node| up_to.get(&node).is_some_and(|end| at < *end));
        if covered[at] {
            for node in op.nodes() {
                up_to.entry(node).or_insert(at);
            }
        }
    }
    covered
}

/// The parts of a write that reach the disk whole or not at all: those between multiples of `sector` in the file.
fn sectors(offset: u64, bytes: &[u8], sector: u64) -> Vec<(u64, &[u8])> {
    let (mut parts, mut rest, mut at) = (Vec::new(), bytes, offset);
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.len().min((sector - at % sector) as usize));
        parts.push((at, part));
        at += part.len() as u64;
        rest = after;
    }
    parts
}

/// Numbers that follow from a seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Numbers for this seed, and for this use of it.
    pub fn new(seed: u64, purpose: u64) -> Self {
        Self(seed.wrapping_add(purpose.wrapping_mul(0xd1b5_4a32_d192_ed03)))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }
}
