//! Whose journal this is, for the sink that it writes to, and how much of it may be in the sink already.

use std::sync::MutexGuard;

use super::claims::Claims;
use super::error::JournalError;
use super::identity::Identity;
use super::store::Store;
use super::{Journal, Opened, Shared};
use crate::report::{JournalId, Owner, Position};

/// The identity of an open journal.
pub(super) struct Held {
    identity: Identity,
    /// Random for each start.
    nonce: u64,
    claims: Option<Claims>,
}

impl Held {
    /// Counts this start, durably.
    ///
    /// # Errors
    /// When the identity cannot be read or written.
    pub(super) fn count_start(store: &Store, identity: Identity) -> Result<Self, JournalError> {
        let identity = Identity { starts: identity.starts + 1, ..identity };
        store.keep_identity(&identity)?;
        Ok(Self { identity, nonce: store.random()?, claims: store.claims()? })
    }

    fn keep_claims(&mut self, store: &Store, claims: Claims) -> Result<(), JournalError> {
        store.keep_claims(claims)?;
        self.claims = Some(claims);
        Ok(())
    }
}

impl Opened {
    /// Who writes to the sink from this journal.
    pub fn owner(&self) -> Owner {
        self.shared.owner()
    }
}

impl Journal {
    /// Who writes to the sink from this journal.
    pub fn owner(&self) -> Owner {
        self.shared.owner()
    }

    /// Gives the journal a new name, durably before it returns: for one that is a copy of another, or was restored from
    /// an older state. Starts go on being counted. Blocks.
    ///
    /// # Errors
    /// When it cannot be written; the journal has its name from before then.
    pub fn renew(&self) -> Result<Owner, JournalError> {
        let mut held = self.shared.held();
        let renewed = Identity { id: JournalId(self.shared.store.random()?), ..held.identity.clone() };
        self.shared.store.keep_identity(&renewed)?;
        held.identity = renewed;
        held.keep_claims(&self.shared.store, [0, 0])?;
        drop(held);
        Ok(self.owner())
    }

    /// Which rows of the sink may be claims of this journal; `None` where it is of a version that did not keep them.
    pub fn claims(&self) -> Option<Claims> {
        self.shared.held().claims
    }

    /// Notes, durably before it returns, that this start claims the row of its `node_id`, which had the nonce `found`
    /// (0: there was none). Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note_claim(&self, found: u64) -> Result<Claims, JournalError> {
        let mut held = self.shared.held();
        let claims = [found, held.nonce];
        if held.claims != Some(claims) {
            held.keep_claims(&self.shared.store, claims)?;
        }
        Ok(claims)
    }

    /// The highest position that was found when the journal was opened, 0 where it had nothing. What is at or below it
    /// may have been stored by an earlier start.
    pub fn recovered_through(&self) -> Position {
        self.shared.recovered_through
    }
}

impl Shared {
    fn owner(&self) -> Owner {
        let held = self.held();
        Owner { node_id: self.node_id, journal: held.identity.id, start: held.identity.starts, nonce: held.nonce }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no holder panics: it copies, and writes a file")
    }
}
