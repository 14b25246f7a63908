//! The id of a stream: 1 to 64 characters of `A-Z a-z 0-9 . _ : -`.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// The longest id, in bytes; `id VARCHAR(64)` in the sink.
pub const MAX_ID_BYTES: usize = 64;

/// The name of the stream that a report belongs to. Held inline, so that copying one never allocates.
#[derive(Clone, Copy)]
pub struct Id {
    len: u8,
    bytes: [u8; MAX_ID_BYTES],
}

/// Why a text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// No character at all.
    #[error("is empty; an id has 1 to 64 characters")]
    Empty,
    /// More than [`MAX_ID_BYTES`].
    #[error("is {0} bytes long; an id has 1 to 64 characters")]
    TooLong(usize),
    /// A character outside the set.
    #[error("has a character outside A-Z a-z 0-9 . _ : -")]
    Character,
}

impl Id {
    /// Reads an id from its text.
    ///
    /// # Errors
    /// [`IdError`] when the text is empty, too long or has another character.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let source = text.as_bytes();
        match source.len() {
            0 => return Err(IdError::Empty),
            1..=MAX_ID_BYTES => {}
            long => return Err(IdError::TooLong(long)),
        }
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
        if !source.iter().all(allowed) {
            return Err(IdError::Character);
        }
        let mut bytes = [0; MAX_ID_BYTES];
        bytes[..source.len()].copy_from_slice(source);
        Ok(Self { len: source.len() as u8, bytes })
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("an id is ASCII: `new` lets nothing else in")
    }

    /// The id as bytes, all ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl FromStr for Id {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Id {}

impl PartialOrd for Id {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Id {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_to_sixty_four_characters_of_the_set() {
        for good in ["7", "a.b_c:d-e", &"x".repeat(64)] {
            assert_eq!(Id::new(good).expect("allowed").as_str(), good);
        }
        assert_eq!(Id::new(""), Err(IdError::Empty));
        assert_eq!(Id::new(&"x".repeat(65)), Err(IdError::TooLong(65)));
        for bad in ["a b", "a\n", "é", "a/b", "a~b", "\0"] {
            assert_eq!(Id::new(bad), Err(IdError::Character), "{bad:?}");
        }
    }
}
