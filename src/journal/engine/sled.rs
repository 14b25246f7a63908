//! The engine `sled`: the design in its plainest form. Each entry is inserted into the sled tree of its id, its lane,
//! before anybody hears of it, and removed once it is settled. What the other engines are held against.
//!
//! ```text
//! lane-NNNN  entries, by id and position (`entry.rs`); an id's lane goes by its hash
//! dead, paused, damaged  the keyed values
//! meta       stamp: the last position given out · lanes: how many lanes there are, as of the first opening
//! ```
//!
//! sled's `flush` hands its buffer to the system, which leaves out the length of the file and the disk's own cache; a
//! sync of the file does the rest. A crash leaves a prefix of what was done, so what is removed oldest first comes back
//! youngest first.

use std::fs::File;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;

use super::super::entry::{decode_key, encode_key};
use super::super::error::JournalError;
use super::super::files;
use super::super::log::{self, SEGMENT_BYTES};
use super::super::private;
use super::super::seal::Seal;
use super::super::store::{config, open_error, owned};
use super::{Engine, Found, Kind, Outcome, Places, Settings, Synced, Writer};
use crate::report::{Id, Position};

/// The number of a lane.
pub(super) type Lane = u16;

const STAMP_KEY: &[u8] = b"stamp";
const LANES_KEY: &[u8] = b"lanes";

/// The trees, for all who read.
#[derive(Clone)]
pub(super) struct Trees(Arc<Open>);

struct Open {
    seal: Seal,
    db: sled::Db,
    meta: sled::Tree,
    lanes: Vec<sled::Tree>,
    dead: sled::Tree,
    paused: sled::Tree,
    damaged: sled::Tree,
}

/// Their writer.
pub(super) struct TreeWriter {
    trees: Trees,
    /// A handle of our own to sled's file, to sync it.
    file: File,
    settings: Settings,
    synced: log::Synced,
}

/// The trees know where an entry is.
#[derive(Debug, Default)]
pub(super) struct Nothing;

impl Places for Nothing {
    type Location = ();
    type Freed = ();

    fn add(&mut self, (): ()) {}

    fn settle(&mut self, _: Position) {}
}

impl Trees {
    fn lane(&self, id: &Id) -> &sled::Tree {
        let hash = crc32fast::hash(id.as_bytes()) as usize;
        &self.0.lanes[hash % self.0.lanes.len()]
    }

    fn values(&self, kind: Kind) -> &sled::Tree {
        match kind {
            Kind::Letter => &self.0.dead,
            Kind::Pause => &self.0.paused,
            Kind::Damaged => &self.0.damaged,
        }
    }

    /// The entries of an id, in order.
    fn entries(
        &self,
        id: &Id,
        (from, through): (Position, Position),
    ) -> impl Iterator<Item = Result<(Vec<u8>, Bytes), JournalError>> + use<> {
        let (mut first, mut last) = (Vec::new(), Vec::new());
        encode_key(&self.0.seal, id, from, &mut first);
        encode_key(&self.0.seal, id, through, &mut last);
        self.lane(id).range(first..=last).map(owned)
    }

    /// Hands over what there is.
    fn find(&self, found: &mut dyn Found<Nothing>) -> Result<(), JournalError> {
        for (lane, tree) in self.0.lanes.iter().enumerate() {
            for pair in tree.iter().map(owned) {
                let (key, value) = pair?;
                match decode_key(&self.0.seal, &key) {
                    Some((id, _)) => found.entry(id, value).add(()),
                    None => found.damaged(&[lane_name(lane as Lane).as_bytes(), b" ", &key].concat(), value),
                }
            }
        }
        let stamp = self.0.meta.get(STAMP_KEY).map_err(JournalError::storage("read the last position"))?;
        found.stamp(Position(stamp.and_then(|stamp| log::stamped(&self.0.seal, &stamp)).unwrap_or(0)));
        Ok(())
    }
}

/// What the tree of a lane is called.
fn lane_name(lane: Lane) -> String {
    format!("lane-{lane:04}")
}

/// How many lanes there are: an id would have two where it could change.
fn lanes_of(meta: &sled::Tree, wanted: Lane) -> Result<Lane, JournalError> {
    let kept = meta.get(LANES_KEY).map_err(JournalError::storage("read the number of lanes"))?;
    if let Some(kept) = kept.and_then(|kept| Some(Lane::from_be_bytes(kept.as_ref().try_into().ok()?))) {
        return Ok(kept);
    }
    meta.insert(LANES_KEY, &wanted.to_be_bytes()).map_err(JournalError::storage("write the number of lanes"))?;
    Ok(wanted)
}

impl Engine for Trees {
    type Places = Nothing;
    type Cursor = (Position, Position);
    type Writer = TreeWriter;

    fn open(settings: &Settings, found: &mut dyn Found<Nothing>) -> Result<(Self, TreeWriter), JournalError> {
        let Settings { dir, seal, lanes, cache_bytes } = settings;
        let folder = |action| move |source| JournalError::Folder { path: dir.clone(), action, source };
        private::make_folder(dir).map_err(folder("make the folder"))?;
        files::remove_half_made(dir).map_err(folder("remove half-made files"))?;
        let config = config()?.path(dir).segment_size(SEGMENT_BYTES).cache_capacity(*cache_bytes);
        let db = config.flush_every_ms(None).open().map_err(|error| open_error(dir, error))?;
        let tree = |name: &str| db.open_tree(name).map_err(JournalError::storage("open a tree"));
        let meta = tree("meta")?;
        let lanes: Result<Vec<_>, _> = (0..lanes_of(&meta, *lanes)?).map(|lane| tree(&lane_name(lane))).collect();
        let (lanes, dead, paused, damaged) = (lanes?, tree("dead")?, tree("paused")?, tree("damaged")?);
        let trees = Self(Arc::new(Open { seal: seal.clone(), db, meta, lanes, dead, paused, damaged }));
        let writer = TreeWriter {
            trees: trees.clone(),
            file: File::options().write(true).open(dir.join("db")).map_err(folder("open the file db of"))?,
            settings: settings.clone(),
            synced: log::Synced::open(dir, seal).map_err(folder("open the file synced of"))?,
        };
        writer.flush()?;
        private::protect(dir)?;
        files::sync_names(dir).map_err(folder("sync the names in"))?;
        trees.find(found)?;
        Ok((trees, writer))
    }

    fn cursor(&self, _: &Id, _: &Nothing, from: Position, through: Position) -> (Position, Position) {
        (from, through)
    }

    fn read(
        &self,
        id: &Id,
        cursor: (Position, Position),
        each: &mut dyn FnMut(Position, Bytes) -> ControlFlow<()>,
    ) -> Result<(), JournalError> {
        for pair in self.entries(id, cursor) {
            let (key, value) = pair?;
            let (_, first) = decode_key(&self.0.seal, &key).expect("it lies between two keys of its id");
            if each(first, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn get(&self, kind: Kind, key: &[u8]) -> Result<Option<Bytes>, JournalError> {
        let value = self.values(kind).get(key).map_err(JournalError::storage("read a value"))?;
        Ok(value.map(Bytes::from_owner))
    }

    fn list(&self, kind: Kind, after: &[u8], most: usize) -> Result<Vec<(Vec<u8>, Bytes)>, JournalError> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        self.values(kind).range::<&[u8], _>(behind).map(owned).take(most).collect()
    }

    fn bytes_on_disk(&self) -> u64 {
        self.0.db.size_on_disk().unwrap_or(0)
    }
}

impl TreeWriter {
    fn flush(&self) -> Result<(), JournalError> {
        self.trees.0.db.flush().map_err(JournalError::storage("flush"))?;
        self.file.sync_data().map_err(|source| JournalError::Sync { path: self.settings.dir.join("db"), source })
    }
}

impl Writer for TreeWriter {
    type Location = ();
    type Freed = ();

    fn append(&mut self, id: &Id, first: Position, _: Position, value: &[u8]) -> Result<(), JournalError> {
        let mut key = Vec::new();
        encode_key(&self.trees.0.seal, id, first, &mut key);
        self.trees.lane(id).insert(key, value).map(drop).map_err(JournalError::storage("write an entry"))
    }

    fn truncate(&mut self, id: &Id, through: Position, (): ()) -> Result<(), JournalError> {
        let lane = self.trees.lane(id);
        for pair in self.trees.entries(id, (Position(0), through)) {
            lane.remove(pair?.0).map_err(JournalError::storage("truncate"))?;
        }
        Ok(())
    }

    fn put(&mut self, kind: Kind, key: &[u8], value: Option<&[u8]>) -> Result<Option<usize>, JournalError> {
        let tree = self.trees.values(kind);
        let old = match value {
            Some(value) => tree.insert(key, value),
            None => tree.remove(key),
        };
        Ok(old.map_err(JournalError::storage("change a value"))?.map(|old| old.len()))
    }

    fn sync(&mut self, stamp: Position) -> Result<Outcome, JournalError> {
        let written = self.trees.0.meta.insert(STAMP_KEY, log::stamp(&self.trees.0.seal, stamp.0));
        written.map_err(JournalError::storage("write the last position"))?;
        self.flush()?;
        let noted = self.synced.note(stamp.0);
        let path = || self.settings.dir.join("synced");
        noted.map_err(|source| JournalError::Folder { path: path(), action: "write", source })?;
        Ok(Outcome::Synced(Synced(())))
    }

    fn close(self) -> Result<(), JournalError> {
        // sled writes and syncs once more when its last handle goes.
        drop(self.trees);
        private::protect(&self.settings.dir)
    }
}
