//! What a dead letter says beside its report, and what it is called.

use std::fmt;
use std::str::FromStr;

use super::id::Id;
use super::key::{Key, KeyError, Number};

/// The key of a dead letter: that of its report, and, where a letter of other content has that already, a part of the
/// digest of its own. As text `id~source~seq` or `id~source~seq~digest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterKey {
    /// The stream.
    pub id: Id,
    /// The number within the stream.
    pub number: Number,
    /// Tells letters of one report's key apart.
    pub twin: Option<u64>,
}

impl LetterKey {
    /// The key of the report.
    pub fn report(&self) -> Key {
        Key { id: self.id, number: self.number }
    }
}

impl From<Key> for LetterKey {
    fn from(Key { id, number }: Key) -> Self {
        Self { id, number, twin: None }
    }
}

impl fmt::Display for LetterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.report())?;
        self.twin.map_or(Ok(()), |twin| write!(f, "~{twin:016x}"))
    }
}

impl FromStr for LetterKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let Some((key, twin)) = text.rsplit_once('~').filter(|(key, _)| key.matches('~').count() == 2) else {
            return text.parse::<Key>().map(Self::from);
        };
        let is_hex = twin.len() == 16 && twin.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let twin = u64::from_str_radix(twin, 16).ok().filter(|_| is_hex).ok_or(KeyError)?;
        Ok(Self { twin: Some(twin), ..Self::from(key.parse::<Key>()?) })
    }
}

/// Why a report is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LetterKind {
    /// The sink refuses it for what it is.
    Refused,
    /// The sink has another report under its key.
    KeyTaken,
    /// No table takes it.
    NoTable,
    /// An operator set it aside.
    SetAside,
    /// Its bytes on disk are damaged.
    Damaged,
}

impl LetterKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Refused, Self::KeyTaken, Self::NoTable, Self::SetAside, Self::Damaged];

    /// `refused`, `key_taken`, `no_table`, `set_aside` or `damaged`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::KeyTaken => "key_taken",
            Self::NoTable => "no_table",
            Self::SetAside => "set_aside",
            Self::Damaged => "damaged",
        }
    }

    /// The kind with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Bytes of a holder's data that are kept.
pub const MAX_HOLDER_DATA: usize = 4096;

/// What the sink has under the key of a report, as text of the sink.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holder {
    /// Its `time`, in seconds.
    pub time: Option<String>,
    /// Its `code`.
    pub code: Option<String>,
    /// Its `data`, at most [`MAX_HOLDER_DATA`] bytes of it.
    pub data: Option<String>,
    /// How many bytes of data it has in all.
    pub data_bytes: u64,
    /// Its `accepted_at`.
    pub accepted_at: Option<String>,
}

impl Holder {
    /// A holder with as much of its texts as is kept.
    pub fn cut(self) -> Self {
        const SHORT: usize = 64;
        let cut =
            |text: Option<String>, most: usize| text.map(|text| text[..text.floor_char_boundary(most)].to_owned());
        Self {
            time: cut(self.time, SHORT),
            code: cut(self.code, SHORT),
            data: cut(self.data, MAX_HOLDER_DATA),
            data_bytes: self.data_bytes,
            accepted_at: cut(self.accepted_at, SHORT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_name_of_its_own() {
        for kind in LetterKind::ALL {
            assert_eq!(LetterKind::of_name(kind.name()), Some(kind));
        }
        assert_eq!(LetterKind::of_name("none"), None);
    }

    #[test]
    fn a_key_reads_back_as_it_is_shown() {
        for text in ["a~0~1", "a~7~9007199254740991", "a~0~1~00000000000000ff"] {
            assert_eq!(text.parse::<LetterKey>().map(|key| key.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "a", "a~0", "a~0~1~", "a~0~1~ff", "a~0~1~00000000000000FF", "a~0~1~00000000000000ff~1", "~0~1"]
        {
            assert_eq!(text.parse::<LetterKey>(), Err(KeyError), "{text}");
        }
    }

    #[test]
    fn a_holder_is_cut_at_a_character() {
        let holder = Holder { data: Some("é".repeat(MAX_HOLDER_DATA)), ..Holder::default() };
        assert_eq!(holder.cut().data.map(|data| data.len()), Some(MAX_HOLDER_DATA));
    }
}
