//! What a node holds for clients is bounded by its settings, whatever they do: with the default settings it lives in
//! 512 MiB beside many hostile connections of a kind, and serves a good client all the while. What it took is printed,
//! and appended to the file that `FOREBAY_MEMORY_RESULTS` names.
//!
//! `FOREBAY_TEST_HOSTILE` sets how many connections there are of each kind (1,000 is the long form);
//! `FOREBAY_BINARY` names the node, where that is not the one that was built with the tests (a release build).

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::ids::ids_until_refused;
use crate::limits::DEAD;
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

/// A node in a control group, with the default limits and a good client.
struct Bench {
    node: Node,
    group: Option<Group>,
    good: Client,
    seq: u64,
}

/// How long the good client waited at most.
#[derive(Default)]
struct Worst {
    ack: Duration,
    post: Duration,
}

impl Bench {
    async fn start(change: impl FnOnce(Node) -> Node) -> Self {
        let group = Group::with_memory(MEMORY << 20);
        let mut node = change(Node::new());
        if let Some(group) = &group {
            let wrapper = group.wrapper();
            node.under(&wrapper.each_ref().map(String::as_str));
        }
        let node = node.start().await;
        let good = Client::connect(node.ingest()).await;
        let mut bench = Self { node, group, good, seq: 0 };
        bench.report(&mut Worst::default()).await;
        bench
    }

    /// A report each way, acknowledged.
    async fn report(&mut self, worst: &mut Worst) {
        let begun = Instant::now();
        self.good.report("good", self.seq, "1").await;
        worst.ack = worst.ack.max(begun.elapsed());
        let begun = Instant::now();
        let replies = self.node.post(report("posted", self.seq, "1")).await;
        assert_eq!(replies[0]["code"], 200, "{replies:?}");
        worst.post = worst.post.max(begun.elapsed());
        self.seq += 1;
    }

    /// Notes what a kind took, and that the node lives.
    fn note(&self, kind: &str, count: usize, before: u64, worst: &Worst) {
        let peak = self.node.peak_memory();
        let (ack, post) = (worst.ack, worst.post);
        let line = format!("| {kind} | {count} | {} | {} | {ack:.1?} | {post:.1?} |", before / 1024, peak / 1024);
        println!("| kind | connections | MiB before | MiB at its peak | worst ack | worst POST |\n{line}");
        if let Some(path) = std::env::var_os("FOREBAY_MEMORY_RESULTS") {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            writeln!(file.expect("the file of results"), "{line}").expect("the file of results can be written");
        }
        assert_eq!(self.group.as_ref().map_or(0, Group::kills), 0, "the kernel killed the node");
        assert!(peak < MEMORY << 10, "the node took {peak} KiB");
    }

    /// Runs a crowd of one kind beside the good client.
    async fn endure(&mut self, Kind { name, hostile: hostile_of }: &Kind) {
        let count = hostile();
        let (before, sent) = (self.node.memory(), Arc::<AtomicU64>::default());
        let mut crowd = JoinSet::new();
        for number in 0..count {
            crowd.spawn(Arc::new(hostile_of(number)).run(self.node.ingest(), Arc::clone(&sent)));
        }
        let (mut worst, mut quiet, mut last, mut reports) = (Worst::default(), 0, 0, 0);
        while quiet < QUIET || reports < REPORTS {
            self.report(&mut worst).await;
            let now = sent.load(Ordering::Relaxed);
            quiet = if now == last { quiet + 1 } else { 0 };
            (last, reports) = (now, reports + 1);
            tokio::time::sleep(PAUSE).await;
        }
        self.note(name, count, before, &worst);
        drop(crowd);
        self.report(&mut worst).await;
    }
}

/// What the hostile connections of a crowd do.
struct Kind {
    name: &'static str,
    hostile: Box<dyn Fn(usize) -> Hostile>,
}

impl Kind {
    fn new(name: &'static str, hostile: impl Fn(usize) -> Hostile + 'static) -> Self {
        Self { name, hostile: Box::new(hostile) }
    }

    /// One message in a frame, sent twice.
    fn messages(name: &'static str, text: &str) -> Self {
        let bytes = frame(text);
        Self::new(name, move |_| Hostile::frames(bytes.clone(), bytes.clone(), 1))
    }

    /// One request with a body of lines.
    fn lines(name: &'static str, lines: String) -> Self {
        let head = format!("Content-Type: application/x-ndjson\r\nContent-Length: {}\r\n", lines.len());
        Self::new(name, move |_| Hostile::request(&head, lines.clone().into_bytes(), Vec::new(), 0))
    }
}

async fn endure(kinds: impl IntoIterator<Item = Kind>) {
    for kind in kinds {
        Bench::start(|node| node).await.endure(&kind).await;
    }
}

fn arrays() -> [Kind; 3] {
    [
        Kind::messages("arrays of numbers", &format!("[1{}]", ",1".repeat(32 * 1024 - 2))),
        Kind::messages("arrays of empty objects", &array(|_| "{}".to_owned())),
        Kind::messages("arrays of reports", &array(|_| r#"{"op":"report","id":1}"#.to_owned())),
    ]
}

fn single_messages() -> Kind {
    let text = format!(r#"{{"op":"x","id":"{}","ref":"{}"}}"#, "\\u0061".repeat(40), "\\u0061".repeat(64));
    let some = frame(&text).repeat(100);
    Kind::new("single messages with long names", move |_| Hostile::frames(some.clone(), some.clone(), 20))
}

fn unfinished_frames() -> [Kind; 2] {
    let frame = |fin, opcode, claimed, sent| {
        let mut bytes = header(fin, opcode, true, claimed);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend(vec![b' '; sent]);
        bytes
    };
    let without_its_last = frame(true, TEXT, 64 * 1024, 64 * 1024 - 1);
    let (first, next) = (frame(false, TEXT, 1_000, 1_000), frame(false, CONTINUATION, 1_000, 1_000));
    [
        Kind::new("frames without their last byte", move |_| Hostile::frames(without_its_last.clone(), Vec::new(), 0)),
        Kind::new("messages without their last fragment", move |_| Hostile::frames(first.clone(), next.clone(), 63)),
    ]
}

fn unfinished_requests() -> [Kind; 3] {
    let idle = |sent: usize| move |_| Hostile::request("Content-Length: 8388608\r\n", vec![b' '; sent], Vec::new(), 0);
    let chunk = format!("{:x}\r\n{}\r\n", 4096, " ".repeat(4096)).into_bytes();
    [
        Kind::new("POSTs of 8 MiB that send nothing", idle(0)),
        Kind::new("POSTs of 8 MiB that stop at 200 KiB", idle(200 * 1024)),
        Kind::new("POSTs in chunks that never end", move |_| {
            Hostile::request("Transfer-Encoding: chunked\r\n", Vec::new(), chunk.clone(), 100)
        }),
    ]
}

fn requests_whose_replies_nobody_reads() -> [Kind; 2] {
    [
        Kind::lines("POSTs of lines that are no messages", "7\n".repeat(65_536)),
        Kind::lines("POSTs of the smallest reports", "{\"op\":\"report\",\"id\":1}\n".repeat(65_536)),
    ]
}

fn markers() -> Kind {
    Kind::messages("dones that wait", &array(|_| r#"{"op":"done","id":1}"#.to_owned()))
}

fn new_ids() -> Kind {
    Kind::new("new ids", |number| {
        let arrays = (0..2).map(|of| frame(&array(|n| format!(r#"{{"op":"report","id":"{number}-{of}-{n}"}}"#))));
        Hostile::frames(arrays.collect::<Vec<_>>().concat(), Vec::new(), 0)
    })
}

#[tokio::test]
async fn arrays_of_small_messages() {
    endure(arrays()).await;
}

/// With what glibc does on its own, a node kept several times what it used, until it was killed: `every_kind_in_turn_…`
/// with 1,000 connections of each kind.
#[tokio::test]
async fn a_node_has_the_allocator_give_back_what_is_free() {
    const BOUND: &str = "glibc.malloc.mmap_threshold=262144:glibc.malloc.trim_threshold=4194304";
    let tunables = async |given: Option<&str>| {
        let mut node = Node::new();
        let given = given.map(|given| format!("GLIBC_TUNABLES={given}"));
        node.under(&std::iter::once("env").chain(given.as_deref()).collect::<Vec<_>>());
        let node = node.start().await;
        let environment =
            std::fs::read_to_string(format!("/proc/{}/environ", node.pid())).expect("the process is there");
        // While glibc reads its variable it ends each setting in place.
        let (_, given) = environment.split_once("GLIBC_TUNABLES=")?;
        let settings = given.split('\0').take_while(|setting| setting.starts_with("glibc."));
        Some(settings.collect::<Vec<_>>().join(":"))
    };
    assert_eq!(tunables(None).await.as_deref(), Some(BOUND));
    // Whoever calls the loader by name gets a node, and not the loader again.
    let loader = "/lib64/ld-linux-x86-64.so.2";
    if std::path::Path::new(loader).exists() {
        let mut node = Node::new();
        node.under(&[loader]);
        node.start().await;
    } else {
        println!("NO LOADER AT {loader}: a node that is started through it is not tried");
    }
    let chosen = "glibc.malloc.arena_max=2";
    assert_eq!(tunables(Some(chosen)).await.as_deref(), Some(chosen));
}

#[tokio::test]
async fn single_messages_with_long_names() {
    endure([single_messages()]).await;
}

#[tokio::test]
async fn frames_that_never_end() {
    endure(unfinished_frames()).await;
}

#[tokio::test]
async fn requests_that_claim_much_and_send_little() {
    endure(unfinished_requests()).await;
}

#[tokio::test]
async fn requests_of_many_small_messages_whose_replies_nobody_reads() {
    endure(requests_whose_replies_nobody_reads()).await;
}

#[tokio::test]
async fn markers_that_the_sink_never_takes() {
    Bench::start(|node| node.set("sink.url", DEAD)).await.endure(&markers()).await;
}

#[tokio::test]
async fn ids_without_end() {
    // The good ones are known as long as they wait: with a sink they would be drained, and refused as new ones.
    Bench::start(|node| node.set("sink.url", DEAD)).await.endure(&new_ids()).await;
}

/// One node without its sink has them all, one kind after the other, and new ids last, of which it refuses what is too
/// many; and starts again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_in_turn_then_ids_until_they_are_refused_and_then_a_restart_in_the_same_memory() {
    let mut bench = Bench::start(|node| node.set("sink.url", DEAD)).await;
    for kind in arrays().iter().chain(&unfinished_frames()).chain(&unfinished_requests()) {
        bench.endure(kind).await;
    }
    for kind in requests_whose_replies_nobody_reads().iter().chain(&[single_messages(), markers(), new_ids()]) {
        bench.endure(kind).await;
    }
    let refusal = ids_until_refused(&bench.node, MEMORY << 8).await.1;
    assert_eq!(refusal["error"], "journal_full", "{refusal}");
    bench.node.kill();
    bench.node.restart().await;
    bench.good = Client::connect(bench.node.ingest()).await;
    let mut worst = Worst::default();
    bench.report(&mut worst).await;
    bench.note("the next start, with all that", 0, 0, &worst);
}
