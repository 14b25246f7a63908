//! What can go wrong with the journal.

use std::io;
use std::path::{Path, PathBuf};

use crate::report::LetterKey;

/// An error of the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The folder or a file in it cannot be made, read or synced.
    #[error("the journal at {path}: cannot {action}: {source}")]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Another process has it open.
    #[error(
        "the journal at {path} is in use by another process; stop that one, or give this node a journal of its own"
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// It cannot be looked into where it cannot be written.
    #[error(
        "the journal at {path} cannot be written ({source}), and its storage writes when it opens the files; copy the \
         folder, and look into the copy"
    )]
    ReadOnly {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The storage below cannot be opened under such a clock. The files are left as they are.
    #[error(
        "the system's clock stands before 1970, where the journal cannot be opened; set the clock, and start again"
    )]
    Clock,
    /// The storage below failed. After a write or a sync this is final: nothing is acknowledged any more.
    #[error("the journal cannot {action}: {source}")]
    Storage {
        /// What was tried.
        action: &'static str,
        /// The storage's answer.
        source: sled::Error,
    },
    /// The disk did not confirm that a commit is on it. Final.
    #[error("the disk did not confirm a commit (sync of {path}): {source}")]
    Sync {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The storage could not end as it wants to. What was acknowledged was synced before.
    #[error("the journal at {path} cannot be closed ({said}); what was acknowledged was synced before. Check the disk")]
    Close {
        /// The folder.
        path: PathBuf,
        /// The storage's last words.
        said: String,
    },
    /// The storage below is damaged: not an entry, which would be set aside, but the files around the entries.
    #[error("the journal's files are damaged: {0}")]
    Damaged(String),
    /// A dead letter cannot be read. It stays, and can be discarded.
    #[error("the dead letter {key} is damaged: {damage}. It can only be discarded")]
    DeadLetter {
        /// The letter's key.
        key: LetterKey,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A task that drains the backlog ended without being told to.
    #[error("a drainer ended unexpectedly; the log above says why. All that was acknowledged is in the journal")]
    DrainerEnded,
    /// The commit thread ended without being told to.
    #[error("the commit thread ended unexpectedly; the log above says why")]
    Panicked,
}

impl JournalError {
    /// Whether the files are damaged, so that only a search of their bytes finds what is whole in them. An error of the
    /// system is none: the files may be fine when it is over.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Storage { source, .. } => !matches!(source, sled::Error::Io(_)),
            _ => false,
        }
    }

    /// What the system said of a file or a folder.
    pub(super) fn of_system(&self) -> Option<&io::Error> {
        match self {
            Self::Folder { source, .. } | Self::Storage { source: sled::Error::Io(source), .. } => Some(source),
            _ => None,
        }
    }

    /// What the system said, where the journal in `dir` may not be written.
    pub(super) fn or_read_only(self, dir: &Path) -> Self {
        match self {
            Self::Folder { source, .. } | Self::Storage { source: sled::Error::Io(source), .. }
                if matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
            {
                Self::ReadOnly { path: dir.to_owned(), source }
            }
            error => error,
        }
    }

    /// An error of the storage, with what was tried.
    pub(super) fn storage(action: &'static str) -> impl FnOnce(sled::Error) -> Self {
        move |source| Self::Storage { action, source }
    }
}

/// Why stored bytes are not an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Too short for a header, or its length is not what the header says.
    #[error("its length is wrong")]
    Length,
    /// The disk does not give it back.
    #[error("the disk does not give it back")]
    Unreadable,
    /// A version that this program does not know.
    #[error("its format has version {0}, which this version of Forebay does not know")]
    Version(u8),
    /// The bytes changed since they were written.
    #[error("its checksum is wrong")]
    Checksum,
    /// The checksum holds and yet the content makes no sense.
    #[error("its content cannot be decoded")]
    Content,
    /// The content is that of another key.
    #[error("its content belongs to another key")]
    Key,
}
