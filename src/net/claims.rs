//! What the chunks of a request claim, seen as its bytes go by: hyper tells a body's user of a chunk only once there
//! are bytes of it, and one that claims more than a body may have would be waited for.
//!
//! It follows the framing of HTTP/1.1 (heads, lengths, chunks) and decides one thing: that nothing more of a connection
//! is read. It changes one thing: of a `Content-Length` that no body can have, hyper is shown as many digits as it can
//! read, so that the request is refused for its length, and not as one that cannot be read. Where hyper reads a message
//! otherwise, or refuses it, it is hyper that counts.

/// Bytes of a line of a head that are kept: the headers that matter here are shorter.
const KEPT_LINE: usize = 64;
/// Digits of a `Content-Length` that are shown to hyper, leading zeros apart: it reads any number of so many, and all
/// of them are beyond all limits.
const LENGTH_DIGITS: usize = 19;

/// Where in the requests of a connection its bytes are.
#[derive(Debug)]
pub(super) struct Claims {
    /// The largest body, in bytes.
    limit: u64,
    at: At,
    line: Vec<u8>,
    /// Digits of a `Content-Length` so far, leading zeros apart, where the line is one.
    digits: Option<usize>,
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
        Self { limit, at, line, digits: None, length: 0, is_chunked: false, is_exceeded: false }
    }

    /// Whether a chunk has claimed more than a body may have.
    pub(super) fn is_exceeded(&self) -> bool {
        self.is_exceeded
    }

    /// Sees the next bytes of the connection, and blanks what hyper is not shown.
    pub(super) fn see(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            if let At::Body(left) | At::Chunk(left) = self.at {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += taken;
                self.skip(left - taken as u64);
                continue;
            }
            if let At::Head(true) = self.at {
                self.shorten(&mut bytes[at]);
            }
            self.see_byte(bytes[at]);
            at += 1;
        }
    }

    /// Blanks the digits of a length behind those that hyper can read.
    fn shorten(&mut self, byte: &mut u8) {
        match (&mut self.digits, *byte) {
            (None, b':') if self.line.eq_ignore_ascii_case(b"content-length") => self.digits = Some(0),
            (Some(digits), b'0'..=b'9') if *digits > 0 || *byte != b'0' => {
                *digits += 1;
                if *digits > LENGTH_DIGITS && cfg!(not(forebay_plant = "leave_lengths")) {
                    *byte = b' ';
                }
            }
            _ => {}
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
            // There may be any number of them before a value.
            (At::Head(_), b' ' | b'\t') if self.line.ends_with(b":") => {}
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
        // What a trailer says is of no head.
        if let (At::Head(_), Some(colon)) = (self.at, line.iter().position(|&byte| byte == b':')) {
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                self.length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok()).unwrap_or(0);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                self.is_chunked = value.to_ascii_lowercase().ends_with(b"chunked");
            }
        }
        self.line.clear();
        self.digits = None;
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
        let mut seen = bytes.to_vec();
        whole.see(&mut seen);
        let mut apart = Claims::new(limit);
        let mut seen_apart = bytes.to_vec();
        seen_apart.chunks_mut(1).for_each(|byte| apart.see(byte));
        assert_eq!(whole.is_exceeded(), apart.is_exceeded(), "{}", String::from_utf8_lossy(bytes));
        assert_eq!((&seen[..], &seen_apart[..]), (bytes, bytes), "nothing is changed");
        whole.is_exceeded()
    }

    fn shown(text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        bytes.chunks_mut(7).fold(Claims::new(100), |mut claims, some| {
            claims.see(some);
            claims
        });
        String::from_utf8(bytes).expect("only digits are blanked")
    }

    #[test]
    fn a_length_that_no_body_can_have_is_shown_as_far_as_it_can_be_read() {
        let request = |name: &str, length: &str| format!("POST / HTTP/1.1\r\n{name}: {length}\r\nHost: a\r\n\r\n");
        for (length, wanted) in [
            ("18446744073709551614", "1844674407370955161 "),
            ("0000000000000000000000018446744073709551616", "000000000000000000000001844674407370955161 "),
            ("999999999999999999999999999999", "9999999999999999999           "),
            // Any other is as it is; what is none is not made one.
            ("9999999999999999999", "9999999999999999999"),
            ("0000000000000000000000000000000000000000000000000000000000000000000000000000000003", ""),
            ("1, 99999999999999999999", "1, 999999999999999999  "),
        ] {
            let wanted = if wanted.is_empty() { length } else { wanted };
            assert_eq!(shown(&request("Content-Length", length)), request("Content-Length", wanted));
            assert_eq!(shown(&request("cONTENT-lENGTH", length)), request("cONTENT-lENGTH", wanted));
            assert_eq!(shown(&request("X-Content-Length", length)), request("X-Content-Length", length));
            let body = format!("POST / HTTP/1.1\r\nContent-Length: 60\r\n\r\n\r\nContent-Length: {length}\r\n");
            assert_eq!(shown(&body), body, "a body is nobody's to change");
            let trailer = format!("{HEAD}0\r\nContent-Length: {length}\r\n\r\nGET / HTTP/1.1\r\n\r\n");
            assert_eq!(shown(&trailer), trailer);
        }
    }

    /// A length in a trailer once counted for the next request.
    #[test]
    fn what_a_trailer_says_is_of_no_head() {
        let after = format!("{HEAD}0\r\nContent-Length: 4000\r\n\r\nGET / HTTP/1.1\r\n\r\n{HEAD}65\r\n");
        assert!(exceeded(100, after.as_bytes()));
    }

    #[test]
    fn a_head_may_have_any_number_of_blanks_before_a_value() {
        let blanks = " \t".repeat(KEPT_LINE);
        let head = format!("POST / HTTP/1.1\r\nTransfer-Encoding:{blanks}chunked\r\n\r\n65\r\n");
        assert!(exceeded(100, head.as_bytes()));
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
