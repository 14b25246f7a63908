//! WebSocket frames byte by byte, for what no library lets one send.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wait::within;

/// Opcodes.
pub const CONTINUATION: u8 = 0;
/// A text frame.
pub const TEXT: u8 = 1;
/// A close frame.
pub const CLOSE: u8 = 8;
/// A ping frame.
pub const PING: u8 = 9;

/// A connection after its handshake.
pub struct Raw {
    socket: TcpStream,
}

/// One frame to send.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Whether it is the message's last.
    pub last: bool,
    /// What it is.
    pub opcode: u8,
    /// A client must mask; zeros leave the payload readable.
    pub mask: Option<[u8; 4]>,
    /// Its payload.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// A whole text message.
    pub fn text(payload: &str) -> Frame<'_> {
        Frame { last: true, opcode: TEXT, mask: Some([7, 11, 13, 17]), payload: payload.as_bytes() }
    }

    /// The frame as it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = header(self.last, self.opcode, self.mask.is_some(), self.payload.len() as u64);
        let mask = self.mask.unwrap_or_default();
        bytes.extend_from_slice(self.mask.as_ref().map_or(&[], |mask| &mask[..]));
        bytes.extend(self.payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }
}

/// A frame's header without the mask.
pub fn header(last: bool, opcode: u8, masked: bool, length: u64) -> Vec<u8> {
    let masked = u8::from(masked) << 7;
    let mut bytes = vec![(u8::from(last) << 7) | opcode];
    match length {
        0..126 => bytes.push(masked | length as u8),
        126..65_536 => {
            bytes.push(masked | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(masked | 127);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
    }
    bytes
}

/// One frame received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// What it is.
    pub opcode: u8,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Received {
    /// The whole frames at the start of what a server sent.
    pub fn all(mut bytes: &[u8]) -> Vec<Self> {
        let mut frames = Vec::new();
        while let Some((&[first, second], rest)) = bytes.split_first_chunk() {
            assert!(second < 127, "a frame of a server that is small: {bytes:?}");
            let (length, rest) = match (second, rest.split_first_chunk()) {
                (126, Some((&length, rest))) => (u16::from_be_bytes(length).into(), rest),
                _ => (usize::from(second), rest),
            };
            let Some((payload, rest)) = rest.split_at_checked(length) else { break };
            frames.push(Self { opcode: first & 0x0f, payload: payload.to_vec() });
            bytes = rest;
        }
        frames
    }

    /// The code of a close frame.
    pub fn close_code(&self) -> Option<u16> {
        let code = self.payload.get(..2)?;
        (self.opcode == CLOSE).then(|| u16::from_be_bytes([code[0], code[1]]))
    }

    /// A text frame as JSON.
    pub fn json(&self) -> Value {
        assert_eq!(self.opcode, TEXT, "{self:?}");
        serde_json::from_slice(&self.payload).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }
}

impl Raw {
    /// Connects and shakes hands.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut socket = TcpStream::connect(address).await.expect("the server takes a connection");
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.expect("the handshake can be sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let byte = within("the handshake's answer", socket.read_u8()).await.expect("a whole answer");
            answer.push(byte);
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "the accept key of RFC 6455's example: {answer}");
        Self { socket }
    }

    /// The socket, behind the handshake.
    pub fn into_socket(self) -> TcpStream {
        self.socket
    }

    /// Sends one frame.
    pub async fn send(&mut self, frame: Frame<'_>) {
        self.send_bytes(&frame.bytes()).await;
    }

    /// Sends bytes as they are; a server that has hung up shows when it is read from.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = within("bytes to be taken", self.socket.write_all(bytes)).await;
    }

    /// The next frame; `None` where the connection ends.
    pub async fn next(&mut self) -> Option<Received> {
        within("a frame from the server", self.read()).await.ok()
    }

    /// Reads until a close frame; its code, and the frames before it. `None` where the connection ends without one.
    pub async fn until_closed(&mut self) -> (Vec<Received>, Option<u16>) {
        let mut before = Vec::new();
        while let Some(frame) = self.next().await {
            if frame.opcode == CLOSE {
                return (before, frame.close_code());
            }
            before.push(frame);
        }
        (before, None)
    }

    async fn read(&mut self) -> std::io::Result<Received> {
        let first = self.socket.read_u8().await?;
        let second = self.socket.read_u8().await?;
        assert_eq!(second & 0x80, 0, "a server never masks");
        let length = match second {
            126 => u64::from(self.socket.read_u16().await?),
            127 => self.socket.read_u64().await?,
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).expect("a frame that fits into memory")];
        self.socket.read_exact(&mut payload).await?;
        Ok(Received { opcode: first & 0x0f, payload })
    }
}
