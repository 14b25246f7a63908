//! What a node holds for clients is bounded by its settings, whatever they do: with the default settings it lives in
//! 512 MiB beside many hostile connections of a kind, and serves a good client all the while. What it took is printed,
//! and appended to the file that `FOREBAY_MEMORY_RESULTS` names.
//!
//! `FOREBAY_TEST_HOSTILE` sets how many connections there are of each kind (1,000 is the long form).

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::cgroup::Group;
use crate::support::client::{Client, report};
use crate::support::node::Node;
use crate::support::raw::{CONTINUATION, Frame, Raw, TEXT, header};

/// The memory that a node has, in MiB.
const MEMORY: u64 = 512;
/// The least reports of the good client in a kind.
const REPORTS: u64 = 40;
/// The good client goes on until hostile connections have sent nothing for so many of its reports.
const QUIET: u64 = 40;
const PAUSE: Duration = Duration::from_millis(25);

fn hostile() -> usize {
    std::env::var("FOREBAY_TEST_HOSTILE").ok().and_then(|text| text.parse().ok()).unwrap_or(100)
}

/// What one hostile connection sends: something first, and then something again and again. It reads nothing.
struct Hostile {
    is_websocket: bool,
    first: Vec<u8>,
    again: Vec<u8>,
    times: usize,
}

impl Hostile {
    fn frames(first: Vec<u8>, again: Vec<u8>, times: usize) -> Self {
        Self { is_websocket: true, first, again, times }
    }

    fn request(head: &str, body: Vec<u8>, again: Vec<u8>, times: usize) -> Self {
        let mut first = format!("POST /reports HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n").into_bytes();
        first.extend(body);
        Self { is_websocket: false, first, again, times }
    }

    async fn run(self: Arc<Self>, address: SocketAddr, sent: Arc<AtomicU64>) {
        let mut socket = match self.is_websocket {
            true => Raw::connect(address).await.into_socket(),
            false => TcpStream::connect(address).await.expect("the node takes a connection"),
        };
        for bytes in std::iter::once(&self.first).chain(std::iter::repeat_n(&self.again, self.times)) {
            for piece in bytes.chunks(16 * 1024) {
                if socket.write_all(piece).await.is_err() {
                    return;
                }
                sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
        }
        std::future::pending::<()>().await;
    }
}

fn frame(text: &str) -> Vec<u8> {
    Frame::text(text).bytes()
}

/// As many `elements` as a message may have bytes for.
fn array(element: impl Fn(usize) -> String) -> String {
    let (mut text, mut n) = ("[".to_owned(), 0);
    loop {
        let next = element(n);
        if text.len() + next.len() + 2 > 64 * 1024 {
            return text + "]";
        }
        if n > 0 {
            text.push(',');
        }
        text.push_str(&next);
        n += 1;
    }
}

/// Runs a crowd of one kind beside a good client, on a node with the default limits.
async fn endure(kind: &str, change: impl FnOnce(Node) -> Node, hostile_of: impl Fn(usize) -> Hostile) {
    let count = hostile();
    let group = Group::with_memory(MEMORY << 20);
    let mut node = change(Node::new());
    if let Some(group) = &group {
        let wrapper = group.wrapper();
        node.under(&wrapper.each_ref().map(String::as_str));
    }
    let node = node.start().await;
    let mut good = Client::connect(node.ingest()).await;
    good.report("good", 0, "1").await;
    let (before, sent) = (node.peak_memory(), Arc::<AtomicU64>::default());
    let mut crowd = JoinSet::new();
    for number in 0..count {
        crowd.spawn(Arc::new(hostile_of(number)).run(node.ingest(), Arc::clone(&sent)));
    }
    let (mut worst, mut worst_post, mut quiet, mut last, mut seq) = (Duration::ZERO, Duration::ZERO, 0, 0, 1);
    while quiet < QUIET || seq < REPORTS {
        let begun = Instant::now();
        good.report("good", seq, "1").await;
        worst = worst.max(begun.elapsed());
        let begun = Instant::now();
        let replies = node.post(report("posted", seq, "1")).await;
        assert_eq!(replies[0]["code"], 200, "{replies:?}");
        worst_post = worst_post.max(begun.elapsed());
        let now = sent.load(Ordering::Relaxed);
        quiet = if now == last { quiet + 1 } else { 0 };
        (last, seq) = (now, seq + 1);
        tokio::time::sleep(PAUSE).await;
    }
    let peak = node.peak_memory();
    let line = format!("| {kind} | {count} | {} | {} | {worst:.1?} | {worst_post:.1?} |", before / 1024, peak / 1024);
    println!("| kind | connections | MiB before | MiB at its peak | worst ack | worst POST |\n{line}");
    if let Some(path) = std::env::var_os("FOREBAY_MEMORY_RESULTS") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        writeln!(file.expect("the file of results"), "{line}").expect("the file of results can be written");
    }
    assert_eq!(group.as_ref().map_or(0, Group::kills), 0, "the kernel killed the node");
    assert!(peak < MEMORY << 10, "the node took {peak} KiB");
    drop(crowd);
    good.report("good", seq, "1").await;
    drop(node);
}

#[tokio::test]
async fn arrays_of_what_are_no_messages() {
    let text = format!("[1{}]", ",1".repeat(32 * 1024 - 2));
    endure("arrays of numbers", |node| node, |_| Hostile::frames(frame(&text), frame(&text), 1)).await;
    let text = array(|_| "{}".to_owned());
    endure("arrays of empty objects", |node| node, |_| Hostile::frames(frame(&text), frame(&text), 1)).await;
}

#[tokio::test]
async fn arrays_of_the_smallest_reports() {
    let text = array(|_| r#"{"op":"report","id":1}"#.to_owned());
    endure("arrays of reports", |node| node, |_| Hostile::frames(frame(&text), frame(&text), 1)).await;
}

#[tokio::test]
async fn single_messages_with_long_names() {
    let text = format!(r#"{{"op":"x","id":"{}","ref":"{}"}}"#, "\\u0061".repeat(40), "\\u0061".repeat(64));
    let some = frame(&text).repeat(100);
    endure("single messages", |node| node, |_| Hostile::frames(some.clone(), some.clone(), 20)).await;
}

#[tokio::test]
async fn frames_that_never_end() {
    let unfinished = |fin| {
        let mut bytes = header(fin, TEXT, true, 64 * 1024);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend(vec![b' '; 64 * 1024 - 1]);
        bytes
    };
    endure("frames without their last byte", |node| node, |_| Hostile::frames(unfinished(true), Vec::new(), 0)).await;
    let piece = |opcode| {
        let mut bytes = header(false, opcode, true, 1_000);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend(vec![b' '; 1_000]);
        bytes
    };
    endure(
        "messages without their last fragment",
        |node| node,
        |_| Hostile::frames(piece(TEXT), piece(CONTINUATION), 63),
    )
    .await;
}

#[tokio::test]
async fn requests_that_claim_much_and_send_little() {
    let idle = |sent: usize| move |_| Hostile::request("Content-Length: 8388608\r\n", vec![b' '; sent], Vec::new(), 0);
    endure("POSTs of 8 MiB that send nothing", |node| node, idle(0)).await;
    endure("POSTs of 8 MiB that stop at 200 KiB", |node| node, idle(200 * 1024)).await;
    let chunk = format!("{:x}\r\n{}\r\n", 4096, " ".repeat(4096)).into_bytes();
    let head = "Transfer-Encoding: chunked\r\n";
    endure("POSTs in chunks that never end", |node| node, |_| Hostile::request(head, Vec::new(), chunk.clone(), 100))
        .await;
}

#[tokio::test]
async fn requests_of_many_small_messages_whose_replies_nobody_reads() {
    let head = |bytes: usize| format!("Content-Type: application/x-ndjson\r\nContent-Length: {bytes}\r\n");
    let lines = "7\n".repeat(65_536).into_bytes();
    endure(
        "POSTs of lines that are no messages",
        |node| node,
        |_| Hostile::request(&head(lines.len()), lines.clone(), Vec::new(), 0),
    )
    .await;
    let lines = "{\"op\":\"report\",\"id\":1}\n".repeat(65_536).into_bytes();
    endure(
        "POSTs of the smallest reports",
        |node| node,
        |_| Hostile::request(&head(lines.len()), lines.clone(), Vec::new(), 0),
    )
    .await;
}

#[tokio::test]
async fn markers_that_the_sink_never_takes() {
    let text = array(|_| r#"{"op":"done","id":1}"#.to_owned());
    let away = |node: Node| node.set("sink.url", "mysql://nobody:none@127.0.0.1:1/none");
    endure("dones that wait", away, |_| Hostile::frames(frame(&text), frame(&text), 1)).await;
}

#[tokio::test]
async fn ids_without_end() {
    let arrays: Vec<Vec<u8>> = (0..hostile())
        .map(|number| {
            let arrays = (0..2).map(|of| frame(&array(|n| format!(r#"{{"op":"report","id":"{number}-{of}-{n}"}}"#))));
            arrays.collect::<Vec<_>>().concat()
        })
        .collect();
    endure("new ids", |node| node, |number| Hostile::frames(arrays[number].clone(), Vec::new(), 0)).await;
}
