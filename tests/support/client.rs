//! A WebSocket client on tokio-tungstenite, another library than the server's.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::wait::within;

/// One open connection.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// What came next.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// A text frame, read as JSON.
    Reply(Value),
    /// A pong, with its payload.
    Pong(Vec<u8>),
    /// The server closed with this code.
    Closed(u16),
    /// The connection ended without a close frame.
    Lost(String),
}

impl Client {
    /// Connects to `/ws`.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).await.expect("the server takes a WebSocket")
    }

    /// Connects, where the server may not be there.
    pub async fn try_connect(address: SocketAddr) -> Result<Self, Error> {
        Self::connect_with(address, &[]).await
    }

    /// Connects with more headers, such as `Origin`.
    pub async fn connect_with(address: SocketAddr, headers: &[(&'static str, &str)]) -> Result<Self, Error> {
        Self::connect_to(&format!("ws://{address}/ws"), headers).await
    }

    /// Connects to a URL, for other paths.
    pub async fn connect_to(url: &str, headers: &[(&'static str, &str)]) -> Result<Self, Error> {
        let mut request = url.into_client_request()?;
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("a header's value");
            request.headers_mut().insert(HeaderName::from_static(name), value);
        }
        let (socket, _) = within("the WebSocket handshake", connect_async(request)).await?;
        Ok(Self { socket })
    }

    /// Sends one text message; a connection that is gone shows when the reply is read.
    pub async fn send(&mut self, text: impl Into<String>) {
        let _ = self.try_send(text).await;
    }

    /// Sends one text message.
    pub async fn try_send(&mut self, text: impl Into<String>) -> Result<(), Error> {
        within("a message to be taken", self.socket.send(Message::text(text.into()))).await
    }

    /// Sends any kind of message.
    pub async fn send_message(&mut self, message: Message) {
        let _ = within("a message to be taken", self.socket.send(message)).await;
    }

    /// What comes next; pings are answered underneath.
    pub async fn next(&mut self) -> Incoming {
        loop {
            match within("something from the server", self.socket.next()).await {
                Some(Ok(Message::Text(text))) => {
                    let reply = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in the reply {text}"));
                    return Incoming::Reply(reply);
                }
                Some(Ok(Message::Pong(payload))) => return Incoming::Pong(payload.to_vec()),
                Some(Ok(Message::Close(frame))) => return Incoming::Closed(frame.map_or(1005, |f| f.code.into())),
                Some(Ok(_)) => {}
                Some(Err(e)) => return Incoming::Lost(e.to_string()),
                None => return Incoming::Lost("end of the stream".to_owned()),
            }
        }
    }

    /// The next reply.
    pub async fn reply(&mut self) -> Value {
        match self.next().await {
            Incoming::Reply(reply) => reply,
            other => panic!("a reply was due, not {other:?}"),
        }
    }

    /// Sends one message and returns the next reply.
    pub async fn ask(&mut self, text: impl Into<String>) -> Value {
        self.send(text).await;
        self.reply().await
    }

    /// Sends one report that must be acknowledged; the ack.
    pub async fn report(&mut self, id: &str, seq: impl Into<Option<u64>>, data: &str) -> Value {
        let ack = self.ask(report(id, seq, data)).await;
        assert_eq!((&ack["op"], &ack["code"]), (&Value::from("ack"), &Value::from(200)), "{ack}");
        ack
    }

    /// Reads until the server closes; its code. Panics where the connection ends without one.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            match self.next().await {
                Incoming::Closed(code) => return code,
                Incoming::Lost(why) => panic!("the connection ended without a close frame: {why}"),
                Incoming::Reply(_) | Incoming::Pong(_) => {}
            }
        }
    }

    /// Closes and waits for the server to agree.
    pub async fn close(mut self) {
        let _ = self.socket.close(None).await;
        while !matches!(self.next().await, Incoming::Lost(_)) {}
    }

    /// Sending and receiving apart, for tests that do both at once.
    pub fn into_socket(self) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
        self.socket
    }
}

/// The text of a report, its `data` as it is.
pub fn report(id: &str, seq: impl Into<Option<u64>>, data: &str) -> String {
    match seq.into() {
        Some(seq) => format!(r#"{{"op":"report","id":"{id}","seq":{seq},"data":{data}}}"#),
        None => format!(r#"{{"op":"report","id":"{id}","data":{data}}}"#),
    }
}
