//! Patterns of ids: characters of an id, and `*` for any number of them.

use crate::report::Id;

/// Longest pattern, in characters.
const MAX_PATTERN: usize = 64;

/// A pattern such as `eu-*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(String);

impl Pattern {
    /// Reads a pattern; `None` where no id could match, or it is too long.
    pub(super) fn new(text: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.:-*".contains(&b);
        ((1..=MAX_PATTERN).contains(&text.len()) && text.bytes().all(allowed)).then(|| Self(text.to_owned()))
    }

    /// Whether the whole id matches.
    pub(super) fn matches(&self, id: &Id) -> bool {
        matches(self.0.as_bytes(), id.as_bytes())
    }
}

/// Goes back to the last `*` only, which is enough: time is at most the product of the lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, t) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_number_of_characters() {
        for (pattern, yes, no) in [
            ("*", &["a", "7", "a:b"][..], &[][..]),
            ("eu-*", &["eu-", "eu-1", "eu-eu-"], &["eu", "xeu-1", "EU-1"]),
            ("*-7", &["a-7", "-7", "a-7-7"], &["7", "a-77"]),
            ("a*b*c", &["abc", "aXbbYcc"], &["ac", "abcd", "acb"]),
            ("a.b", &["a.b"], &["aXb", "a.b.c"]),
            ("**", &["x"], &[]),
        ] {
            let read = Pattern::new(pattern).expect("a pattern");
            let id = |text: &&str| Id::new(text).expect("an id");
            assert!(yes.iter().all(|text| read.matches(&id(text))), "{pattern}");
            assert!(!no.iter().any(|text| read.matches(&id(text))), "{pattern}");
        }
    }

    #[test]
    fn what_no_id_can_match_is_no_pattern() {
        for bad in ["", "a b", "é*", "a/b", "?", &"a".repeat(65)] {
            assert_eq!(Pattern::new(bad), None, "{bad}");
        }
    }
}
