//! The names in a journal's folder, and which of them are the journal's own. Whatever else lies there (the `lost+found`
//! of a disk that is mounted there, notes of a person) is neither moved nor changed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// sled's log.
pub(super) const DB: &str = "db";
/// sled's folder of large pages.
pub(super) const BLOBS: &str = "blobs";
/// sled's settings.
const CONF: &str = "conf";
/// How far files were synced (`log.rs`).
pub(super) const SYNCED: &str = "synced";
/// Who the journal is (`identity.rs`).
pub(super) const IDENTITY: &str = "identity";
/// Its rows in the sink (`claims.rs`).
pub(super) const CLAIMS: &str = "claims";
/// The folder of the bundles (`store/recent.rs`).
pub(super) const RECENT: &str = "recent";
/// The folder of the runs (`store/runs`).
pub(super) const RUNS: &str = "runs";
/// The lock (`lock.rs`), which is no part of what the journal holds.
pub(super) const LOCK: &str = "lock";
/// What stands behind the name of a file while it is written, before the number of the process that writes it.
pub(super) const HALF_MADE: &str = ".new-";
/// What the names of sled's snapshots begin with.
const SNAPSHOT: &str = "snap.";

/// Files and folders that hold what the journal has, beside sled's snapshots and files that are half made.
const OWN: [&str; 8] = [DB, BLOBS, CONF, SYNCED, IDENTITY, CLAIMS, RECENT, RUNS];

/// Whether a name in the journal's folder is one of its files, or of its folders of files.
pub(super) fn is_own(name: &str) -> bool {
    OWN.contains(&name) || name.starts_with(SNAPSHOT) || is_half_made(name)
}

/// Whether a file was being written under this name when the process was killed.
fn is_half_made(name: &str) -> bool {
    let is_of_sled = name.starts_with(SNAPSHOT) && name.ends_with(".generating");
    is_of_sled || name.split_once(HALF_MADE).is_some_and(|(of, _)| [IDENTITY, CLAIMS].contains(&of))
}

/// The journal's own files and folders in `dir`; none where the folder is missing.
pub(super) fn own(dir: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(names(dir)?.into_iter().filter(|name| is_own(name)).map(|name| dir.join(name)).collect())
}

/// All names in a folder that are text, in order; none where the folder is missing.
pub(super) fn names(dir: &Path) -> io::Result<Vec<String>> {
    let found = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found?,
    };
    let mut names = Vec::new();
    for file in found {
        names.extend(file?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

/// All files of the journal in `dir`, those in its folders of files among them.
pub(super) fn all(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in own(dir)? {
        if path.is_dir() {
            files.extend(names(&path)?.into_iter().map(|name| path.join(name)));
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// A kill while sled writes a snapshot leaves a file that makes the next open report corruption; it holds nothing that
/// the log does not. Nor does a `conf` without a log: sled makes it first, and the first start was cut off there.
pub(super) fn remove_half_made(dir: &Path) -> io::Result<()> {
    for name in names(dir)?.into_iter().filter(|name| is_half_made(name)) {
        fs::remove_file(dir.join(name))?;
    }
    let conf = dir.join(CONF);
    if conf.exists() && !dir.join(DB).exists() {
        fs::remove_file(conf)?;
    }
    Ok(())
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// sled syncs neither its `conf` nor any folder; a power cut could leave a journal without a name. Where the folder is
/// a mount point, its name is on another disk, and was there before it.
pub(super) fn sync_names(dir: &Path) -> io::Result<()> {
    for name in OWN.iter().chain(&["."]) {
        let path = dir.join(name);
        if path.exists() {
            File::open(path)?.sync_all()?;
        }
    }
    let absolute = dir.canonicalize()?;
    let disk = fs::metadata(&absolute)?.dev();
    for folder in absolute.ancestors().skip(1).take(2) {
        if fs::metadata(folder)?.dev() != disk {
            break;
        }
        sync_folder(folder)?;
    }
    Ok(())
}
