//! Redis with one stream: each report is an `XADD`, and is on disk before the reply (`appendfsync always`).

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;

use bytes::{Buf as _, BytesMut};
use tokio::net::TcpStream;

use super::client::{Protocol, tcp};
use super::message::{MESSAGE_BYTES, Template};
use super::server::{Server, installed};

/// The stream.
pub const STREAM: &str = "reports";

/// Starts Redis, which syncs its log before it answers. `rewrites`: whether the log is rewritten when it has grown, as
/// it must be where the stream is emptied; where nothing drains, rewriting would only cost Redis time.
pub async fn start(rewrites: bool) -> Server {
    let program = installed("redis-server");
    let percentage = if rewrites { "100" } else { "0" };
    Server::start(&program, |folder, port| {
        let (port, folder) = (port.to_string(), folder.display().to_string());
        let settings = [
            ["--port", &port],
            ["--bind", "127.0.0.1"],
            ["--dir", &folder],
            ["--appendonly", "yes"],
            ["--appendfsync", "always"],
            ["--save", ""],
            ["--auto-aof-rewrite-percentage", percentage],
        ];
        settings.concat().into_iter().map(ToOwned::to_owned).collect()
    })
    .await
}

/// `XADD` of the message, as one field; in flight is what is pipelined.
pub struct Xadd(Template);

impl Protocol for Xadd {
    const GOODBYE: &'static [u8] = b"";

    async fn connect(address: SocketAddr) -> (TcpStream, Self) {
        let head =
            format!("*5\r\n$4\r\nXADD\r\n${}\r\n{STREAM}\r\n$1\r\n*\r\n$1\r\nm\r\n${MESSAGE_BYTES}\r\n", STREAM.len());
        (tcp(address).await, Self(Template::new(head.as_bytes(), b"\r\n")))
    }

    fn write(&mut self, out: &mut Vec<u8>, id: u32, seq: u64) {
        self.0.write(out, id, seq);
    }

    /// The entry's id as a bulk string: `$15\r\n1714972800000-0\r\n`.
    fn take_ack(&mut self, received: &mut BytesMut) -> bool {
        let Some(line) = received.iter().position(|byte| *byte == b'\n') else { return false };
        let head = std::str::from_utf8(&received[..line]).expect("Redis speaks ASCII").trim_end();
        let length: usize = head.strip_prefix('$').and_then(|digits| digits.parse().ok()).unwrap_or_else(|| {
            panic!("not an entry's id: {head}");
        });
        let whole = line + 1 + length + 2;
        if received.len() < whole {
            return false;
        }
        received.advance(whole);
        true
    }
}

/// A connection that asks one thing after the other. Blocks.
pub struct Redis(BufReader<std::net::TcpStream>);

impl Redis {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Self {
        Self(BufReader::new(std::net::TcpStream::connect(address).expect("the server listens")))
    }

    /// Runs a command; all numbers, lines and texts of its reply, one after the other.
    pub fn ask(&mut self, command: &[&str]) -> Vec<String> {
        let mut request = format!("*{}\r\n", command.len());
        for word in command {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.0.get_mut().write_all(request.as_bytes()).expect("the connection holds");
        let mut parts = Vec::new();
        self.read(&mut parts);
        parts
    }

    /// Entries that the stream ever got, and those that it has.
    pub fn entries(&mut self) -> (u64, u64) {
        let info = self.ask(&["XINFO", "STREAM", STREAM]);
        let figure = |name: &str| {
            let at = info.iter().position(|part| part == name).expect("Redis 7 says it");
            info[at + 1].parse().expect("a count")
        };
        (figure("entries-added"), figure("length"))
    }

    fn read(&mut self, parts: &mut Vec<String>) {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("the connection holds");
        let (kind, rest) = line.trim_end().split_at(1);
        match (kind, rest) {
            (":" | "+", text) => parts.push(text.to_owned()),
            // Nothing.
            ("$" | "*", "-1") => {}
            ("$", length) => {
                let mut text = vec![0; length.parse::<usize>().expect("a length") + 2];
                self.0.read_exact(&mut text).expect("the connection holds");
                parts.push(String::from_utf8_lossy(&text).trim_end().to_owned());
            }
            ("*", count) => {
                for _ in 0..count.parse().expect("a count") {
                    self.read(parts);
                }
            }
            _ => panic!("Redis says: {line}"),
        }
    }
}
