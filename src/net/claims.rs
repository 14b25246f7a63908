//! What the chunks of a request claim, seen as its bytes go by: hyper tells a body's user of a chunk only once there
//! are bytes of it, and one that claims more than a body may have would be waited for.
//!
//! It follows the framing of HTTP/1.1 (heads, lengths, chunks) and decides one thing: that nothing more of a connection
//! is read. It changes no byte, so where hyper reads a message otherwise, or refuses it, it is hyper that counts.

/// Bytes of a line of a head that are kept: the headers that matter here are shorter.
const KEPT_LINE: usize = 64;

/// Where in the requests of a connection its bytes are.
#[derive(Debug)]
pub(super) struct Claims {
    /// The largest body, in bytes.
    limit: u64,
    at: At,
    line: Vec<u8>,
    /// What the head so far says of the body.
    length: u64,
    is_chunked: bool,
    is_exceeded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In a head; whether its first line is over.
    Head(bool),
    /// So many bytes of a body, or of a chunk and its end, are still to come.
    Body(u64),
    Chunk(u64),
    /// In the line that says how long a chunk is: digits so far.
    Size(u64),
    /// Behind the digits.
    Extension(u64),
    /// Behind the last chunk.
    Trailer,
}

impl Claims {
    pub(super) fn new(limit: u64) -> Self {
        let (at, line) = (At::Head(false), Vec::with_capacity(KEPT_LINE));
        Self { limit, at, line, length: 0, is_chunked: false, is_exceeded: false }
    }

    /// Whether a chunk has claimed more than a body may have.
    pub(super) fn is_exceeded(&self) -> bool {
        self.is_exceeded
    }

    /// Sees the next bytes of the connection.
    pub(super) fn see(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, after)) = bytes.split_first() {
            if let At::Body(left) | At::Chunk(left) = self.at {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                bytes = &bytes[taken..];
                self.skip(left - taken as u64);
                continue;
            }
            bytes = after;
            self.see_byte(byte);
        }
    }

    fn skip(&mut self, left: u64) {
        self.at = match (self.at, left) {
            (At::Chunk(_), 0) => At::Size(0),
            (_, 0) => At::Head(false),
            (At::Chunk(_), left) => At::Chunk(left),
            (_, left) => At::Body(left),
        };
    }

    fn see_byte(&mut self, byte: u8) {
        match (self.at, byte) {
            (At::Size(size) | At::Extension(size), b'\n') => self.begin_chunk(size),
            (At::Size(size), _) => {
                let digit = char::from(byte).to_digit(16).map(u64::from);
                self.at = match digit {
                    Some(digit) => At::Size(size.saturating_mul(16).saturating_add(digit)),
                    None => At::Extension(size),
                };
            }
            (At::Head(_) | At::Trailer, b'\n') => self.end_line(),
            (At::Head(_) | At::Trailer, _) if self.line.len() < KEPT_LINE => self.line.push(byte),
            _ => {}
        }
    }

    fn begin_chunk(&mut self, size: u64) {
        self.is_exceeded |= size > self.limit && cfg!(not(forebay_plant = "wait_for_what_is_claimed"));
        // Each has an end of its own.
        self.at = if size == 0 { At::Trailer } else { At::Chunk(size.saturating_add(2)) };
        self.line.clear();
    }

    fn end_line(&mut self) {
        let line = self.line.trim_ascii();
        let is_empty = line.is_empty();
        if let Some(colon) = line.iter().position(|&byte| byte == b':') {
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                self.length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok()).unwrap_or(0);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                self.is_chunked = value.to_ascii_lowercase().ends_with(b"chunked");
            }
        }
        self.line.clear();
        self.at = match self.at {
            // Empty lines before a request are passed over.
            At::Head(false) if is_empty => At::Head(false),
            At::Head(true) if is_empty => {
                match (std::mem::take(&mut self.is_chunked), std::mem::take(&mut self.length)) {
                    (true, _) => At::Size(0),
                    (false, 0) => At::Head(false),
                    (false, length) => At::Body(length),
                }
            }
            At::Trailer if is_empty => At::Head(false),
            At::Trailer => At::Trailer,
            _ => At::Head(true),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exceeded(limit: u64, bytes: &[u8]) -> bool {
        let mut whole = Claims::new(limit);
        whole.see(bytes);
        let mut apart = Claims::new(limit);
        bytes.iter().for_each(|&byte| apart.see(&[byte]));
        assert_eq!(whole.is_exceeded(), apart.is_exceeded(), "{}", String::from_utf8_lossy(bytes));
        whole.is_exceeded()
    }

    const HEAD: &str = "POST /reports HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[test]
    fn a_chunk_that_claims_too_much_is_seen_before_it_comes() {
        for claim in ["65", "ffffffffffffffff", "FFFFFFFFFFFFFFFFFFFFFF", "0000000065;x=y", "65 "] {
            assert!(exceeded(100, format!("{HEAD}{claim}\r\n").as_bytes()), "{claim}");
            assert!(exceeded(100, format!("{HEAD}3\r\nabc\r\n{claim}\r\n").as_bytes()), "{claim} after another");
            let after = format!(
                "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\r\n\r\n{HEAD}1\r\n \r\n0\r\nX: y\r\n\r\n{HEAD}{claim}\n"
            );
            assert!(exceeded(100, after.as_bytes()), "{claim} in a later request");
        }
        for claim in ["64", "0", "00000064;ext=ffffffff"] {
            assert!(!exceeded(100, format!("{HEAD}{claim}\r\n").as_bytes()), "{claim}");
        }
    }

    #[test]
    fn what_only_looks_like_a_chunk_is_none() {
        for bytes in [
            "POST / HTTP/1.1\r\nContent-Length: 20\r\n\r\nffffffffffffffff\r\n\r\n".to_owned(),
            format!("POST / HTTP/1.1\r\nContent-Length: 200\r\n\r\n{HEAD}ffffffff\r\n"),
            format!("{HEAD}14\r\n\r\nffffffffffffffff\r\n\r\n0\r\n\r\n"),
            format!("{HEAD}0\r\nffffffff: x\r\nffffffff\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
            "GET / HTTP/1.1\r\nX: transfer-encoding: chunked\r\n\r\nffffffff\r\n".to_owned(),
            format!("GET /{} HTTP/1.1\r\n\r\n", "f".repeat(500)),
        ] {
            assert!(!exceeded(100, bytes.as_bytes()), "{bytes}");
        }
    }
}
