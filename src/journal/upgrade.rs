//! Journals of earlier versions.
//!
//! In version 1 values had no seal (`seal.rs`): all that lives in such a journal is read by the rules of that version
//! once, and goes into a new journal that takes its place. What has that form is never believed again. Before there
//! were runs, what waits for long was in trees: it moves into runs.

use super::error::JournalError;
use super::identity::{Identity, Known};
use super::place::{self, Old};
use super::salvage::{self, Copied};
use super::seal::Seal;
use super::set_aside::Damaged;
use super::store::runs::{self, Chunk};
use super::store::{self, Store};
use super::{entry, guarded, log, offline, pauses, unreadable};
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
    let old = Store::open(&settings.dir, settings.cache_bytes, None)?;
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

/// Moves what waits in trees into runs. What was there twice, or is in runs since a start that was cut off, is there
/// once.
///
/// # Errors
/// When the files cannot be read or written.
pub(super) fn sort_earlier_entries(store: &Store) -> Result<(), JournalError> {
    if !store.has_earlier_entries()? {
        return Ok(());
    }
    let (seal, runs) = (store.seal(), store.runs());
    let (mut chunk, mut counted, mut entries) = (Chunk::default(), runs.counted().to_vec(), 0);
    store.each_earlier(|tree, key, value| {
        for part in entry::decode_together(seal, &key, &value) {
            match part {
                Ok((entry, part)) => chunk.push(entry.summary(), &part),
                Err(damage) => Damaged::in_tree(seal, tree, &key, value.clone()).say(damage).set_aside(store)?,
            }
            entries += 1;
        }
        if chunk.is_full() {
            counted.extend(std::mem::take(&mut chunk).write(runs)?.0);
        }
        Ok(())
    })?;
    counted.extend(chunk.write(runs)?.0);
    let removed = counted.iter().map(|counted| counted.run.number).collect();
    let merged = runs::merge(runs, seal, &counted, || true)?;
    runs.publish(merged.unwrap_or_default(), &removed, &runs.settled())?;
    store.remove_earlier_entries()?;
    tracing::info!(entries, "what waits in the trees of an earlier version goes on in runs");
    Ok(())
}
