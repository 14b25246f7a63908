//! How a new journal takes the place of an old one: by renames within the journal's own folder, which may be a mount
//! point or a link, and whose parent need not be writable.
//!
//! ```text
//! salvaging/       the new journal is being made, and counts for nothing
//! salvaged.ASIDE/  it is whole and on disk, and counts; the old files go into ASIDE
//! moving-in/       they are all there; the new files come out of it, into the journal's folder
//! damaged-N/       an ASIDE: files that are damaged, kept for a person
//! replaced/        an ASIDE: a journal all of which is in the new one; it is removed
//! ```
//!
//! From each name to the next it is one rename, behind a sync of all names that were changed before. So a crash leaves
//! one of these states, and the next start goes on from it: in `salvaged.ASIDE` all files in the folder are old ones,
//! in `moving-in` all are new ones.

use std::fs;
use std::io;
use std::path::Path;

use super::error::JournalError;
use super::{files, private};

/// The new journal, in the folder of the old one, while it is made.
pub(super) const MAKING: &str = "salvaging";
const WHOLE: &str = "salvaged.";
const MOVING_IN: &str = "moving-in";
const REPLACED: &str = "replaced";
const DAMAGED: &str = "damaged-";

/// What becomes of files that others took the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Old {
    /// They are kept in `damaged-N`.
    Kept,
    /// All of them is in the new ones.
    Removed,
}

/// Whether there is a journal in `dir`, or one that is just taking its place there.
///
/// # Errors
/// When `dir` is there and cannot be read.
pub(super) fn has_journal(dir: &Path) -> io::Result<bool> {
    let is_of_journal = |name: &String| files::is_own(name) || aside_of(name).is_some() || name == MOVING_IN;
    Ok(files::names(dir)?.iter().any(is_of_journal))
}

/// Lets the new journal in [`MAKING`], which is whole and on disk, take the place of the one in `dir`.
///
/// # Errors
/// When files cannot be moved. The next start goes on then.
pub(super) fn take(dir: &Path, old: Old) -> Result<(), JournalError> {
    let failed = |source| JournalError::Folder { path: dir.to_owned(), action: "move aside the files of", source };
    let aside = match old {
        Old::Kept => next_aside(dir).map_err(failed)?,
        Old::Removed => REPLACED.to_owned(),
    };
    let whole = dir.join(format!("{WHOLE}{aside}"));
    let counts = fs::rename(dir.join(MAKING), whole).and_then(|()| files::sync_folder(dir));
    counts.map_err(failed)?;
    finish(dir)?;
    if old == Old::Kept {
        tracing::error!(damaged = %dir.join(aside).display(), "the damaged files are kept there");
    }
    Ok(())
}

/// Goes on with what was cut off, and removes what was half made or replaced.
///
/// # Errors
/// When files can be neither moved nor removed.
pub(super) fn finish(dir: &Path) -> Result<(), JournalError> {
    let failed = |action| move |source| JournalError::Folder { path: dir.to_owned(), action, source };
    finish_moves(dir)?;
    for leftover in [MAKING, REPLACED].map(|name| dir.join(name)) {
        if leftover.exists() {
            fs::remove_dir_all(leftover).map_err(failed("remove what a salvage left in"))?;
        }
    }
    Ok(())
}

/// Puts a new journal that counts into its place; nothing is removed.
///
/// # Errors
/// When files cannot be moved.
pub(super) fn finish_moves(dir: &Path) -> Result<(), JournalError> {
    let failed = |action| move |source| JournalError::Folder { path: dir.to_owned(), action, source };
    let names = files::names(dir).map_err(failed("look into"))?;
    let half_made = names.iter().find(|name| *name == MAKING && cfg!(forebay_plant = "take_what_is_half_made"));
    let moving_in = dir.join(MOVING_IN);
    if let Some(whole) = names.iter().find(|name| aside_of(name).is_some()).or(half_made) {
        let aside = dir.join(aside_of(whole).unwrap_or(REPLACED));
        move_old_aside(dir, &aside).map_err(failed("move aside the files of"))?;
        let moved = fs::rename(dir.join(whole), &moving_in).and_then(|()| files::sync_folder(dir));
        moved.map_err(failed("put the salvaged journal in the place of"))?;
    }
    if moving_in.exists() {
        move_new_in(dir, &moving_in).map_err(failed("put the salvaged journal in the place of"))?;
    }
    Ok(())
}

fn move_old_aside(dir: &Path, aside: &Path) -> io::Result<()> {
    private::make_folder(aside)?;
    for name in files::names(dir)?.into_iter().filter(|name| files::is_own(name)) {
        fs::rename(dir.join(&name), aside.join(&name))?;
    }
    files::sync_folder(aside)?;
    files::sync_folder(dir)
}

fn move_new_in(dir: &Path, from: &Path) -> io::Result<()> {
    for name in files::names(from)? {
        fs::rename(from.join(&name), dir.join(&name))?;
    }
    files::sync_folder(dir)?;
    files::sync_folder(from)?;
    fs::remove_dir(from)?;
    files::sync_folder(dir)
}

/// Moves one file of the journal aside.
///
/// # Errors
/// When it cannot be moved.
pub(super) fn set_file_aside(dir: &Path, name: &str, aside: &str) -> io::Result<()> {
    let folder = dir.join(aside);
    private::make_folder(&folder)?;
    fs::rename(dir.join(name), folder.join(name))?;
    files::sync_folder(&folder)?;
    files::sync_folder(dir)
}

/// The name of a new folder for what is damaged.
pub(super) fn next_aside(dir: &Path) -> io::Result<String> {
    let names = files::names(dir)?;
    let last = names.iter().filter_map(|name| name.strip_prefix(DAMAGED)?.parse::<u32>().ok()).max();
    Ok(format!("{DAMAGED}{}", last.unwrap_or(0).saturating_add(1)))
}

/// Where the old files go, by the name of a new journal that counts.
fn aside_of(name: &str) -> Option<&str> {
    let aside = name.strip_prefix(WHOLE)?;
    let is_number = |number: &str| number.parse::<u32>().is_ok();
    (aside == REPLACED || aside.strip_prefix(DAMAGED).is_some_and(is_number)).then_some(aside)
}
