//! Asks the node, once a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::super::client::{Client, Query};
use super::super::dead_letters::{self, Letter};
use super::super::status::{self, Status};
use super::super::streams::{self, Sort, Stream};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Ids and dead letters that are asked for: more than a terminal shows.
const IDS: u64 = 100;
const LETTERS: u64 = 10;

/// How a node stood at one instant.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When it answered.
    pub at: Instant,
    pub status: Status,
    pub streams: Vec<Stream>,
    pub letters: Vec<Letter>,
}

/// The last answer of each kind.
#[derive(Debug, Clone, Default)]
pub struct Polled {
    /// The last good one.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Why there was none since, for a person.
    pub error: Option<String>,
}

/// Asks for ever, at once where the order changes.
pub async fn poll(client: Client, mut sorts: watch::Receiver<Sort>, told: watch::Sender<Polled>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            changed = sorts.changed() => if changed.is_err() { return },
        }
        let sort = *sorts.borrow();
        let looked = look(&client, sort).await;
        told.send_modify(|polled| match looked {
            Ok(snapshot) => *polled = Polled { snapshot: Some(Arc::new(snapshot)), error: None },
            Err(error) => polled.error = Some(format!("{error:#}")),
        });
    }
}

async fn look(client: &Client, sort: Sort) -> anyhow::Result<Snapshot> {
    let (_, status) = status::ask(client).await?;
    let query = Query::default().with("sort", Some(sort.name()));
    let streams = client.first(streams::PATH, query, "streams", IDS).await?;
    let letters = match status.audit.dead {
        0 => Vec::new(),
        _ => client.first(dead_letters::PATH, Query::default(), "dead_letters", LETTERS).await?,
    };
    Ok(Snapshot { at: Instant::now(), status, streams, letters })
}
