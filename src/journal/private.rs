//! The journal is its owner's alone: files 0600, folders 0700, whatever the umask and whoever made them.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use super::error::JournalError;
use super::files;

/// Makes a folder that only its owner may enter, and those above it that are missing.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Takes from all others what they may do with the journal in `dir`, if it is there: with what the storage made by the
/// umask, and with what an earlier version left.
///
/// # Errors
/// When a file belongs to somebody else.
pub(super) fn protect(dir: &Path) -> Result<(), JournalError> {
    let failed = |source| JournalError::Folder { path: dir.to_owned(), action: "protect the files", source };
    if dir.exists() { protect_own(dir).map_err(failed) } else { Ok(()) }
}

/// What else lies in the folder may be somebody else's.
fn protect_own(dir: &Path) -> io::Result<()> {
    restrict(dir, 0o700)?;
    let lock = dir.join(files::LOCK);
    for path in files::own(dir)?.into_iter().chain(lock.exists().then_some(lock)) {
        if path.is_dir() { walk(&path)? } else { gone_is_fine(restrict(&path, 0o600))? }
    }
    Ok(())
}

fn walk(folder: &Path) -> io::Result<()> {
    restrict(folder, 0o700)?;
    for file in fs::read_dir(folder)? {
        let file = file?;
        match file.file_type() {
            Ok(kind) if kind.is_dir() => walk(&file.path())?,
            Ok(kind) if kind.is_file() => gone_is_fine(restrict(&file.path(), 0o600))?,
            Ok(_) => {}
            Err(error) => gone_is_fine(Err(error))?,
        }
    }
    Ok(())
}

fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    let is_so = fs::metadata(path)?.permissions().mode() & 0o7777 == mode;
    if is_so { Ok(()) } else { fs::set_permissions(path, Permissions::from_mode(mode)) }
}

/// The storage removes snapshots when it has newer ones.
fn gone_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
