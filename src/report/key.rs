//! What makes a report unique in the sink: `(id, source, seq)`.

use std::fmt;
use std::str::FromStr;

use super::id::Id;

/// The largest number that JavaScript, and so every JSON client, reads exactly: 2^53 - 1.
pub const MAX_EXACT: u64 = (1 << 53) - 1;

/// Who numbered a report, and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number {
    /// 0: the client. 1 to 65535: the node of that `node_id`.
    pub source: u16,
    /// The client's `seq`, or the journal's position. At most [`MAX_EXACT`].
    pub seq: u64,
}

/// The key of a report in the sink. As text `id~source~seq`; `~` is in no id and needs no escape in a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The stream.
    pub id: Id,
    /// The number within the stream.
    pub number: Number,
}

/// The text is not `id~source~seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a key of the form id~source~seq")]
pub struct KeyError;

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}~{}", self.id, self.number.source, self.number.seq)
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut parts = text.split('~');
        let (Some(id), Some(source), Some(seq), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(KeyError);
        };
        let number = Number { source: source.parse().map_err(|_| KeyError)?, seq: seq.parse().map_err(|_| KeyError)? };
        Ok(Self { id: Id::new(id).map_err(|_| KeyError)?, number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_from_its_text() {
        let key = Key { id: Id::new("a:b-c").expect("an id"), number: Number { source: 3, seq: MAX_EXACT } };
        assert_eq!(key.to_string().parse(), Ok(key));
        for bad in ["", "a", "a~1", "a~1~2~3", "a~70000~1", "a b~0~1", "a~0~-1"] {
            assert_eq!(bad.parse::<Key>(), Err(KeyError), "{bad}");
        }
    }
}
