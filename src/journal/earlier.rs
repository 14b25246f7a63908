//! What a salvage of an earlier version left when it was cut off. That version made the new journal beside the folder
//! of the old one, moved that folder away, and put the new one in its place.
//!
//! ```text
//! DIR.salvaging   the new journal: whole where DIR has none, else half made
//! DIR.replaced    a journal of version 1, all of which is in the new one
//! DIR.damaged-N   the files of a damaged one, kept for a person
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::files;
use super::place;

/// The journal that has still to be put into `dir`, if there is one.
///
/// # Errors
/// When `dir` cannot be read.
pub(super) fn unplaced(dir: &Path) -> io::Result<Option<PathBuf>> {
    let new = beside(dir, "salvaging");
    Ok((new.exists() && !place::has_journal(dir)?).then_some(new))
}

/// Puts `new` in the place of `dir`, which has no journal: somebody may have made an empty folder again.
///
/// # Errors
/// What the system says. Nothing is moved then.
pub(super) fn put(new: &Path, dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(files::LOCK)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(new, dir)?;
    files::sync_folder(&dir.canonicalize()?.join(".."))
}

/// Removes what is left beside `dir`, which has its journal.
///
/// # Errors
/// What the system says.
pub(super) fn remove_leftovers(dir: &Path) -> io::Result<()> {
    if !place::has_journal(dir)? {
        return Ok(());
    }
    for what in ["salvaging", "replaced"] {
        let path = beside(dir, what);
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// A path beside the journal's folder, named after it.
fn beside(dir: &Path, what: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(format!(".{what}"));
    PathBuf::from(name)
}
