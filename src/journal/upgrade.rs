//! A journal of version 1, whose values have no seal (`seal.rs`): all that lives in it is read by the rules of that
//! version once, and goes into a new journal that takes its place. What has that form is never believed again.

use super::error::JournalError;
use super::identity::{Identity, Known};
use super::place::{self, Old};
use super::salvage::{self, Copied};
use super::seal::Seal;
use super::store::{self, Store};
use super::{guarded, log, offline, pauses, unreadable};
use crate::config;
use crate::report::Position;

/// Who the journal in its folder is; a new one is made, and one of version 1 is rewritten.
///
/// # Errors
/// When files cannot be read or written.
pub(super) fn identify(settings: &config::Journal) -> Result<Identity, JournalError> {
    let dir = &settings.dir;
    let failed = |source| JournalError::Folder { path: dir.clone(), action: "make the identity of", source };
    match store::known(dir)? {
        Known::Sealed(identity) => Ok(identity),
        Known::New => Identity::make(dir).map_err(failed),
        Known::Unsealed => {
            let identity = Identity::new().map_err(failed)?;
            upgrade(settings, &identity)?;
            Ok(identity)
        }
    }
}

fn upgrade(settings: &config::Journal, identity: &Identity) -> Result<(), JournalError> {
    tracing::info!(dir = %settings.dir.display(), "the journal is of an earlier version; it is rewritten");
    if let Some(why) = holes(settings)? {
        return salvage::salvage(settings, &why, &Seal::none(), identity);
    }
    match guarded(|| copy(settings, identity)) {
        Ok(old) => place::take(&settings.dir, old),
        Err(error) => {
            let why = unreadable::as_damage(&settings.dir, error)?;
            salvage::salvage(settings, &why, &Seal::none(), identity)
        }
    }
}

/// What sled would skip of the old log.
fn holes(settings: &config::Journal) -> Result<Option<JournalError>, JournalError> {
    // Held while the log is read.
    let _locked = log::lock(&settings.dir)?;
    Ok(log::as_damage(&log::inspect(&settings.dir, &Seal::none())?))
}

/// Copies all that lives into a new journal in the folder of the old one; what becomes of the old one.
fn copy(settings: &config::Journal, identity: &Identity) -> Result<Old, JournalError> {
    let old = Store::open(&settings.dir, 0, settings.cache_bytes, None)?;
    let mut copied = Copied::new(settings, identity)?;
    let mut damaged = old.damaged_after(&[]).count();
    offline::each_value(&old, |place, value| match value {
        Ok(value) => copied.take_over(value),
        Err(damage) => {
            tracing::error!(place, %damage, "a damaged value is left behind in the journal of the earlier version");
            damaged += 1;
            Ok(())
        }
    })?;
    for id in pauses::recover(&old)? {
        pauses::keep(copied.store(), &id, true)?;
    }
    let (entries, dead_letters) = copied.finish(Position(old.stamp()?))?;
    tracing::info!(entries, dead_letters, damaged, "all that waits in the journal goes on in its new form");
    Ok(if damaged > 0 { Old::Kept } else { Old::Removed })
}
