//! The service within a program, without listeners: appends two reports and a `done`, waits until they are on disk, then
//! until they are rows of an SQLite file.
//!
//! ```sh
//! cargo run --example embed -- forebay-data
//! ```

use std::sync::Arc;

use anyhow::{Result, bail};
use bytes::Bytes;
use forebay::config::{Flags, Settings, Sources};
use forebay::journal::{Answer, Append, Content, Drained, Outlet, ReplyTo};
use forebay::report::{Draft, Id, Marker};
use forebay::service::Service;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::Instant;

/// Who waits for answers. The commit thread calls it, so it must not block.
struct Ears {
    answers: UnboundedSender<Answer>,
    drained: UnboundedSender<Drained>,
}

impl Outlet for Ears {
    fn answer(&self, answers: &mut dyn Iterator<Item = (u64, Answer)>, _at_once: bool) {
        for (_ticket, answer) in answers {
            // Nobody listens any more once the program ends.
            let _ = self.answers.send(answer);
        }
    }

    fn drained(&self, _ticket: u64, drained: Drained) {
        let _ = self.drained.send(drained);
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "forebay-data".to_owned());
    println!("{} rows of the id `embedded`", run(&folder).await?);
    Ok(())
}

/// Stores two reports in `folder`; the rows that their id has then.
///
/// # Errors
/// When the service cannot be opened or fails, or refuses an append.
pub async fn run(folder: &str) -> Result<u64> {
    let flags = Flags { data_dir: Some(folder.to_owned()), ..Flags::default() };
    let settings = Settings::load(&Sources { flags, ..Sources::default() })?;
    let service = Service::open(&settings).await?;

    let (answers, mut answered) = unbounded_channel();
    let (drained, mut are_drained) = unbounded_channel();
    let outlet: Arc<dyn Outlet> = Arc::new(Ears { answers, drained });
    let id = Id::new("embedded")?;
    let report = |data: &'static str| {
        let data = Some(Bytes::from_static(data.as_bytes()));
        Content::Report(Draft { seq: None, time: None, code: 0, peer: None, data })
    };
    let contents = [report(r#"{"n":1}"#), report(r#"{"n":2}"#), Content::Marker(Marker::Done)];
    let appends = contents.into_iter().enumerate().map(|(ticket, content)| {
        let reply_to = ReplyTo { outlet: Arc::clone(&outlet), ticket: ticket as u64, since: Instant::now() };
        Append { id, content, reply_to: Some(reply_to) }
    });
    // Waits while `ingest.max_queued_bytes` wait for their commit.
    let bytes = 1024;
    service.reserve(bytes).await;
    service.append(appends.collect(), bytes);

    for _ in 0..3 {
        match answered.recv().await {
            Some(Answer::Kept(ack)) => println!("on disk at position {}", ack.position().0),
            Some(Answer::Refused(refusal)) => bail!("refused: {refusal}"),
            None => bail!("the service has ended"),
        }
    }
    let Some(Drained { reports, .. }) = are_drained.recv().await else { bail!("the service has ended") };
    service.shut_down().await?;
    service.close()?;
    Ok(reports)
}
