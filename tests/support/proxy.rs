//! A proxy between a node and its MySQL server. It knows where packets begin and end (3 bytes of length, 1 of sequence,
//! then the payload), counts them in each direction over all connections, and breaks what it carries at a chosen one.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::wait::within;

/// Who sent a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The node.
    Client,
    /// The server.
    Server,
}

/// What is done at a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is swallowed, and both ends are closed.
    Cut,
    /// It is passed on, and both ends are closed.
    PassAndCut,
    /// It is swallowed as all that follows is, in both directions; both ends stay open until the client closes its.
    Silence,
}

/// All of them.
pub const FAULTS: [Fault; 3] = [Fault::Cut, Fault::PassAndCut, Fault::Silence];

/// A fault at the `nth` packet (from 1) of one side since the proxy was armed.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Whose packet.
    pub side: Side,
    /// Which.
    pub nth: u64,
    /// What happens.
    pub fault: Fault,
}

/// Packets since the proxy was armed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// From the node.
    pub client: u64,
    /// From the server.
    pub server: u64,
}

/// A proxy at work; ends with the value.
pub struct Proxy {
    address: SocketAddr,
    book: Arc<watch::Sender<Book>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Book {
    counts: Counts,
    /// In the order in which they apply.
    rules: VecDeque<Rule>,
    held: bool,
    /// Packets of the node that wait for the release.
    waiting: usize,
}

impl Proxy {
    /// A proxy on a port of its own, before the server at `port` of this machine.
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let book = Arc::new(watch::Sender::new(Book::default()));
        let task = tokio::spawn(serve(listener, port, Arc::clone(&book)));
        Self { address, book, task }
    }

    /// The URL `direct`, led through this proxy.
    pub fn url(&self, direct: &str) -> String {
        let (user, rest) = direct.rsplit_once('@').expect("the URL has a user");
        let (_, database) = rest.split_once('/').expect("the URL has a database");
        format!("{user}@{}/{database}", self.address)
    }

    /// Counts from zero, and applies these rules, one after the other.
    pub fn arm(&self, rules: &[Rule]) {
        self.book.send_modify(|book| {
            book.counts = Counts::default();
            book.rules = rules.iter().copied().collect();
        });
    }

    /// Packets since the proxy was armed.
    pub fn counts(&self) -> Counts {
        self.book.borrow().counts
    }

    /// Rules that have not applied yet; they apply no more.
    pub fn disarm(&self) -> usize {
        let mut left = 0;
        self.book.send_modify(|book| left = std::mem::take(&mut book.rules).len());
        left
    }

    /// Whether all rules have applied.
    pub fn is_done(&self) -> bool {
        self.book.borrow().rules.is_empty()
    }

    /// Waits until all rules have applied.
    pub async fn done(&self) {
        let mut book = self.book.subscribe();
        let done = within("the proxy's faults", book.wait_for(|book| book.rules.is_empty())).await;
        done.expect("the sender is in self");
    }

    /// Packets of the node wait from now on.
    pub fn hold(&self) {
        self.book.send_modify(|book| book.held = true);
    }

    /// Waits until a packet of the node waits.
    pub async fn holds_one(&self) {
        let mut book = self.book.subscribe();
        let held = within("a packet of the node", book.wait_for(|book| book.waiting > 0)).await;
        held.expect("the sender is in self");
    }

    /// They go on.
    pub fn release(&self) {
        self.book.send_modify(|book| book.held = false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, port: u16, book: Arc<watch::Sender<Book>>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let book = Arc::clone(&book);
        connections.spawn(async move {
            // A server that is down: the node sees its connection close.
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
            let _ = client.set_nodelay(true).and(server.set_nodelay(true));
            carry(client, server, &book).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Why a direction ends.
enum End {
    Closed,
    Silence,
}

async fn carry(client: TcpStream, server: TcpStream, book: &watch::Sender<Book>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let end = tokio::select! {
        end = pump(&mut from_client, &mut to_server, Side::Client, book) => end,
        end = pump(&mut from_server, &mut to_client, Side::Server, book) => end,
    };
    if matches!(end, End::Silence) {
        let _ = tokio::io::copy(&mut from_client, &mut tokio::io::sink()).await;
    }
}

async fn pump(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, side: Side, book: &watch::Sender<Book>) -> End {
    while let Some(packet) = read_packet(from).await {
        if side == Side::Client {
            wait_while_held(book).await;
        }
        let fault = count(side, book);
        if matches!(fault, None | Some(Fault::PassAndCut)) && to.write_all(&packet).await.is_err() {
            return End::Closed;
        }
        match fault {
            None => {}
            Some(Fault::Silence) => return End::Silence,
            Some(Fault::Cut | Fault::PassAndCut) => return End::Closed,
        }
    }
    End::Closed
}

async fn wait_while_held(book: &watch::Sender<Book>) {
    if book.borrow().held {
        book.send_modify(|book| book.waiting += 1);
        let released = book.subscribe().wait_for(|book| !book.held).await.is_ok();
        assert!(released, "the sender lives as long as the connections");
        book.send_modify(|book| book.waiting -= 1);
    }
}

/// Counts a packet; the fault that is due at it.
fn count(side: Side, book: &watch::Sender<Book>) -> Option<Fault> {
    let mut fault = None;
    book.send_modify(|book| {
        let count = match side {
            Side::Client => &mut book.counts.client,
            Side::Server => &mut book.counts.server,
        };
        *count += 1;
        let nth = *count;
        if book.rules.front().is_some_and(|rule| rule.side == side && rule.nth <= nth) {
            fault = book.rules.pop_front().map(|rule| rule.fault);
        }
    });
    fault
}

/// One packet with its header; `None` where the connection ends before one is whole.
async fn read_packet(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut packet = vec![0; 4];
    from.read_exact(&mut packet).await.ok()?;
    let length = u32::from_le_bytes([packet[0], packet[1], packet[2], 0]) as usize;
    packet.resize(4 + length, 0);
    from.read_exact(&mut packet[4..]).await.ok()?;
    Some(packet)
}
