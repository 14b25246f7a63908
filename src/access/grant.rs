//! What a token lets its bearer write.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::Scope;
use super::file::Token;
use super::token::TokenHash;
use crate::report::{Id, Refusal};

/// Tokens that are remembered though they are gone.
const MAX_GONE: usize = 10_000;
/// The ids of all of them together: some 16 MiB.
const MAX_GONE_IDS: usize = 1_000_000;

/// A token in force.
#[derive(Debug)]
pub(super) struct Held {
    token: Token,
    written: Arc<Written>,
    revoked: AtomicBool,
    /// Wakes whoever waits for that.
    told: Notify,
}

/// The ids that a token has written since the node started. Only hashes of them, by a key of this process: 8 bytes
/// each, and at most `max_ids`.
#[derive(Debug, Default)]
struct Written {
    key: RandomState,
    ids: Mutex<HashSet<u64>>,
}

impl Written {
    /// Whether the id is one of at most `limit`.
    fn admit(&self, id: &Id, limit: usize) -> bool {
        let hash = self.key.hash_one(id);
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.contains(&hash) || (ids.len() < limit && ids.insert(hash))
    }

    fn count(&self) -> usize {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// What tokens have written that are in force no more: one may come back, and then goes on counting. The first to go is
/// forgotten first.
#[derive(Debug, Default)]
pub(super) struct Gone(VecDeque<(TokenHash, Arc<Written>)>);

impl Gone {
    /// Keeps what a token has written that is not in force any more.
    pub(super) fn keep(&mut self, held: &Held) {
        if held.written.count() > 0 && cfg!(not(forebay_plant = "forget_quotas")) {
            self.0.push_back((held.token.sha256, Arc::clone(&held.written)));
        }
        let ids = |gone: &VecDeque<(_, Arc<Written>)>| gone.iter().map(|(_, written)| written.count()).sum::<usize>();
        while self.0.len() > MAX_GONE || ids(&self.0) > MAX_GONE_IDS {
            self.0.pop_front();
        }
    }

    fn take(&mut self, secret: &TokenHash) -> Option<Arc<Written>> {
        let at = self.0.iter().position(|(gone, _)| gone == secret)?;
        self.0.remove(at).map(|(_, written)| written)
    }
}

impl Held {
    /// Takes a token into force: one that was there just so is the same, and one with the same secret goes on counting,
    /// also where it was gone for a time.
    pub(super) fn after(before: &[Arc<Self>], gone: &mut Gone, token: Token) -> Arc<Self> {
        let same = before.iter().find(|old| old.token.sha256 == token.sha256);
        match same {
            Some(old) if old.token == token => Arc::clone(old),
            _ => {
                let written = same.map(|old| Arc::clone(&old.written)).or_else(|| gone.take(&token.sha256));
                let (written, revoked, told) = (written.unwrap_or_default(), AtomicBool::new(false), Notify::new());
                Arc::new(Self { token, written, revoked, told })
            }
        }
    }

    /// Whether it is the same secret.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        self.token.sha256 == other.token.sha256
    }

    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Relaxed);
        self.told.notify_waiters();
    }

    pub(super) fn hash(&self) -> &[u8] {
        self.token.sha256.bytes()
    }

    pub(super) fn scope(&self) -> Scope {
        self.token.scope
    }
}

/// What the bearer of a token may write, for as long as the token is in force as it was.
#[derive(Debug, Clone)]
pub struct Grant(Option<Arc<Held>>);

impl Grant {
    /// Of nodes that ask for no token.
    pub fn everything() -> Self {
        Self(None)
    }

    pub(super) fn of(token: &Arc<Held>) -> Self {
        Self(Some(Arc::clone(token)))
    }

    /// The name of the token; none where none was asked for.
    pub fn token_name(&self) -> Option<&str> {
        self.0.as_ref().map(|held| held.token.name.as_str())
    }

    /// Whether the token is in force as it was; always, where none was asked for.
    pub fn is_in_force(&self) -> bool {
        self.0.as_ref().is_none_or(|held| !held.revoked.load(Ordering::Relaxed))
    }

    /// Returns once the token is not in force as it was; never, where none was asked for.
    pub async fn ends(&self) {
        let Some(held) = &self.0 else { return std::future::pending().await };
        // In this order: it is told of what happens from here on.
        let told = held.told.notified();
        if self.is_in_force() {
            told.await;
        }
    }

    /// Whether the bearer may write to `id`; one more of the token's `max_ids` is taken where the id is new to it.
    ///
    /// # Errors
    /// A refusal of the kind `forbidden_id` that says which rule is in the way.
    pub fn admit(&self, id: &Id) -> Result<(), Refusal> {
        let Some(held) = &self.0 else { return Ok(()) };
        let token = &held.token;
        if held.revoked.load(Ordering::Relaxed) {
            let why = "was changed or withdrawn since this connection was opened: connect again";
            return Err(Refusal::forbidden_id(format!("the token {:?} {why}", token.name)));
        }
        if !token.ids.iter().any(|pattern| pattern.matches(id)) {
            return Err(Refusal::forbidden_id(format!("the token {:?} may not write to id {id}", token.name)));
        }
        match token.max_ids {
            Some(limit) if !held.written.admit(id, limit) => Err(Refusal::forbidden_id(format!(
                "the token {:?} has written to {limit} ids since the node started, which is its limit (max_ids)",
                token.name
            ))),
            _ => Ok(()),
        }
    }
}
