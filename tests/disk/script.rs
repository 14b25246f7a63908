//! A fixed load: ids with and without numbers of their own, batches, entries near the size limit, a poison report,
//! markers, draining to empty, a stop and a kill.

use std::fmt;
use std::process::ExitStatus;

use crate::book::Book;
use crate::mount::Disk;
use crate::support::client::{Client, Incoming, report};
use crate::support::forge::Forged;
use crate::support::ledger::Sent;
use crate::support::node::Node;

/// The folder of a node on the disk.
pub const DATA: &str = "data";

/// The largest message that is taken.
pub const MAX_REPORT: &str = "96KiB";

/// Data that SQLite refuses and JSON allows: over 1,000 levels deep.
pub fn poison() -> String {
    format!("{}1{}", "[".repeat(1_100), "]".repeat(1_100))
}

/// The node ended, or is about to.
pub struct Ended {
    /// How it was noticed.
    pub how: String,
    /// Its exit, where that is known.
    pub status: Option<ExitStatus>,
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.how, self.status)
    }
}

impl Ended {
    fn noticed(how: impl ToString) -> Self {
        Self { how: how.to_string(), status: None }
    }
}

/// A node whose whole folder is on `disk`; not started.
pub fn node_on(disk: &Disk) -> Node {
    let data = disk.path().join(DATA);
    Node::new()
        .set("journal.dir", data.join("journal").display().to_string())
        .set("sink.url", format!("sqlite:{}", data.join("reports.db").display()))
        .set("journal.cache_bytes", "1MiB")
        // So little that most of the script's entries move on into runs.
        .set("journal.recent_bytes", "4KiB")
        .set("ingest.max_report_bytes", MAX_REPORT)
        .set("flush.tick", "1h")
}

/// One client that books what it does.
pub struct Talk {
    client: Client,
    book: Book,
}

impl Talk {
    /// Connects to the node.
    pub async fn with(node: &Node, book: &Book) -> Result<Self, Ended> {
        let client = Client::try_connect(node.ingest()).await.map_err(Ended::noticed)?;
        Ok(Self { client, book: book.clone() })
    }

    /// Sends these reports in one message, and books the replies.
    pub async fn report(&mut self, reports: &[Sent]) -> Result<(), Ended> {
        let texts: Vec<String> = reports.iter().map(|r| report(&r.id, r.seq, &r.data)).collect();
        reports.iter().for_each(|report| self.book.sent(report));
        let replies = match texts.as_slice() {
            [one] => vec![self.ask(one.clone()).await?],
            many => {
                let replies = self.ask(format!("[{}]", many.join(","))).await?;
                replies.as_array().expect("an array of replies").clone()
            }
        };
        reports.iter().zip(&replies).for_each(|(report, reply)| self.book.replied(report, reply));
        Ok(())
    }

    /// Sends an attacker's reports in one message, and books the replies.
    pub async fn attack(&mut self, forged: &[Forged]) -> Result<(), Ended> {
        forged.iter().for_each(|forged| self.book.sent(&forged.sent));
        let texts: Vec<&str> = forged.iter().map(|forged| forged.text.as_str()).collect();
        let replies = self.ask(format!("[{}]", texts.join(","))).await?;
        let replies = replies.as_array().expect("an array of replies").clone();
        forged.iter().zip(&replies).for_each(|(forged, reply)| self.book.replied(&forged.sent, reply));
        Ok(())
    }

    /// A done marker, and the event that all before it is in the sink.
    pub async fn done(&mut self, id: &str) -> Result<(), Ended> {
        let ack = self.ask(format!(r#"{{"op":"done","id":"{id}"}}"#)).await?;
        assert_eq!((&ack["op"], &ack["code"]), (&"ack".into(), &200.into()), "{ack}");
        let event = self.next().await?;
        assert_eq!((&event["op"], &event["code"]), (&"done".into(), &200.into()), "{event}");
        Ok(())
    }

    async fn ask(&mut self, text: String) -> Result<serde_json::Value, Ended> {
        self.client.send(text).await;
        self.next().await
    }

    async fn next(&mut self) -> Result<serde_json::Value, Ended> {
        match self.client.next().await {
            Incoming::Reply(reply) => Ok(reply),
            other => Err(Ended::noticed(format!("{other:?}"))),
        }
    }
}

/// A report that says what it is.
pub fn sent(id: &str, seq: impl Into<Option<u64>>, padding: usize) -> Sent {
    let seq = seq.into();
    let data = format!(r#"{{"id":"{id}", "n":{}, "padding":"{}"}}"#, seq.unwrap_or_default(), "x".repeat(padding));
    Sent { id: id.to_owned(), seq, data }
}

/// The whole load on a node that was not started yet, with a stop and a kill on the way; the node runs at the end.
/// `round` makes its reports others than those of another round.
pub async fn run(node: &mut Node, book: &Book, round: u64) -> Result<(), Ended> {
    let base = round * 1_000;
    start(node).await?;
    first(&mut Talk::with(node, book).await?, base).await?;
    // Drained to empty, and begun again: positions go on all the same.
    stop(node).await?;
    start(node).await?;
    second(&mut Talk::with(node, book).await?, base).await?;
    node.kill();
    start(node).await?;
    third(&mut Talk::with(node, book).await?, base).await
}

/// Starts the node, which may end on its own.
pub async fn start(node: &mut Node) -> Result<(), Ended> {
    if node.try_launch().await { Ok(()) } else { Err(Ended::noticed("it did not come to listen")) }
}

/// Lets the node drain and stop, which may fail.
pub async fn stop(node: &mut Node) -> Result<(), Ended> {
    let status = node.terminate().await;
    if status.success() { Ok(()) } else { Err(Ended { how: "it did not stop well".to_owned(), status: Some(status) }) }
}

async fn first(talk: &mut Talk, base: u64) -> Result<(), Ended> {
    for n in 0..12 {
        talk.report(&[sent(&format!("own-{}", n % 3), base + n, 100)]).await?;
    }
    for n in 0..4 {
        // Told apart by their padding: the node numbers them.
        talk.report(&[sent(&format!("free-{}", n % 2), None, (base + n) as usize)]).await?;
    }
    let many: Vec<Sent> = (0..24).map(|n| sent(&format!("many-{}", n % 6), base + n, 300)).collect();
    talk.report(&many).await?;
    for n in 0..4 {
        talk.report(&[sent("large", base + n, 60_000 + n as usize * 10_000)]).await?;
    }
    talk.done("own-0").await?;
    for n in 12..24 {
        talk.report(&[sent("own-1", base + n, 40)]).await?;
    }
    Ok(())
}

async fn second(talk: &mut Talk, base: u64) -> Result<(), Ended> {
    let dead = Sent { id: "poison".to_owned(), seq: Some(base), data: poison() };
    talk.report(&[sent("poison", base + 1, 0), dead, sent("poison", base + 2, 0)]).await?;
    talk.done("poison").await?;
    // Sent again, as by a client that missed the ack, and new ones.
    talk.report(&[sent("own-2", base + 2, 100), sent("own-2", base + 50, 100)]).await?;
    for n in 0..6 {
        talk.report(&[sent("large", base + 10 + n, 90_000), sent("own-0", base + 60 + n, 10)]).await?;
    }
    for n in 0..10 {
        talk.report(&[sent("own-1", base + 30 + n, 500)]).await?;
    }
    Ok(())
}

async fn third(talk: &mut Talk, base: u64) -> Result<(), Ended> {
    for n in 0..5 {
        let pair = [sent(&format!("late-{n}"), base + n, 20), sent("free-0", None, (base + 500 + n) as usize)];
        talk.report(&pair).await?;
    }
    talk.done("late-1").await?;
    talk.done("large").await?;
    for n in 0..12 {
        talk.report(&[sent("own-2", base + 70 + n, 200)]).await?;
    }
    Ok(())
}
