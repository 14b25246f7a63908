//! What a node makes of a disk image: it must start, drain, and satisfy the ledger.

use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay::config::{Settings, SinkTarget};
use forebay::service::Service;

use crate::script::{DATA, poison};
use crate::support::ledger::{Ledger, Verdict};
use crate::support::stored::{Form, Stored};
use crate::support::wait::PATIENCE;
use crate::tree::Tree;

/// A place for images, in memory where there is one.
pub struct Bench {
    folder: tempfile::TempDir,
    next: u64,
}

/// What became of one image.
pub struct Outcome {
    /// Ledger against sink.
    pub verdict: Verdict,
    /// Whether the journal's files had to be searched: nothing that a power cut may cause.
    pub salvaged: bool,
}

impl Bench {
    /// An empty one; dropped with all that is in it.
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = tempfile::Builder::new().prefix("forebay-images-").tempdir_in(place).expect("a folder for images");
        Self { folder, next: 0 }
    }

    /// Writes the image out, lets a node start on it and drain, and holds its sink against the ledger.
    ///
    /// # Errors
    /// Why the node did not start, or did not drain.
    pub async fn check(&mut self, image: &Tree, ledger: &Ledger) -> Result<Outcome, String> {
        let folder = self.folder.path().join(self.next.to_string());
        self.next += 1;
        image.write_to(&folder).expect("an image can be written");
        let outcome = drain(&folder.join(DATA), ledger).await;
        // What a file that is just being closed leaves behind is removed with the bench.
        let _ = std::fs::remove_dir_all(&folder);
        outcome
    }
}

/// Starts a service on a node's folder, lets it drain, stops it, and reads the sink.
pub async fn drain(data: &Path, ledger: &Ledger) -> Result<Outcome, String> {
    let file = data.join("reports.db");
    let mut settings = Settings::default();
    settings.journal.dir = data.join("journal");
    settings.journal.cache_bytes = 1 << 20;
    settings.journal.recent_bytes = 4 << 10;
    settings.flush.tick = Duration::from_millis(1);
    settings.sink.target = SinkTarget::Sqlite(file.clone());
    settings.shutdown.drain = PATIENCE;
    let since = std::time::Instant::now();
    let service = Service::open(&settings).await.map_err(|error| format!("the node does not start: {error}"))?;
    // The sink makes its tables when it is first used: at the start, whatever there is to drain.
    let stored = Stored::Sqlite(file.clone());
    while let Err(error) = stored.streams().await {
        if since.elapsed() > PATIENCE {
            return Err(format!("the sink is not there: {error}"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    service.shut_down().await.map_err(|error| format!("the node does not stop: {error}"))?;
    let audit = service.audit();
    if audit.backlog != 0 || !audit.balanced() {
        return Err(format!("it did not drain: {audit:?}"));
    }
    drop(service);
    Ok(Outcome { verdict: compare(ledger, file, audit.dead).await?, salvaged: was_salvaged(data) })
}

/// Holds the sink against the ledger. The poison of the script is a dead letter, not a row.
pub async fn compare(ledger: &Ledger, file: PathBuf, dead: u64) -> Result<Verdict, String> {
    let stored = Stored::Sqlite(file);
    let mut verdict = ledger.compare(Form::Bytes, &stored.rows().await?, &stored.streams().await?);
    let poisoned = verdict.lost.extract_if(.., |lost| lost.ends_with(&poison())).count() as u64;
    if poisoned > dead {
        verdict.lost.push(format!("{poisoned} poison reports were acknowledged, {dead} are dead letters"));
    }
    Ok(verdict)
}

/// Whether files of the journal were put aside as damaged.
pub fn was_salvaged(data: &Path) -> bool {
    let entries = std::fs::read_dir(data.join("journal")).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().contains("damaged"))
}
