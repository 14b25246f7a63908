//! The lock on a journal's folder: one process at a time, from before it reads or changes anything there until it has
//! closed the last file.
//!
//! The file `lock` in the folder is flock'ed. The system lets go of it when the process ends, however it ends, and a
//! copy of the folder has a file that nobody has locked. The file is never removed, and stays where it is when the
//! files of a damaged journal are moved aside: who waits for it would else have a file that nobody finds.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::error::JournalError;
use super::{earlier, files, log, place, private};

/// The lock, held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    /// None where the folder cannot be written and has no such file.
    _file: Option<File>,
}

impl Lock {
    /// Locks the journal in `dir`, making the folder where it is missing. A journal that an earlier version made beside
    /// it, and did not put there yet, is put there.
    ///
    /// # Errors
    /// [`JournalError::InUse`], and when the folder or the file cannot be made.
    pub(super) fn take(dir: &Path) -> Result<Self, JournalError> {
        if cfg!(all(test, feature = "models")) {
            // Its journal is in memory.
            return Ok(Self { _file: None });
        }
        let failed = |action| move |source| JournalError::Folder { path: dir.to_owned(), action, source };
        let unplaced = earlier::unplaced(dir).map_err(failed("look into"))?;
        if unplaced.is_none() {
            private::make_folder(dir).map_err(failed("make the folder"))?;
        }
        let made = open(unplaced.as_deref().unwrap_or(dir), OpenOptions::new().write(true).create(true));
        let file = made.map_err(failed("make the file `lock` of"))?;
        lock(&file, dir)?;
        if let Some(new) = unplaced {
            earlier::put(&new, dir).map_err(failed("put the salvaged journal in the place of"))?;
        }
        Self::held(dir, Some(file))
    }

    /// Locks the journal in `dir` to look into it; `None` where there is none. Where the folder cannot be written, the
    /// file has to be there: a process that has the journal open made it.
    ///
    /// # Errors
    /// [`JournalError::InUse`], and when the file cannot be opened.
    pub(super) fn of_existing(dir: &Path) -> Result<Option<Self>, JournalError> {
        let failed = |action| move |source| JournalError::Folder { path: dir.to_owned(), action, source };
        if !place::has_journal(dir).map_err(failed("look into"))? {
            return Ok(None);
        }
        let file = match open(dir, OpenOptions::new().write(true).create(true)) {
            Ok(file) => Some(file),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
            {
                match open(dir, OpenOptions::new().read(true)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    file => Some(file.map_err(failed("open the file `lock` of"))?),
                }
            }
            Err(error) => return Err(failed("make the file `lock` of")(error)),
        };
        if let Some(file) = &file {
            lock(file, dir)?;
        }
        Self::held(dir, file).map(Some)
    }

    /// A process of an earlier version has locked sled's file alone.
    fn held(dir: &Path, file: Option<File>) -> Result<Self, JournalError> {
        drop(log::lock(dir)?);
        Ok(Self { _file: file })
    }
}

fn open(folder: &Path, how: &mut OpenOptions) -> io::Result<File> {
    how.truncate(false).mode(0o600).open(folder.join(files::LOCK))
}

fn lock(file: &File, dir: &Path) -> Result<(), JournalError> {
    if cfg!(forebay_plant = "lock_nothing") {
        return Ok(());
    }
    rustix::io::retry_on_intr(|| flock(file, FlockOperation::NonBlockingLockExclusive)).map_err(|error| {
        let path = dir.to_owned();
        match error {
            rustix::io::Errno::WOULDBLOCK => JournalError::InUse { path },
            error => JournalError::Folder { path, action: "lock the file `lock` of", source: error.into() },
        }
    })
}
