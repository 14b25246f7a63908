//! A token and its hash.

use std::fmt;

use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::crypto::ring::default_provider;

/// What a new token starts with, so that people and scanners of leaked secrets know one when they see it.
pub(super) const PREFIX: &str = "fby_";

/// A new token: 256 random bits. Shown once; not `Debug`.
pub struct Secret(String);

impl Secret {
    /// Makes one from the system's random numbers; `None` where the system gives none.
    pub fn new() -> Option<Self> {
        let mut bytes = [0; 32];
        default_provider().secure_random.fill(&mut bytes).ok()?;
        Some(Self(format!("{PREFIX}{}", hex(&bytes))))
    }

    /// The token itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }
}

/// The SHA-256 of a token's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Hashes a token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Reads 64 hexadecimal digits.
    pub(super) fn from_hex(text: &str) -> Option<Self> {
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let mut bytes = [0; 32];
        if text.len() != 2 * bytes.len() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
