//! Which files lie at a path: the database and its `-wal`, told from others that take their names.

use std::fmt;
use std::fs::{File, Metadata};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// A file, by its device and inode. Its number goes to no other file while this lives.
pub(super) struct Identity {
    numbers: (u64, u64),
    /// Not open for reading: to close such a one would drop the locks that SQLite has on the file in this process.
    held: OwnedFd,
}

/// Where a file is that had a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// It was moved there, or has another name there.
    At(PathBuf),
    /// It has no name any more, and goes with its last user.
    Nameless,
    /// The system does not say.
    Unknown,
}

impl Identity {
    /// The file at a path; `None` where there is none.
    pub(super) fn of(path: &Path) -> std::io::Result<Option<Self>> {
        let held = match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(held) => held,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let found = rustix::fs::fstat(&held)?;
        Ok(Some(Self { numbers: (found.st_dev, found.st_ino), held }))
    }

    /// Whether the file at this path is the same.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|found| numbers(&found) == self.numbers)
    }

    /// Whether an open file is the same.
    pub(super) fn is(&self, file: &File) -> bool {
        file.metadata().is_ok_and(|found| numbers(&found) == self.numbers)
    }

    /// Where its bytes can be read for as long as this lives.
    pub(super) fn bytes(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.held.as_raw_fd())
    }

    /// Where it is now.
    pub(super) fn whereabouts(&self) -> Whereabouts {
        let is_named = rustix::fs::fstat(&self.held).is_ok_and(|found| found.st_nlink > 0);
        let link = std::fs::read_link(format!("/proc/self/fd/{}", self.held.as_raw_fd()));
        match link {
            _ if !is_named => Whereabouts::Nameless,
            // The name that it was opened by is gone, and another, a hard link, is not known.
            Ok(path) if self.is_at(&path) => Whereabouts::At(path),
            Ok(_) | Err(_) => Whereabouts::Unknown,
        }
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.numbers == other.numbers
    }
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(path) => write!(f, "it is {} now", path.display()),
            Self::Nameless => f.write_str("it was removed"),
            Self::Unknown => f.write_str("where it is now is not known"),
        }
    }
}

/// The path of the `-wal` of a database.
pub(super) fn wal_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

/// The path of a file that SQLite has beside a database.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn numbers(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}
