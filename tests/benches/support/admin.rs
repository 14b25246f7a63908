//! One request after the other to a node's admin listener, over one connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

/// A connection to an admin listener. Blocks.
pub struct Admin {
    socket: BufReader<TcpStream>,
    address: SocketAddr,
}

impl Admin {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Self {
        Self { socket: BufReader::new(TcpStream::connect(address).expect("the node listens")), address }
    }

    /// `GET path`, which must be answered by JSON with a length.
    pub fn get(&mut self, path: &str) -> Value {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        self.socket.get_mut().write_all(request.as_bytes()).expect("the connection holds");
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.socket.read_line(&mut line).expect("the connection holds");
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(text) = line.strip_prefix("content-length: ") {
                length = text.parse().expect("a length is a number");
            }
            assert!(!line.starts_with("http/") || line.contains(" 200 "), "{path}: {line}");
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.socket.read_exact(&mut body).expect("the connection holds");
        serde_json::from_slice(&body).expect("an answer is JSON")
    }
}
