//! Runs: entries that wait for long, sorted by id, so that an id's lie together however many ids there are. A run is
//! written once, and is gone when all of it is settled or others took its place (`sorting.rs`). Which runs count is
//! what the manifest says.
//!
//! ```text
//! runs/NNNNNNNN  a run (`file.rs`)
//! runs/manifest  which of them count, and what of them is settled (`manifest.rs`)
//! ```

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use super::super::error::JournalError;
use super::super::files::{self, HALF_MADE};
use super::super::identity::Identity;
use super::super::private;
use super::super::seal::Seal;
use crate::report::{Id, Position};

mod dead;
mod file;
mod manifest;
mod sort;

pub(in super::super) use dead::Dead;
pub(in super::super) use file::{Block, Run, RunWriter, entries};
use manifest::Manifest;
pub(in super::super) use sort::{Chunk, MERGED_BYTES, SORTED_AT_ONCE, merge};

/// All runs on disk.
pub(in super::super) struct Runs {
    folder: PathBuf,
    seal: Seal,
    header: Vec<u8>,
    /// In order of their lowest positions.
    counted: RwLock<Arc<Vec<Counted>>>,
    next: AtomicU64,
    /// Ids of which a block is settled in part, as the manifest has them.
    settled: Mutex<Vec<(Id, Position)>>,
}

/// A run that counts.
#[derive(Debug, Clone)]
pub(in super::super) struct Counted {
    pub(in super::super) run: Arc<Run>,
    pub(in super::super) dead: Arc<Dead>,
    /// Bytes of its blocks, and of those that are not dead.
    pub(in super::super) data: u64,
    pub(in super::super) live: u64,
}

impl Counted {
    /// One of which nothing is settled.
    pub(in super::super) fn new(run: Run) -> Self {
        let (dead, data) = (Arc::new(Dead::new(run.blocks)), run.bytes);
        Self { run: Arc::new(run), dead, data, live: data }
    }

    /// The lowest position in it.
    pub(in super::super) fn lowest(&self) -> Position {
        self.run.lowest
    }

    /// The length of its file.
    pub(in super::super) fn bytes(&self) -> u64 {
        self.run.bytes
    }

    /// Gives every block to `each`, in order, with whether it is dead.
    ///
    /// # Errors
    /// When the run cannot be read, and what `each` says.
    pub(in super::super) fn each_block(
        &self,
        mut each: impl FnMut(bool, &Block) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        for page in 0..self.run.pages() {
            let (first, blocks) = self.run.page(page)?;
            for (number, block) in (first..).zip(blocks.iter()) {
                each(self.dead.has(number), block)?;
            }
        }
        Ok(())
    }

    /// The same run with what is dead by now: blocks of which `is_dead` says so are, as those that were.
    ///
    /// # Errors
    /// When the run cannot be read.
    pub(in super::super) fn swept(&self, mut is_dead: impl FnMut(&Block) -> bool) -> Result<Self, JournalError> {
        let (mut dead, mut data, mut live, mut number) = ((*self.dead).clone(), 0, 0, 0);
        self.each_block(|was_dead, block| {
            data += u64::from(block.length);
            if was_dead || is_dead(block) {
                dead.add(number);
            } else {
                live += u64::from(block.length);
            }
            number += 1;
            Ok(())
        })?;
        Ok(Self { run: Arc::clone(&self.run), dead: Arc::new(dead), data, live })
    }
}

impl Runs {
    /// Opens those that count, and removes what does not.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] where one is missing or not whole; and what the system says.
    pub(super) fn open(dir: &Path, seal: &Seal, of: Option<&Identity>) -> Result<Self, JournalError> {
        let folder = dir.join(files::RUNS);
        let failed = |action| failed(&folder, action);
        let made = private::make_folder(&folder).and_then(|()| File::open(dir)?.sync_all());
        made.map_err(failed("make the folder"))?;
        let names = files::names(&folder).map_err(failed("read the folder"))?;
        let is_run = |name: &&String| name.parse::<u64>().is_ok();
        let Some(manifest) = Manifest::read(&folder, seal)?.or_else(|| {
            // A first run may have been written when the process was killed, or the manifest is lost: `Manifest::read`.
            names.iter().all(|name| !is_run(&name)).then(Manifest::default)
        }) else {
            return Err(JournalError::Damaged(format!("{} is missing", folder.join(manifest::FILE).display())));
        };
        let mut counted = Vec::new();
        for (number, dead) in manifest.runs {
            let run = Run::open(&folder.join(name(number)), number, seal).map_err(missing_is_damage)?;
            if run.blocks != dead.blocks() {
                return Err(JournalError::Damaged(format!("the run {} is another", run.path.display())));
            }
            counted.push(Counted { dead: Arc::new(dead), ..Counted::new(run) });
        }
        let listed = counted.len();
        let mut next = manifest.next.max(1);
        for number in names.iter().filter_map(|name| name.parse().ok()).filter(|number| *number >= next) {
            // It was written, and not noted when the process was killed; or the manifest is of another day. What it has
            // is in bundles, too, or nowhere else. Where it is not whole, it was not synced yet.
            match Run::open(&folder.join(name(number)), number, seal).and_then(|run| Ok((run.is_whole()?, run))) {
                Ok((true, run)) if !run.is_merged => counted.push(Counted::new(run)),
                Ok(_) | Err(JournalError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let highest = counted.iter().map(|counted| counted.run.number).max().unwrap_or(0);
        next = next.max(highest + 1);
        let kept: HashSet<_> = counted.iter().map(|counted| name(counted.run.number)).collect();
        let is_own = |name: &&String| is_run(name) || name.starts_with(&format!("{}{HALF_MADE}", manifest::FILE));
        for name in names.iter().filter(is_own).filter(|name| !kept.contains(*name)) {
            fs::remove_file(folder.join(name)).map_err(failed("remove what does not count from"))?;
        }
        counted.sort_by_key(|counted| counted.run.lowest);
        let runs = Self {
            seal: seal.clone(),
            header: of.map(Identity::encode).unwrap_or_default(),
            counted: RwLock::new(Arc::new(counted)),
            next: AtomicU64::new(next),
            settled: Mutex::new(manifest.settled),
            folder,
        };
        if !runs.folder.join(manifest::FILE).exists() || runs.counted().len() != listed {
            // From here on its absence is damage.
            runs.publish(runs.counted().to_vec(), &HashSet::new(), &runs.settled())?;
        }
        Ok(runs)
    }

    /// Those that count, in order of their lowest positions.
    pub(in super::super) fn counted(&self) -> Arc<Vec<Counted>> {
        Arc::clone(&self.counted.read().expect("no holder panics: it moves a pointer"))
    }

    /// Whether there are none.
    pub(in super::super) fn is_empty(&self) -> bool {
        self.counted().is_empty()
    }

    /// What the manifest says to be settled of blocks that are not dead, by id.
    pub(in super::super) fn settled(&self) -> Vec<(Id, Position)> {
        self.settled.lock().expect("no holder panics: it copies").clone()
    }

    /// The blocks of an id that have records from `from` through `through`, in order.
    ///
    /// # Errors
    /// When a run cannot be read.
    pub(in super::super) fn blocks(
        &self,
        id: &Id,
        from: Position,
        through: Position,
    ) -> Result<Vec<(Arc<Run>, Block)>, JournalError> {
        let (mut found, mut its) = (Vec::new(), Vec::new());
        for Counted { run, .. } in self.counted().iter() {
            run.blocks_of(id, from, through, &mut its)?;
            found.extend(its.drain(..).map(|(_, block)| (Arc::clone(run), block)));
        }
        found.sort_by_key(|(_, block)| block.first);
        Ok(found)
    }

    /// Begins a run, which counts once it is [published](Runs::publish).
    pub(in super::super) fn begin(&self, is_merged: bool) -> Result<RunWriter, JournalError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        RunWriter::begin(&self.folder.join(name(number)), number, is_merged, &self.seal, &self.header)
    }

    /// Ends a run that was begun; none where it is empty.
    pub(in super::super) fn finish(&self, run: RunWriter) -> Result<Option<Counted>, JournalError> {
        Ok(run.finish()?.map(Counted::new))
    }

    /// Lets these count, and nothing else: on disk, and then for all who read. Removes the files of `removed`.
    ///
    /// # Errors
    /// When the manifest cannot be written: what counted before counts.
    pub(in super::super) fn publish(
        &self,
        mut counted: Vec<Counted>,
        removed: &HashSet<u64>,
        settled: &[(Id, Position)],
    ) -> Result<(), JournalError> {
        counted.sort_by_key(|counted| counted.run.lowest);
        let manifest = Manifest {
            next: self.next.load(Ordering::Relaxed),
            runs: counted.iter().map(|counted| (counted.run.number, (*counted.dead).clone())).collect(),
            settled: settled.to_vec(),
        };
        files::sync_folder(&self.folder).map_err(failed(&self.folder, "sync"))?;
        // Where this fails, the files stay: the manifest may have taken its place and name them. The next start knows.
        manifest.write(&self.folder, &self.seal)?;
        *self.settled.lock().expect("no holder panics: it copies") = settled.to_vec();
        *self.counted.write().expect("no holder panics: it moves a pointer") = Arc::new(counted);
        for number in removed {
            // Whoever reads it has it open; a file that stays is removed by the next start.
            if let Err(error) = fs::remove_file(self.folder.join(name(*number))) {
                tracing::warn!(%error, run = number, "a run that does not count any more is not removed");
            }
        }
        Ok(())
    }

    /// How many runs were begun.
    #[cfg(test)]
    pub(in super::super) fn begun(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Bytes of all runs.
    pub(super) fn bytes_on_disk(&self) -> u64 {
        self.counted().iter().map(Counted::bytes).sum()
    }
}

/// What a run is called.
fn name(number: u64) -> String {
    format!("{number:08}")
}

/// A file that the manifest names was there.
fn missing_is_damage(error: JournalError) -> JournalError {
    match &error {
        JournalError::Folder { path, source, .. } if source.kind() == io::ErrorKind::NotFound => {
            JournalError::Damaged(format!("{} is missing", path.display()))
        }
        _ => error,
    }
}

fn failed(folder: &Path, action: &'static str) -> impl FnOnce(io::Error) -> JournalError {
    let path = folder.to_owned();
    move |source| JournalError::Folder { path, action, source }
}
