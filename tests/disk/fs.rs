//! The file system's answers to the kernel: every change goes through [`State::perform`], which logs it.
//!
//! The kernel keeps no changes back (no writeback cache), so the log has each write as it was made; shared mappings
//! work, and are written when the kernel likes. `sync_file_range` never gets here: it makes nothing durable.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::log::Op;
use crate::mount::State;
use crate::tree::Node;

/// Nothing changes behind the kernel's back.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// Blocks of 4 KiB that it says to have, all free: 1 TiB.
const BLOCKS: u64 = 1 << 28;

/// The file system as the kernel sees it.
pub struct Served(pub Arc<Mutex<State>>);

impl Served {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().expect("no thread panics while it holds the disk"))
    }

    fn perform(&self, request: &Request, op: Op, reply: ReplyEmpty) {
        match self.with(|state| state.perform(op, request.pid())) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn make(&self, request: &Request, folder: INodeNo, name: &OsStr, is_folder: bool) -> Result<FileAttr, Errno> {
        self.with(|state| {
            let node = state.unused_number();
            let op = Op::Make { folder: folder.0, name: name.to_owned(), node, is_folder };
            state.perform(op, request.pid())?;
            attributes(state, node)
        })
    }
}

fn attributes(state: &State, node: u64) -> Result<FileAttr, Errno> {
    let (kind, perm, size, nlink) = match state.live.0.get(&node).ok_or(Errno::ENOENT)? {
        Node::File(content) => (FileType::RegularFile, 0o644, content.size, 1),
        Node::Folder(_) => (FileType::Directory, 0o755, 0, 2),
    };
    let time = SystemTime::UNIX_EPOCH;
    Ok(FileAttr {
        ino: INodeNo(node),
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

fn named(state: &State, folder: INodeNo, name: &OsStr) -> Result<u64, Errno> {
    state.live.folder(folder.0).and_then(|entries| entries.get(name)).copied().ok_or(Errno::ENOENT)
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.with(|state| attributes(state, named(state, parent, name)?)) {
            Ok(attributes) => reply.entry(&FOR_EVER, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.with(|state| attributes(state, node.0)) {
            Ok(attributes) => reply.attr(&FOR_EVER, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _file: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = self.with(|state| {
            if let Some(size) = size {
                state.perform(Op::Resize { file: node.0, size }, request.pid())?;
            }
            attributes(state, node.0)
        });
        match changed {
            Ok(attributes) => reply.attr(&FOR_EVER, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        match self.make(request, parent, name, true) {
            Ok(attributes) => reply.entry(&FOR_EVER, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.make(request, parent, name, false) {
            Ok(made) => reply.created(&FOR_EVER, &made, Generation(0), FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.perform(request, Op::Remove { folder: parent.0, name: name.to_owned() }, reply);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let is_empty =
            |state: &mut State| Ok(state.live.folder(named(state, parent, name)?).is_none_or(|e| e.is_empty()));
        match self.with(is_empty) {
            Ok(true) => self.perform(request, Op::Remove { folder: parent.0, name: name.to_owned() }, reply),
            Ok(false) => reply.error(Errno::ENOTEMPTY),
            Err(error) => reply.error(error),
        }
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        match self.with(|state| named(state, parent, name)) {
            Ok(node) => {
                let (from, to) = (name.to_owned(), new_name.to_owned());
                let op = Op::Rename { folder: parent.0, from, to_folder: new_parent.0, to, node };
                self.perform(request, op, reply);
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _file: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = |state: &mut State| {
            state.can_read(node.0, offset, size.into()).then(|| state.live.content(node.0).read(offset, size.into()))
        };
        match self.with(read) {
            Some(bytes) => reply.data(&bytes),
            None => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        request: &Request,
        node: INodeNo,
        _file: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let op = Op::Write { file: node.0, offset, bytes: data.into() };
        match self.with(|state| state.perform(op, request.pid())) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    /// What is reserved has a size, and nothing in it.
    fn fallocate(
        &self,
        request: &Request,
        node: INodeNo,
        _file: FileHandle,
        offset: u64,
        length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        let reserved = self.with(|state| {
            let size = attributes(state, node.0)?.size.max(offset + length);
            state.perform(Op::Resize { file: node.0, size }, request.pid())
        });
        match reserved {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn fsync(&self, request: &Request, node: INodeNo, _file: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        self.perform(request, Op::Sync { file: node.0 }, reply);
    }

    fn fsyncdir(&self, request: &Request, node: INodeNo, _file: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        self.perform(request, Op::SyncFolder { folder: node.0 }, reply);
    }

    fn readdir(&self, _: &Request, node: INodeNo, _file: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries: Vec<_> = self.with(|state| {
            let kind = |node: &u64| match state.live.0[node] {
                Node::File(_) => FileType::RegularFile,
                Node::Folder(_) => FileType::Directory,
            };
            let entries = state.live.folder(node.0).into_iter().flatten();
            entries.map(|(name, node)| (*node, kind(node), name.clone())).collect()
        });
        let dots = [".", ".."].map(|name| (node.0, FileType::Directory, name.into()));
        for (at, (node, kind, name)) in dots.into_iter().chain(entries).enumerate().skip(offset as usize) {
            if reply.add(INodeNo(node), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn flush(&self, _: &Request, _node: INodeNo, _file: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _: &Request, _node: INodeNo, reply: ReplyStatfs) {
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCKS, 4096, 255, 4096);
    }
}
