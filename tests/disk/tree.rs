//! What is on a disk: folders, and sparse files that are cheap to copy.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::log::Op;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// The number of the root folder.
pub const ROOT: u64 = 1;

/// A file's bytes. Pages that are not there are zeros.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// Its length, in bytes.
    pub size: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE as usize]>>,
}

/// A file or a folder.
#[derive(Debug, Clone)]
pub enum Node {
    /// A file.
    File(Content),
    /// A folder: names, and the numbers of their nodes.
    Folder(BTreeMap<OsString, u64>),
}

/// All nodes by number, those that have no name (any more) among them.
#[derive(Debug, Clone)]
pub struct Tree(pub BTreeMap<u64, Node>);

impl Content {
    /// What is at `offset`, at most `length` bytes.
    pub fn read(&self, offset: u64, length: u64) -> Vec<u8> {
        let end = self.size.min(offset + length);
        let mut bytes = vec![0; end.saturating_sub(offset) as usize];
        for (&page, data) in self.pages.range(offset / PAGE..end.div_ceil(PAGE).max(offset / PAGE)) {
            let (from, to) = (offset.max(page * PAGE), end.min((page + 1) * PAGE));
            let part = &data[(from - page * PAGE) as usize..(to - page * PAGE) as usize];
            bytes[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
        }
        bytes
    }

    /// Puts `bytes` at `offset`.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        let mut at = offset;
        while at < end {
            let (page, within) = (at / PAGE, (at % PAGE) as usize);
            let length = (PAGE - at % PAGE).min(end - at) as usize;
            let from = (at - offset) as usize;
            let data = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(data)[within..within + length].copy_from_slice(&bytes[from..from + length]);
            at += length as u64;
        }
        self.size = self.size.max(end);
    }

    /// Cuts the end off, or adds zeros.
    pub fn resize(&mut self, size: u64) {
        if size < self.size {
            self.pages.split_off(&size.div_ceil(PAGE));
            if let Some(last) = self.pages.get_mut(&(size / PAGE)) {
                Arc::make_mut(last)[(size % PAGE) as usize..].fill(0);
            }
        }
        self.size = size;
    }

    fn write_to(&self, path: &Path) -> std::io::Result<()> {
        let file = File::create_new(path)?;
        file.set_len(self.size)?;
        for (page, data) in &self.pages {
            let length = PAGE.min(self.size.saturating_sub(page * PAGE)) as usize;
            file.write_all_at(&data[..length], page * PAGE)?;
        }
        Ok(())
    }
}

impl Tree {
    /// An empty disk.
    pub fn new() -> Self {
        Self(BTreeMap::from([(ROOT, Node::Folder(BTreeMap::new()))]))
    }

    /// The entries of a folder.
    pub fn folder(&self, folder: u64) -> Option<&BTreeMap<OsString, u64>> {
        match self.0.get(&folder) {
            Some(Node::Folder(entries)) => Some(entries),
            _ => None,
        }
    }

    /// The number of what this path names, from the root on.
    pub fn find(&self, path: &Path) -> u64 {
        path.iter().fold(ROOT, |folder, name| {
            let found = self.folder(folder).and_then(|entries| entries.get(name));
            *found.unwrap_or_else(|| panic!("{} is not there", path.display()))
        })
    }

    fn entries(&mut self, folder: u64) -> &mut BTreeMap<OsString, u64> {
        match self.0.get_mut(&folder) {
            Some(Node::Folder(entries)) => entries,
            other => panic!("{folder} is no folder: {other:?}"),
        }
    }

    /// The bytes of a file.
    pub fn content(&mut self, file: u64) -> &mut Content {
        match self.0.get_mut(&file) {
            Some(Node::File(content)) => content,
            other => panic!("{file} is no file: {other:?}"),
        }
    }

    /// Makes the change, whatever was made before it.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Make { folder, name, node, .. } => drop(self.entries(*folder).insert(name.clone(), *node)),
            Op::Remove { folder, name } => drop(self.entries(*folder).remove(name)),
            Op::Rename { folder, from, to_folder, to, node } => {
                self.entries(*folder).remove(from);
                self.entries(*to_folder).insert(to.clone(), *node);
            }
            Op::Write { file, offset, bytes } => self.content(*file).write(*offset, bytes),
            Op::Resize { file, size } => self.content(*file).resize(*size),
            Op::Sync { .. } | Op::SyncFolder { .. } => {}
        }
    }

    /// Writes everything that has a name into `path`, a new folder of another file system.
    pub fn write_to(&self, path: &Path) -> std::io::Result<()> {
        self.write_folder(ROOT, path)
    }

    fn write_folder(&self, folder: u64, path: &Path) -> std::io::Result<()> {
        fs::create_dir(path)?;
        for (name, node) in self.folder(folder).into_iter().flatten() {
            match &self.0[node] {
                Node::File(content) => content.write_to(&path.join(name))?,
                Node::Folder(_) => self.write_folder(*node, &path.join(name))?,
            }
        }
        Ok(())
    }
}
