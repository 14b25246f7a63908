//! One node writes as a `node_id` at a time: the claim, and what becomes of it when processes, journals and copies
//! change.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use forebay::report::{Batch, JournalId, Owner, Position};
use forebay::sink::{AnySink, Claim, Claimant, Connection, Sink, SinkError, SinkState, Writer};
use mysql_async::prelude::Queryable;

use super::sinks::{Rig, batch, report};
use super::support::servers::{Kind, Server, on_each_server};
use super::{Class, outcome};

/// What is in a journal's folder.
struct Folder {
    id: u64,
    starts: u64,
    claims: Arc<Mutex<[u64; 2]>>,
}

impl Folder {
    fn new(id: u64) -> Self {
        Self { id, starts: 0, claims: Arc::default() }
    }

    /// As it is on disk now.
    fn copy(&self) -> Self {
        Self { claims: Arc::new(Mutex::new(*self.claims.lock().expect("no panics"))), ..*self }
    }
}

/// A journal that is open.
struct Opened {
    owner: Owner,
    claims: Arc<Mutex<[u64; 2]>>,
    renewed: Arc<AtomicU64>,
}

impl Claimant for Opened {
    fn claims(&self) -> Option<[u64; 2]> {
        Some(*self.claims.lock().expect("no panics"))
    }

    fn note(&self, found: u64) -> Result<[u64; 2], String> {
        let claims = [found, self.owner.nonce];
        *self.claims.lock().expect("no panics") = claims;
        Ok(claims)
    }

    fn renew(&self) -> Result<Owner, String> {
        let times = self.renewed.fetch_add(1, Ordering::Relaxed) + 1;
        *self.claims.lock().expect("no panics") = [0, 0];
        Ok(Owner { journal: JournalId(u64::MAX - self.owner.nonce % 1_000_003 - times), ..self.owner })
    }
}

/// A process that has a journal open.
struct Process {
    sink: Arc<AnySink>,
    /// How often the journal got a new id.
    renewed: Arc<AtomicU64>,
}

/// Starts a process on a folder: the start is counted first.
fn start(rig: &Rig, folder: &mut Folder) -> Process {
    static NONCE: AtomicU64 = AtomicU64::new(u64::MAX / 2);
    folder.starts += 1;
    let nonce = NONCE.fetch_add(1 << 32, Ordering::Relaxed);
    let owner = Owner { node_id: 1, journal: JournalId(folder.id), start: folder.starts, nonce };
    let renewed = Arc::new(AtomicU64::new(0));
    let journal = Opened { owner, claims: Arc::clone(&folder.claims), renewed: Arc::clone(&renewed) };
    let sink = rig.sink();
    sink.claim(Claim::new(owner, Box::new(journal)));
    Process { sink: Arc::new(sink), renewed }
}

impl Process {
    /// Stores one report over a connection of its own.
    async fn stores(&self, seq: u64) -> Result<(), SinkError> {
        let mut connection = self.sink.connect().await?;
        match connection.store(&[batch("a", vec![report(seq, seq)])]).await {
            Ok(_) => Ok(()),
            Err(error) => panic!("a connection that was made stores: {error}"),
        }
    }

    async fn is_blocked(&self) -> String {
        // A file that is open already is looked at when it is used.
        let refused = match self.sink.connect().await {
            Ok(mut connection) => connection.probe().await,
            Err(error) => Err(error),
        };
        let error = refused.expect_err("it does not write");
        assert_eq!(error.class, Class::Operator, "{error}");
        error.message
    }

    fn writer(&self, rig: &Rig) -> Writer<AnySink> {
        Writer::new(Arc::clone(&self.sink), Arc::clone(&rig.health))
    }
}

on_each_sink! {
    async fn a_process_that_starts_again_takes_over_at_once(rig) {
        let mut folder = Folder::new(7);
        for seq in 1..=3 {
            let process = start(&rig, &mut folder);
            process.stores(seq).await.expect("its own journal");
            process.stores(seq + 10).await.expect("it holds the claim");
            assert_eq!(process.renewed.load(Ordering::Relaxed), 0);
        }
        assert_eq!(rig.rows("a").await.len(), 6);
    }

    /// The default `node_id` is 1, for each of them.
    async fn a_second_node_of_one_node_id_is_blocked_until_the_row_is_deleted(rig) {
        let (first, second) =
            (start(&rig, &mut Folder::new(7)), start(&rig, &mut Folder::new(8)));
        first.stores(1).await.expect("nobody has it");
        let said = second.is_blocked().await;
        for part in ["node_id 1", "0000000000000007", "node_id of its own", "DELETE FROM report_nodes WHERE node_id = 1"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let mut writer = second.writer(&rig);
        let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(2, 2)])]).await });
        rig.health.until(|status| status.state == SinkState::Blocked).await;
        first.stores(3).await.expect("the first goes on");
        let (_, delete) = said.rsplit_once("run ").expect("the statement is last");
        run(&rig, delete).await;
        assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
        assert!(first.is_blocked().await.contains("0000000000000008"));
    }

    /// A claim that somebody removed while its holder runs is the holder's again.
    async fn a_row_that_was_deleted_under_its_holder_is_made_again(rig) {
        let process = start(&rig, &mut Folder::new(7));
        let mut writer = process.writer(&rig);
        assert_eq!(writer.store(&[batch("a", vec![report(1, 1)])]).await, [outcome(1, 0, None)]);
        run(&rig, "DELETE FROM report_nodes").await;
        assert_eq!(writer.store(&[batch("a", vec![report(2, 2)])]).await, [outcome(1, 0, None)]);
        assert_eq!(rig.health.status().state, SinkState::Up);
    }

    /// The copy is started beside the original: it is a later start of one journal, for all that can be known.
    async fn a_copy_that_is_started_beside_its_original_blocks_that_one(rig) {
        let mut folder = Folder::new(7);
        let original = start(&rig, &mut folder);
        original.stores(1).await.expect("nobody has it");
        let mut copied = folder.copy();
        let copy = start(&rig, &mut copied);
        copy.stores(2).await.expect("a later start");
        let said = original.is_blocked().await;
        assert!(said.contains("a copy of this node's journal") && said.contains("start 2"), "{said}");
        copy.stores(3).await.expect("it holds the claim");
        // Started again, the original is the one that is a copy.
        let original = start(&rig, &mut folder);
        original.stores(4).await.expect("it has a new id");
        assert_eq!(original.renewed.load(Ordering::Relaxed), 1);
        copy.is_blocked().await;
    }

    async fn a_copy_that_is_started_before_its_original_is_known_by_its_number(rig) {
        let mut one = Folder::new(7);
        let mut other = one.copy();
        let copy = start(&rig, &mut one);
        copy.stores(1).await.expect("nobody has it");
        let original = start(&rig, &mut other);
        original.stores(2).await.expect("it gets a new id, and takes over");
        assert_eq!((copy.renewed.load(Ordering::Relaxed), original.renewed.load(Ordering::Relaxed)), (0, 1));
        copy.is_blocked().await;
    }

    /// What the copy has stored says nothing of what the original took meanwhile.
    async fn an_original_that_comes_back_after_its_copy_counts_nothing_of_its_own_as_stored(rig) {
        for (first, is_deleted) in [(1, false), (11, true)] {
            let mut folder = Folder::new(7);
            let original = start(&rig, &mut folder);
            original.stores(first).await.expect("nobody has it");
            let mut copied = folder.copy();
            start(&rig, &mut copied).stores(first + 1).await.expect("a later start");
            original.is_blocked().await;
            // Killed, and at its next start it does not reach the sink: the one after that is later than its copy's.
            start(&rig, &mut folder);
            if is_deleted {
                run(&rig, "DELETE FROM report_nodes").await;
            }
            let original = start(&rig, &mut folder);
            original.stores(first + 2).await.expect("it gets a new id, and takes over");
            assert_eq!(original.renewed.load(Ordering::Relaxed), 1, "is the row deleted: {is_deleted}");
            run(&rig, "DELETE FROM report_nodes").await;
        }
    }

    async fn a_journal_that_was_restored_from_an_older_state_gets_a_new_id(rig) {
        let mut folder = Folder::new(7);
        let mut backup = folder.copy();
        for seq in 1..=3 {
            start(&rig, &mut folder).stores(seq).await.expect("its own journal");
        }
        let restored = start(&rig, &mut backup);
        restored.stores(4).await.expect("it gets a new id, and takes over");
        assert_eq!(restored.renewed.load(Ordering::Relaxed), 1);
        restored.stores(5).await.expect("it holds the claim");
        assert_eq!(restored.renewed.load(Ordering::Relaxed), 1);
    }

    async fn many_connections_of_a_process_have_one_claim(rig) {
        let process = start(&rig, &mut Folder::new(7));
        let (a, b, c, d) = tokio::join!(process.stores(1), process.stores(2), process.stores(3), process.stores(4));
        for stored in [a, b, c, d] {
            stored.expect("the claim is the process's");
        }
    }

    /// A connection that was open when the claim was taken over stores nothing more.
    async fn a_connection_that_was_open_before_stores_nothing_once_another_has_the_claim(rig) {
        let process = start(&rig, &mut Folder::new(7));
        process.stores(1).await.expect("nobody has it");
        let mut connection = process.sink.connect().await.expect("the claim is held");
        run(&rig, "UPDATE report_nodes SET journal = '9', start = '1', nonce = '1'").await;
        for batches in [vec![report(2, 2)], vec![report(1, 1)], vec![report(2, 2), report(1, 1)]] {
            let tried = Batch { tried_through: Position(u64::MAX), ..batch("a", batches) };
            let error = connection.store(&[tried]).await.expect_err("it is another's");
            assert!(error.to_string().contains("0000000000000009"), "{error}");
            connection = match process.sink.connect().await {
                Ok(_) => panic!("it is another's"),
                Err(_) => {
                    run(&rig, "DELETE FROM report_nodes").await;
                    let connection = process.sink.connect().await.expect("nobody has it");
                    run(&rig, "UPDATE report_nodes SET journal = '9', start = '1', nonce = '1'").await;
                    connection
                }
            };
        }
        assert_eq!(rig.rows("a").await.len(), 1);
        assert_eq!(rig.stream("a").await.map(|stream| stream.1), Some(1));
    }
}

async fn run(rig: &Rig, statement: &str) {
    match &rig.server {
        Some(server) => server.run(&[statement]).await,
        None => rig.file().execute_batch(statement).expect("the statement is right"),
    }
}

/// The claim is waited for: what its holder stores is committed before, or not at all.
async fn a_transaction_that_is_under_way_is_ended_before_another_takes_its_claim(kind: Kind) {
    let rig = Rig::start(kind).await;
    let mut folder = Folder::new(7);
    let first = start(&rig, &mut folder);
    first.stores(1).await.expect("nobody has it");
    let server = rig.server.as_ref().expect("a server");
    // As the first's transaction holds the row until its commit.
    let mut holder = server.conn().await;
    for hold in ["BEGIN", "SELECT 1 FROM report_nodes WHERE node_id = 1 LOCK IN SHARE MODE"] {
        holder.query_drop(hold).await.expect("the row is there");
    }
    let second = start(&rig, &mut folder);
    let mut writer = second.writer(&rig);
    // A later start of a journal has later positions.
    let store = tokio::spawn(async move { writer.store(&[batch("a", vec![report(20, 2)])]).await });
    rig.health.until(|status| status.state == SinkState::Down).await;
    first.stores(3).await.expect("the claim is the first's still");
    holder.query_drop("COMMIT").await.expect("commits");
    assert_eq!(store.await.expect("no panic"), [outcome(1, 0, None)]);
    first.is_blocked().await;
}
on_each_server!(a_transaction_that_is_under_way_is_ended_before_another_takes_its_claim);

/// The guard makes a packet longer: near the server's limit it goes ahead alone.
async fn transactions_around_the_packet_limit_are_stored_behind_their_guard(kind: Kind) {
    let server = Server::start_with(kind, &["--max-allowed-packet=16384"]).await;
    let rig = Rig::of(server);
    let process = start(&rig, &mut Folder::new(7));
    let mut writer = process.writer(&rig);
    for ids in 115..=150 {
        // Each id is about 100 bytes in the statement of the streams.
        let batches: Vec<_> = (0..ids).map(|n| batch(&format!("{:a<50}-{ids}-{n}", ""), vec![report(1, 1)])).collect();
        assert!(writer.store(&batches).await.iter().all(|stored| *stored == outcome(1, 0, None)), "{ids}");
    }
    assert_eq!(rig.health.outages(), 0);
}
on_each_server!(transactions_around_the_packet_limit_are_stored_behind_their_guard);
