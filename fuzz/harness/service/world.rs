//! One node after the other on the same journal and sink, and the clients and operators around them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::config::{Settings, SinkTarget};
use forebay::journal::{self, Answer, Drained, Outlet, ReplyTo};
use forebay::metrics::Audit;
use forebay::report::{Id, LetterKey, LetterKind};
use forebay::service::{OpenError, Service};
use forebay::sink::SinkError;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::PATIENCE;
use super::model::{Findings, Model, NODE, What};
use super::sink::Sink;
use super::steps::{Append, IDS, Numbered, Setup, Step};

/// Runs the steps, drains all, and gives what is wrong.
pub async fn run(home: &Path, setup: Setup, steps: &[Step]) -> Findings {
    let mut world = World::new(home, setup).await;
    for step in steps {
        world.perform(*step).await;
        if !world.model.findings.none() {
            break;
        }
    }
    world.end().await
}

struct World {
    home: PathBuf,
    setup: Setup,
    model: Model,
    /// None only between two: the lock on the journal goes with the last handle.
    node: Option<Node>,
    sink: Sink,
    refuses: bool,
    /// The last number of clients that was used for nothing else.
    seq: u64,
}

const RUNS: &str = "a node runs, but between two";

/// One life of the node, in a folder of its own.
struct Node {
    folder: PathBuf,
    service: Service,
    outlet: Arc<dyn Outlet>,
    said: mpsc::UnboundedReceiver<Said>,
    /// What the model had been told to be acknowledged when the node started.
    acknowledged: u64,
    /// Whether it drains before it stops.
    drains: bool,
}

/// What the node says to a client.
enum Said {
    Answer(u64, Answer),
    Drained(u64),
}

/// All clients.
struct Ear(mpsc::UnboundedSender<Said>);

impl Outlet for Ear {
    fn answer(&self, answers: &mut dyn Iterator<Item = (u64, Answer)>, _at_once: bool) {
        // A client that is gone hears nothing.
        answers.for_each(|(ticket, answer)| drop(self.0.send(Said::Answer(ticket, answer))));
    }

    fn drained(&self, ticket: u64, _: Drained) {
        let _ = self.0.send(Said::Drained(ticket));
    }
}

impl World {
    async fn new(home: &Path, setup: Setup) -> Self {
        let folder = home.join("0");
        std::fs::create_dir_all(&folder).expect("a new folder");
        let sink = Sink::make(&folder.join("reports.db"));
        let node = Some(Node::start(folder, setup, 0).await);
        let model = Model::default();
        Self { home: home.to_owned(), setup, model, node, sink, refuses: false, seq: 1_000 }
    }

    async fn perform(&mut self, step: Step) {
        match step {
            Step::Append(append) => self.append(append).await,
            Step::Mark { id, marker, waits, drains } => {
                let ticket = self.send(vec![(id, What::Marker(marker))]);
                if waits {
                    self.wait().await;
                }
                if drains && !self.model.is_refused(ticket) {
                    while !self.model.is_drained(ticket) {
                        self.hear_next().await;
                    }
                    self.look(false).await;
                }
            }
            Step::Wait => self.wait().await,
            Step::Breathe(times) => {
                for _ in 0..times {
                    tokio::task::yield_now().await;
                }
            }
            Step::Refuse(refuses) => {
                self.refuses = refuses;
                self.sink.refuse(refuses);
            }
            Step::Retry(place) => self.retry(place).await,
            Step::RetryAll => self.retry_all().await,
            Step::Discard(place) => self.discard(place).await,
            Step::Look => self.look(false).await,
            Step::Restart => self.restart().await,
            Step::Crash => self.crash().await,
        }
        self.hear();
        if !self.node().service.audit().balanced() {
            let fault = format!("the audit does not balance: {:?}", self.node().service.audit());
            self.model.findings.wrong.push(fault);
        }
    }

    async fn append(&mut self, append: Append) {
        let Append { id, spread, count, numbered, poison, large, waits } = append;
        let reports = (0..count).map(|n| {
            let seq = match numbered {
                Numbered::ByNode => None,
                Numbered::Anew => {
                    self.seq += 1;
                    Some(self.seq)
                }
                Numbered::From(first) => Some(first + n as u64),
            };
            let id = if spread { (id + n) % IDS } else { id };
            (id, What::Report { seq, poison: poison && n % 2 == 0, large })
        });
        let reports = reports.collect();
        self.send(reports);
        if waits {
            self.wait().await;
        }
    }

    /// Sends all in one array; gives the last one's ticket.
    fn send(&mut self, all: Vec<(usize, What)>) -> u64 {
        let node = self.node.as_ref().expect(RUNS);
        let mut last = 0;
        let append = |(id, what)| {
            let (ticket, content) = self.model.send(id, what);
            last = ticket;
            let reply_to =
                Some(ReplyTo { outlet: Arc::clone(&node.outlet), ticket, since: tokio::time::Instant::now() });
            journal::Append { id: Id::new(&id.to_string()).expect("a digit"), content, reply_to }
        };
        let appends = all.into_iter().map(append).collect();
        node.service.append(appends, 0);
        last
    }

    /// Hears what was said until now.
    fn hear(&mut self) {
        while let Ok(said) = self.node.as_mut().expect(RUNS).said.try_recv() {
            self.heard(said);
        }
    }

    /// Waits for the next thing to be said.
    async fn hear_next(&mut self) {
        let said = &mut self.node.as_mut().expect(RUNS).said;
        let said = timeout(PATIENCE, said.recv()).await.expect("the node hangs");
        self.heard(said.expect("the outlet is in the node"));
    }

    fn heard(&mut self, said: Said) {
        match said {
            Said::Answer(ticket, answer) => self.model.answered(ticket, &answer),
            Said::Drained(ticket) => self.model.drained(ticket),
        }
    }

    /// Waits until everything is answered.
    async fn wait(&mut self) {
        while self.model.is_open() {
            self.hear_next().await;
        }
    }

    /// Holds the sink and the dead letters against what was heard.
    async fn look(&mut self, all: bool) {
        self.hear();
        let stored = self.sink.stored();
        let letters = self.node().letters().await;
        self.model.judge(&stored, &letters, all);
    }

    async fn retry(&mut self, place: usize) {
        let letters = self.node().letters().await;
        if letters.is_empty() {
            return;
        }
        let letter = &letters[place % letters.len()];
        let key = letter.key();
        let retried = self.node().service.dead_letters().retry(key).await.expect("the sink is there");
        let went = (retried.stored + retried.duplicates, retried.refused);
        // Another report may have taken its key since.
        let is_taken = letter.kind == LetterKind::KeyTaken || retried.last_refusal.is_some_and(is_taken);
        if went != if self.refuses || is_taken { (0, 1) } else { (1, 0) } {
            self.model.findings.wrong.push(format!("{key} was tried again: {went:?}"));
        }
    }

    async fn retry_all(&mut self) {
        let retried = self.node().service.dead_letters().retry_all(None).await.expect("the sink is there");
        let left = self.node().letters().await;
        let taken = left.iter().filter(|letter| letter.kind == LetterKind::KeyTaken).count() as u64;
        if retried.refused > left.len() as u64 || !self.refuses && retried.refused > taken {
            self.model.findings.wrong.push(format!("all were tried again: {retried:?}, {left:?} are left"));
        }
    }

    async fn discard(&mut self, place: usize) {
        let letters = self.node().letters().await;
        if letters.is_empty() {
            return;
        }
        let letter = &letters[place % letters.len()];
        let is_gone = self.node().service.dead_letters().discard(letter.key()).await.expect("the journal is there");
        self.model.discarded(letter);
        if !is_gone {
            self.model.findings.wrong.push(format!("{} was not there to be discarded", letter.key()));
        }
    }

    /// Stops in order, and starts on the same folder.
    async fn restart(&mut self) {
        let drains = self.node().drains;
        let audit = self.stop().await;
        let folder = self.node().folder.clone();
        self.start(folder).await;
        let recovered = self.node().service.audit().recovered;
        let letters = self.node().letters().await.len() as u64;
        // A stop that does not wait may come between a dead letter and the settlement of its batch.
        let most = audit.backlog + if drains { audit.dead } else { letters };
        if recovered < audit.backlog + audit.dead || recovered > most {
            self.model.findings.wrong.push(format!("{audit:?} when it stopped, {recovered} recovered"));
        }
    }

    /// Stops in order; the audit at the end.
    async fn stop(&mut self) -> Audit {
        self.model.findings.faults += 1;
        let stopped = timeout(PATIENCE, self.node().service.shut_down()).await.expect("the node does not stop");
        stopped.expect("a sound journal");
        self.hear();
        let audit = self.node().service.audit();
        let acknowledged = self.model.findings.acknowledged - self.node().acknowledged;
        let drained = !self.node().drains || audit.backlog == 0;
        if !audit.balanced() || !drained || audit.accepted != acknowledged || self.model.is_open() {
            self.model.findings.wrong.push(format!("{audit:?} at the end, with {acknowledged} acknowledged"));
        }
        audit
    }

    async fn start(&mut self, folder: PathBuf) {
        self.node = None;
        self.model.node_is_gone();
        self.node = Some(Node::start(folder, self.setup, self.model.findings.acknowledged).await);
    }

    /// Ends the node as a kill does, and starts the next on what is left of it.
    async fn crash(&mut self) {
        self.model.findings.faults += 1;
        let folder = self.home.join(self.model.findings.faults.to_string());
        std::fs::create_dir_all(&folder).expect("a new folder");
        // Nothing that is said from here on is heard: the node died before it said it.
        self.hear();
        let audit = self.node().service.audit();
        let copy = || copy_journal(&self.node().folder.join("journal"), &folder.join("journal"));
        self.sink.copy_with(copy, &folder.join("reports.db"));
        self.sink = Sink::open(&folder.join("reports.db"));
        // Whatever the old node still does, it does to files that nobody will read.
        self.node().service.shut_down().await.expect("a sound journal");
        let old = self.node().folder.clone();
        self.start(folder).await;
        // Something of the old node may still be closing its files; they go with the case's folder.
        let _ = std::fs::remove_dir_all(old);
        let recovered = self.node().service.audit().recovered;
        if recovered < audit.backlog + audit.dead {
            self.model.findings.wrong.push(format!("{audit:?} when it died, {recovered} recovered"));
        }
    }

    /// Drains all, and judges.
    async fn end(mut self) -> Findings {
        self.setup.drains = true;
        if !self.node().drains {
            self.restart().await;
        }
        let audit = self.stop().await;
        self.look(true).await;
        let letters = self.node().letters().await.len() as u64;
        if audit.dead != letters {
            self.model.findings.wrong.push(format!("{letters} dead letters, {audit:?}"));
        }
        self.model.findings
    }

    fn node(&self) -> &Node {
        self.node.as_ref().expect(RUNS)
    }
}

impl Node {
    async fn start(folder: PathBuf, setup: Setup, acknowledged: u64) -> Self {
        let mut settings = Settings { node_id: NODE, ..Settings::default() };
        settings.journal.dir = folder.join("journal");
        settings.journal.lanes = setup.lanes;
        settings.journal.cache_bytes = 1 << 20;
        settings.journal.recent_bytes = 1 << 10;
        settings.journal.max_backlog_per_id = setup.max_backlog;
        settings.journal.min_free_disk = 0;
        settings.flush.batch = setup.batch;
        settings.flush.tick = Duration::from_secs(3_600);
        settings.sink.max_rows = setup.max_rows;
        settings.sink.target = SinkTarget::Sqlite(folder.join("reports.db"));
        settings.shutdown.drain = if setup.drains { PATIENCE } else { Duration::ZERO };
        let since = Instant::now();
        let service = loop {
            match Service::open(&settings).await {
                // Threads of sled's own may hold the files of the node before for a moment more.
                Err(OpenError::Journal(journal::JournalError::InUse { .. })) if since.elapsed() < PATIENCE => {
                    tokio::task::yield_now().await;
                }
                opened => break opened.expect("a journal that was left by a node opens"),
            }
        };
        let (tell, said) = mpsc::unbounded_channel();
        Self { folder, service, outlet: Arc::new(Ear(tell)), said, acknowledged, drains: setup.drains }
    }

    async fn letters(&self) -> Vec<journal::DeadLetter> {
        self.service.dead_letters().list(None, None, None, usize::MAX).await.expect("a sound journal")
    }
}

/// Whether a letter was refused because of what has its key.
fn is_taken((_, error): (LetterKey, SinkError)) -> bool {
    error.code.is_none()
}

/// Copies the journal: bundles before the runs that they may move into, its log last. See the head of `mod.rs`.
pub fn copy_journal(from: &Path, to: &Path) {
    const ORDER: [&str; 4] = ["synced", "recent", "runs", "db"];
    let mut names = names(from);
    let rank = |name: &String| ORDER.iter().position(|first| first == name).unwrap_or(2);
    names.sort_by_key(rank);
    std::fs::create_dir_all(to).expect("a new folder");
    for name in names {
        let (path, copy) = (from.join(&name), to.join(&name));
        if !path.is_dir() {
            std::fs::copy(&path, &copy).expect("a file of the journal is copied");
        } else {
            while copy_folder(&path, &copy).is_none() {
                // What counts was changed meanwhile: some of its files are of one instant, some of another.
                std::fs::remove_dir_all(&copy).expect("it was just made");
            }
        }
    }
}

/// Copies the files of a folder; none where they are not of one instant, as its manifest says.
fn copy_folder(from: &Path, to: &Path) -> Option<()> {
    let manifest = || std::fs::read(from.join("manifest")).unwrap_or_default();
    let before = manifest();
    std::fs::create_dir_all(to).expect("a new folder");
    for name in names(from) {
        // What does not count any more is gone meanwhile.
        std::fs::copy(from.join(&name), to.join(&name)).ok()?;
    }
    (manifest() == before).then_some(())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder of the journal");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("our own names")).collect()
}
