//! The PROXY header that a trusted proxy sends first: versions 1 and 2 of HAProxy's protocol.
//!
//! It is required, and never guessed: a connection that begins with anything else is not served. Not a byte is read
//! beyond it, as TLS or HTTP follows.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 1, its end included, in bytes.
const MAX_LINE: usize = 107;
/// The longest body of version 2, in bytes; what its addresses leave is for TLVs, which are not looked at.
const MAX_BODY: usize = 4096;

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrefaceError {
    /// The connection is lost.
    #[error(transparent)]
    Lost(#[from] io::Error),
    /// What came is something else.
    #[error("{0}")]
    Other(&'static str),
}

const NONE: PrefaceError = PrefaceError::Other("it does not begin with a PROXY header");
const BAD_LINE: PrefaceError = PrefaceError::Other("its PROXY header of version 1 cannot be read");

/// Reads the header; `None` where it says that the connection is the proxy's own, or does not say whose it is.
pub(super) async fn read(socket: &mut TcpStream) -> Result<Option<IpAddr>, PrefaceError> {
    // The shortest of either version is longer.
    let mut start = [0; SIGNATURE.len()];
    socket.read_exact(&mut start).await?;
    if start == SIGNATURE {
        let mut head = [0; 4];
        socket.read_exact(&mut head).await?;
        let [command, family, length @ ..] = head;
        let length = usize::from(u16::from_be_bytes(length));
        if length > MAX_BODY {
            return Err(PrefaceError::Other("its PROXY header is longer than 4 KiB"));
        }
        let mut body = vec![0; length];
        socket.read_exact(&mut body).await?;
        return second(command, family, &body);
    }
    if !start.starts_with(b"PROXY ") {
        return Err(NONE);
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() >= MAX_LINE {
            return Err(BAD_LINE);
        }
        take_line(socket, &mut line).await?;
    }
    first(&line[..line.len() - 2])
}

/// Takes what has come of the line, up to its end.
async fn take_line(socket: &mut TcpStream, line: &mut Vec<u8>) -> Result<(), PrefaceError> {
    let mut seen = [0; MAX_LINE];
    let room = MAX_LINE - line.len();
    let count = socket.peek(&mut seen[..room]).await?;
    let count = seen[..count].iter().position(|&byte| byte == b'\n').map_or(count, |end| end + 1);
    if count == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let before = line.len();
    line.resize(before + count, 0);
    socket.read_exact(&mut line[before..]).await?;
    if line.ends_with(b"\n") && !line.ends_with(b"\r\n") { Err(BAD_LINE) } else { Ok(()) }
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 4711 443`, without its end.
fn first(line: &[u8]) -> Result<Option<IpAddr>, PrefaceError> {
    let line = std::str::from_utf8(line).map_err(|_| BAD_LINE)?;
    let mut words = line.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        // Whatever follows is to be passed over.
        return Ok(None);
    }
    let words: Vec<&str> = words.collect();
    let [source, destination, ports @ ..] = &words[..] else { return Err(BAD_LINE) };
    let is_port = |port: &&str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if ports.len() != 2 || !ports.iter().all(is_port) {
        return Err(BAD_LINE);
    }
    let source = match family {
        Some("TCP4") => both::<Ipv4Addr>(source, destination).map(IpAddr::from),
        Some("TCP6") => both::<Ipv6Addr>(source, destination).map(IpAddr::from),
        _ => None,
    };
    source.map(|source| Some(source.to_canonical())).ok_or(BAD_LINE)
}

/// The first of two addresses of one kind.
fn both<T: std::str::FromStr>(source: &str, destination: &str) -> Option<T> {
    destination.parse::<T>().ok()?;
    source.parse().ok()
}

/// Command, family and body of version 2.
fn second(command: u8, family: u8, body: &[u8]) -> Result<Option<IpAddr>, PrefaceError> {
    match command {
        // LOCAL: a health check.
        0x20 => return Ok(None),
        0x21 => {}
        _ => return Err(PrefaceError::Other("its PROXY header is of no version or command that there is")),
    }
    let short = PrefaceError::Other("its PROXY header is too short for its addresses");
    let source = match family {
        // Not said; or a socket of the file system, whose client has no address.
        0x00 => None,
        0x31 if body.len() >= 216 => None,
        0x11 if body.len() >= 12 => body.first_chunk().map(|&source: &[u8; 4]| IpAddr::from(source)),
        0x21 if body.len() >= 36 => body.first_chunk().map(|&source: &[u8; 16]| IpAddr::from(source)),
        0x11 | 0x21 | 0x31 => return Err(short),
        _ => return Err(PrefaceError::Other("its PROXY header is of something else than TCP")),
    };
    Ok(source.map(|source| source.to_canonical()))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// What is read of a connection that begins with these bytes, each piece sent alone, and what is left of it.
    async fn read_from(pieces: &[&[u8]]) -> (Result<Option<String>, String>, Vec<u8>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let (mut socket, _) = listener.accept().await.expect("a connection");
        client.set_nodelay(true).expect("a socket");
        let sending = async {
            for piece in pieces {
                client.write_all(piece).await.expect("taken");
                tokio::task::yield_now().await;
            }
            client.shutdown().await.expect("half closed");
        };
        let (found, ()) = tokio::join!(read(&mut socket), sending);
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.expect("the rest");
        (found.map(|peer| peer.map(|peer| peer.to_string())).map_err(|error| error.to_string()), rest)
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    fn v4_body() -> Vec<u8> {
        [&[192, 0, 2, 1, 10, 0, 0, 1, 1, 2, 1, 187][..]].concat()
    }

    #[tokio::test]
    async fn both_versions_are_read_and_not_a_byte_more() {
        let v6 = "2001:db8::7".parse::<Ipv6Addr>().expect("an address").octets();
        let v6 = [&v6[..], &[0; 20]].concat();
        let with_tlvs = [v4_body(), b"\x03\x00\x04abcd\x04\x00\x01x".to_vec()].concat();
        for (header, client) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n".to_vec(), Some("192.0.2.1")),
            (b"PROXY TCP6 2001:db8::7 ::1 1 65535\r\n".to_vec(), Some("2001:db8::7")),
            (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n".to_vec(), Some("192.0.2.1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:f...f:ffff anything 1 2\r\n".to_vec(), None),
            (v2(0x21, 0x11, &v4_body()), Some("192.0.2.1")),
            (v2(0x21, 0x21, &v6), Some("2001:db8::7")),
            (v2(0x21, 0x11, &with_tlvs), Some("192.0.2.1")),
            (v2(0x20, 0x11, &v4_body()), None),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x21, 0x00, b"\x04\x00\x01x"), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ] {
            let bytes = [&header[..], b"GET /"].concat();
            let shown = String::from_utf8_lossy(&header).into_owned();
            let wanted = (Ok(client.map(str::to_owned)), b"GET /".to_vec());
            assert_eq!(read_from(&[&bytes]).await, wanted, "{shown}");
            let apart: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(read_from(&apart).await, wanted, "{shown} byte by byte");
        }
    }

    #[tokio::test]
    async fn whatever_else_comes_first_is_refused() {
        let long = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200], b"\r\n".to_vec()].concat();
        for bytes in [
            &b"GET /ws HTTP/1.1\r\n\r\n"[..],
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdef",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443 1\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 65536\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 +1 443\r\n",
            b"PROXY TCP4 2001:db8::7 ::1 1 2\r\n",
            b"PROXY TCP6 192.0.2.1 10.0.0.1 1 2\r\n",
            b"PROXY TCP4  192.0.2.1 10.0.0.1 1 2\r\n",
            b"PROXY UDP4 192.0.2.1 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\n",
            b"proxy TCP4 192.0.2.1 10.0.0.1 1 2\r\n",
            &long,
            &v2(0x31, 0x11, &v4_body()),
            &v2(0x22, 0x11, &v4_body()),
            &v2(0x21, 0x12, &v4_body()),
            &v2(0x21, 0x11, &v4_body()[..11]),
            &v2(0x21, 0x21, &[0; 35]),
            &v2(0x21, 0x11, &[0; 4097]),
            b"PROXY TCP4 192.0.2.1",
            b"",
        ] {
            let (found, _) = read_from(&[bytes]).await;
            assert!(found.is_err(), "{}: {found:?}", String::from_utf8_lossy(bytes));
        }
    }
}
