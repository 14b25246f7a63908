//! The load client: one thread for all connections, messages made by overwriting a template, acks read by their header
//! alone. It does as little as a client can, so that what is measured on a shared machine is the server. The loop is
//! the same for all systems; only what a message and an ack look like on the wire is each [`Protocol`]'s own.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::message::{FIRST_SEQ, MESSAGE_BYTES, Template};

/// How one connection of a system is spoken to.
pub trait Protocol: Sized + Send + 'static {
    /// What is said before closing; nothing where a connection may simply end.
    const GOODBYE: &'static [u8];

    /// Opens a connection that takes reports from now on.
    fn connect(address: SocketAddr) -> impl Future<Output = (TcpStream, Self)> + Send;

    /// Puts one report at the end of `out`.
    fn write(&mut self, out: &mut Vec<u8>, id: u32, seq: u64);

    /// Takes one ack off the front; `false` when there is no whole one. They come in the order of the reports.
    /// Anything else than an ack ends the benchmark.
    fn take_ack(&mut self, received: &mut BytesMut) -> bool;
}

/// What is asked of a server.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Where it listens; for WebSockets the path is `/ws`.
    pub address: SocketAddr,
    /// Connections.
    pub connections: u32,
    /// Reports of one connection that are not acknowledged yet.
    pub in_flight: usize,
    /// Ids; each belongs to one connection, which goes round its own.
    pub ids: u32,
    /// Rounds over the ids that an earlier load made: numbers go on behind them.
    pub rounds_before: u64,
    /// Reports of each id, after which the load ends; `None`: it goes on until it is told.
    pub reports_per_id: Option<u64>,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// All acks.
    pub acks: u64,
    /// Time from send to ack, in microseconds, sorted: those that came while it was measured.
    pub latencies: Vec<u32>,
}

const BEFORE: u8 = 0;
const MEASURED: u8 = 1;
const AFTER: u8 = 2;
const OVER: u8 = 3;

/// How long a connection that is held waits before it looks again.
const HELD: Duration = Duration::from_millis(1);

/// What all connections are told.
#[derive(Debug, Default)]
struct Orders {
    phase: AtomicU8,
    hold: Arc<AtomicBool>,
}

/// A load under way.
pub struct Running {
    orders: Arc<Orders>,
    connections: JoinSet<Outcome>,
}

impl Load {
    /// Opens all connections, as WebSockets, and begins.
    pub async fn start(self) -> Running {
        self.start_over::<WebSocket>().await
    }

    /// The same with another protocol.
    pub async fn start_over<P: Protocol>(self) -> Running {
        let orders = Arc::new(Orders::default());
        let mut open = Vec::new();
        for _ in 0..self.connections {
            open.push(P::connect(self.address).await);
        }
        let mut connections = JoinSet::new();
        for (number, (socket, protocol)) in open.into_iter().enumerate() {
            let reports = Reports::new(number as u32, &self, protocol);
            connections.spawn(drive(socket, reports, self.in_flight, Arc::clone(&orders)));
        }
        Running { orders, connections }
    }

    /// Sends [`Load::reports_per_id`] reports for each id and waits for all acks.
    pub async fn complete(self) -> Outcome {
        assert!(self.reports_per_id.is_some(), "else it never ends");
        self.start().await.outcome().await
    }
}

impl Running {
    /// While this is `true`, nothing is sent; what is in flight is still waited for.
    pub fn hold(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.orders.hold)
    }

    /// From now on acks are measured.
    pub fn measure(&self) {
        self.orders.phase.store(MEASURED, Ordering::Relaxed);
    }

    /// From now on they no longer are; the load goes on.
    pub fn measured(&self) {
        self.orders.phase.store(AFTER, Ordering::Relaxed);
    }

    /// Sends no more, waits for what is in flight, and closes.
    pub async fn stop(self) -> Outcome {
        self.orders.phase.store(OVER, Ordering::Relaxed);
        self.outcome().await
    }

    async fn outcome(mut self) -> Outcome {
        let mut all = Outcome::default();
        while let Some(one) = self.connections.join_next().await {
            let mut one = one.expect("a connection of the load does not fail");
            all.acks += one.acks;
            all.latencies.append(&mut one.latencies);
        }
        all.latencies.sort_unstable();
        all
    }
}

/// The reports of one connection.
struct Reports<P> {
    protocol: P,
    first: u32,
    step: u32,
    owned: u64,
    next: u64,
    end: u64,
}

impl<P: Protocol> Reports<P> {
    fn new(connection: u32, load: &Load, protocol: P) -> Self {
        let owned = u64::from(load.ids.saturating_sub(connection).div_ceil(load.connections));
        let next = load.rounds_before * owned;
        let end = load.reports_per_id.map_or(u64::MAX, |reports| next + reports * owned);
        let end = if owned == 0 { 0 } else { end };
        Self { protocol, first: connection, step: load.connections, owned, next, end }
    }

    /// Writes the next report; `false` after the last one.
    fn write(&mut self, out: &mut Vec<u8>) -> bool {
        if self.next >= self.end {
            return false;
        }
        let id = self.first + (self.next % self.owned) as u32 * self.step;
        self.protocol.write(out, id, FIRST_SEQ + self.next / self.owned);
        self.next += 1;
        true
    }
}

async fn drive<P: Protocol>(
    mut socket: TcpStream,
    mut reports: Reports<P>,
    in_flight: usize,
    orders: Arc<Orders>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut sent: VecDeque<Instant> = VecDeque::with_capacity(in_flight);
    let mut out = Vec::new();
    let mut received = BytesMut::with_capacity(64 * 1024);
    loop {
        let over = orders.phase.load(Ordering::Relaxed) == OVER;
        let held = orders.hold.load(Ordering::Relaxed);
        let now = Instant::now();
        out.clear();
        while !over && !held && sent.len() < in_flight && reports.write(&mut out) {
            sent.push_back(now);
        }
        if sent.is_empty() {
            if !over && held {
                tokio::time::sleep(HELD).await;
                continue;
            }
            break;
        }
        socket.write_all(&out).await.expect("the server reads");
        assert!(socket.read_buf(&mut received).await.expect("the server answers") > 0, "the server closed");
        let (now, measured) = (Instant::now(), orders.phase.load(Ordering::Relaxed) == MEASURED);
        while reports.protocol.take_ack(&mut received) {
            let since = sent.pop_front().expect("an ack answers a report");
            outcome.acks += 1;
            if measured {
                outcome.latencies.push((now - since).as_micros().try_into().unwrap_or(u32::MAX));
            }
        }
    }
    close::<P>(socket).await;
    outcome
}

/// Forebay's protocol, and that of what stands in for it.
pub struct WebSocket(Template);

impl Protocol for WebSocket {
    /// A masked close frame, 1000.
    const GOODBYE: &'static [u8] = &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];

    async fn connect(address: SocketAddr) -> (TcpStream, Self) {
        let socket = upgraded(address).await;
        // FIN and text; masked, with a length of 16 bits; a mask of zeros, which costs the server what any mask does.
        let [high, low] = (MESSAGE_BYTES as u16).to_be_bytes();
        (socket, Self(Template::new(&[0x81, 0x80 | 126, high, low, 0, 0, 0, 0], b"")))
    }

    fn write(&mut self, out: &mut Vec<u8>, id: u32, seq: u64) {
        self.0.write(out, id, seq);
    }

    fn take_ack(&mut self, received: &mut BytesMut) -> bool {
        let Some((head, length)) = frame_size(received) else { return false };
        if received.len() < head + length {
            return false;
        }
        let text = &received[head..head + length];
        assert!(text.starts_with(br#"{"op":"ack","#), "not an ack: {}", String::from_utf8_lossy(text));
        received.advance(head + length);
        true
    }
}

/// The bytes of the header, and those after it; a server masks nothing.
fn frame_size(received: &[u8]) -> Option<(usize, usize)> {
    let [kind, short, rest @ ..] = received else { return None };
    assert_eq!(*kind, 0x81, "a whole text frame was due");
    match (*short, rest) {
        (126, [high, low, ..]) => Some((4, usize::from(u16::from_be_bytes([*high, *low])))),
        (126, _) => None,
        (short, _) => Some((2, usize::from(short))),
    }
}

/// A connection that does not wait to fill its packets.
pub async fn tcp(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).await.expect("the server listens");
    socket.set_nodelay(true).expect("a fresh socket takes options");
    socket
}

async fn upgraded(address: SocketAddr) -> TcpStream {
    let mut socket = tcp(address).await;
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.expect("the server reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.expect("the server answers"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    socket
}

/// Closes in order; what the server still says does not matter.
async fn close<P: Protocol>(mut socket: TcpStream) {
    if P::GOODBYE.is_empty() {
        return;
    }
    let _ = socket.write_all(P::GOODBYE).await;
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut rest)).await;
}
