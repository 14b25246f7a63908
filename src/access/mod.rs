//! Who may do what: bearer tokens with their scopes, the pages of other sites that a browser may speak for, and the
//! hosts that a request may name.
//!
//! Duty: reads the tokens file into a set that cannot be wrong, says which token a request carries and what it may do,
//! and swaps the set while the node runs; judges `Host` and `Origin` for both listeners.
//!
//! Invariants:
//! 1. No token is kept, only its SHA-256. A token has 256 bits from the system's random numbers, so a hash without salt
//!    or work factor is sound: there is nothing to guess.
//! 2. What a request presents is hashed and compared with every entry, in constant time and without an early exit.
//! 3. A token has one scope. Without a tokens file everybody may do everything.
//! 4. A set is replaced as a whole or not at all. A token keeps what it has counted for as long as the process runs,
//!    also while its entry changes, or is gone; a grant of an entry that changed or went admits nothing any more.
//! 5. No error repeats a token.
//! 6. A host that cannot be read is refused, whatever is allowed.
//!
//! Does not know: connections, routes, how an answer looks.

mod file;
mod grant;
mod host;
mod origin;
mod pattern;
mod token;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, SEC_WEBSOCKET_PROTOCOL};
use subtle::ConstantTimeEq as _;

pub use file::{Tokens, TokensError};
pub use grant::Grant;
pub use host::{Hosts, Unserved};
pub use origin::{Origin, origin};
pub use token::{Secret, TokenHash};

use crate::metrics::Intruders;
use grant::{Gone, Held};

/// The subprotocol that the server speaks.
pub const SUBPROTOCOL: &str = "forebay";
/// What a browser, which can set no header, writes before its token as a second subprotocol.
const TOKEN_SUBPROTOCOL: &str = "forebay.token.";

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// To send reports.
    Ingest,
    /// To see everything on the admin listener.
    AdminRead,
    /// To see and to change.
    AdminWrite,
}

impl Scope {
    /// The name in the tokens file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::AdminRead => "admin-read",
            Self::AdminWrite => "admin-write",
        }
    }

    fn covers(self, wanted: Self) -> bool {
        self == wanted || (self, wanted) == (Self::AdminWrite, Self::AdminRead)
    }
}

/// Why a request may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// It carries no token.
    Missing,
    /// It carries one that is not known.
    Unknown,
    /// Its token is for something else.
    Scope {
        /// What it would have to be for.
        wanted: Scope,
    },
}

impl Denied {
    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Missing | Self::Unknown => StatusCode::UNAUTHORIZED,
            Self::Scope { .. } => StatusCode::FORBIDDEN,
        }
    }

    /// Counts it.
    pub fn count(self, intruders: &Intruders) {
        let count = match self {
            Self::Missing => &intruders.no_token,
            Self::Unknown => &intruders.unknown_token,
            Self::Scope { .. } => &intruders.wrong_scope,
        };
        count.add(1);
    }

    /// The `WWW-Authenticate` header of the answer (RFC 6750 3).
    pub fn challenge(self) -> &'static str {
        match self {
            Self::Missing => "Bearer realm=\"forebay\"",
            Self::Unknown => "Bearer realm=\"forebay\", error=\"invalid_token\"",
            Self::Scope { .. } => "Bearer realm=\"forebay\", error=\"insufficient_scope\"",
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("a token is needed: send it as `Authorization: Bearer TOKEN`"),
            Self::Unknown => f.write_str("this token is not known here: it is misspelt, or was withdrawn"),
            Self::Scope { wanted } => write!(f, "this token is for something else: this needs one of scope {wanted}"),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who may do what on this node.
#[derive(Debug, Default)]
pub struct Access {
    /// `None`: everybody may do everything.
    tokens: RwLock<Option<Arc<[Arc<Held>]>>>,
    /// Locked within `tokens`.
    gone: Mutex<Gone>,
}

impl Access {
    /// Asks for one of `tokens`, or for none where there are none.
    pub fn new(tokens: Option<Tokens>) -> Self {
        let access = Self::default();
        if let Some(tokens) = tokens {
            access.replace(tokens);
        }
        access
    }

    /// Asks for one of `tokens` from here on. Entries that are as before go on counting.
    pub fn replace(&self, tokens: Tokens) {
        let mut current = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        let before = current.take().unwrap_or_default();
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let held: Arc<[_]> = tokens.entries.into_iter().map(|token| Held::after(&before, &mut gone, token)).collect();
        before.iter().filter(|old| !held.iter().any(|new| Arc::ptr_eq(old, new))).for_each(|old| old.revoke());
        before.iter().filter(|old| !held.iter().any(|new| new.is_of(old))).for_each(|old| gone.keep(old));
        *current = Some(held);
    }

    /// Whether a token is asked for at all.
    pub fn wants_tokens(&self) -> bool {
        self.tokens.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// What the token that the headers carry lets its bearer do.
    ///
    /// # Errors
    /// [`Denied`] where it is none, is not known or is for something else than `wanted`.
    pub fn check(&self, headers: &HeaderMap, wanted: Scope) -> Result<Grant, Denied> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(tokens) = tokens else { return Ok(Grant::everything()) };
        let hash = TokenHash::of(presented(headers).ok_or(Denied::Missing)?);
        let mut found = None;
        for token in tokens.iter() {
            if bool::from(token.hash().ct_eq(hash.bytes())) {
                found = Some(token);
            }
        }
        let token = found.ok_or(Denied::Unknown)?;
        if token.scope().covers(wanted) { Ok(Grant::of(token)) } else { Err(Denied::Scope { wanted }) }
    }
}

/// The token of a request: that of its `Authorization`, or else of its subprotocols.
fn presented(headers: &HeaderMap) -> Option<&str> {
    if let Some(authorization) = headers.get(AUTHORIZATION) {
        let (scheme, token) = authorization.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim());
    }
    subprotocols(headers).find_map(|protocol| protocol.strip_prefix(TOKEN_SUBPROTOCOL))
}

/// Whether the client would speak [`SUBPROTOCOL`]; a browser hangs up where the server picks none of those it names.
pub fn offers_subprotocol(headers: &HeaderMap) -> bool {
    subprotocols(headers).any(|protocol| protocol == SUBPROTOCOL)
}

fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests;
