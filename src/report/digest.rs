//! The digest of a report's content, by which two reports of one key are told apart.

use sha2::{Digest as _, Sha256};

use super::record::Report;

/// The first half of SHA-256 of `data` as it was sent, `time` and `code`: clients who share an id must not be able to
/// make two contents with one digest.
pub type Digest = [u8; 16];

impl Report {
    /// The digest of its content: equal for two reports of one key only where the later is a repetition.
    pub fn digest(&self) -> Digest {
        // Of fixed length and before the data, so that no two contents have the same bytes here.
        let mut fields = [0; 14];
        fields[0] = u8::from(self.time.is_some());
        fields[1..9].copy_from_slice(&self.time.unwrap_or(0).to_le_bytes());
        fields[9..13].copy_from_slice(&self.code.to_le_bytes());
        fields[13] = u8::from(self.data.is_some());
        let whole =
            Sha256::new().chain_update(fields).chain_update(self.data.as_deref().unwrap_or_default()).finalize();
        let (half, _) = whole.split_first_chunk().expect("SHA-256 has 32 bytes");
        *half
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::Number;
    use super::*;

    fn report(time: Option<i64>, code: i32, data: Option<&'static str>) -> Report {
        let number = Number { source: 0, seq: 1 };
        Report { number, time, code, peer: None, data: data.map(Bytes::from), accepted_at: 5 }
    }

    #[test]
    fn each_part_of_the_content_counts_and_nothing_else() {
        let contents = [
            report(None, 0, None),
            report(Some(0), 0, None),
            report(None, 1, None),
            report(None, 0, Some("null")),
            report(None, 0, Some("{}")),
            report(None, 0, Some("{ }")),
        ];
        for (n, one) in contents.iter().enumerate() {
            for (m, other) in contents.iter().enumerate() {
                assert_eq!(one.digest() == other.digest(), n == m, "{one:?} {other:?}");
            }
        }
        let later = Report { accepted_at: 6, peer: Some("::1".parse().expect("an address")), ..contents[0].clone() };
        assert_eq!(later.digest(), contents[0].digest());
    }
}
