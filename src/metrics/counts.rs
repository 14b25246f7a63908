//! Plain counters.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that many may change.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Puts another number in its place; for limits, which don't grow with time.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The names of errors on the wire, in the order of docs/protocol.md.
const REASONS: [&str; 9] = [
    "bad_json",
    "bad_field",
    "unknown_op",
    "id_mismatch",
    "forbidden_id",
    "too_large",
    "backlog_full",
    "shutting_down",
    "journal_full",
];

/// Refused messages, by the name of the error.
#[derive(Debug, Default)]
pub struct Reasons([Count; REASONS.len()]);

impl Reasons {
    /// Notes a message that was refused with the error of this name.
    pub fn add(&self, reason: &str) {
        let known = REASONS.iter().position(|&name| name == reason);
        debug_assert!(known.is_some(), "{reason} is in no list");
        if let Some(known) = known {
            self.0[known].add(1);
        }
    }

    /// Each name, and how many were refused with it.
    pub fn all(&self) -> [(&'static str, u64); REASONS.len()] {
        std::array::from_fn(|at| (REASONS[at], self.0[at].get()))
    }
}

/// Requests that a listener refused for whom they come from, by the reason.
#[derive(Debug, Default)]
pub struct Intruders {
    /// Without a token where one is wanted.
    pub no_token: Count,
    /// With one that is not known.
    pub unknown_token: Count,
    /// With one that is for something else.
    pub wrong_scope: Count,
    /// From a page of another site.
    pub foreign_origin: Count,
    /// For a host that is not served.
    pub foreign_host: Count,
}

impl Intruders {
    /// Each reason, and how many were refused for it.
    pub fn all(&self) -> [(&'static str, u64); 5] {
        let Self { no_token, unknown_token, wrong_scope, foreign_origin, foreign_host } = self;
        [
            ("no_token", no_token.get()),
            ("unknown_token", unknown_token.get()),
            ("wrong_scope", wrong_scope.get()),
            ("foreign_origin", foreign_origin.get()),
            ("foreign_host", foreign_host.get()),
        ]
    }
}
