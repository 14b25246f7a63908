//! `forebay journal`: look into a journal that no node has open.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Seek as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, anyhow};
use forebay::admin::DamagedView;
use forebay::journal::offline::{Examined, examine};
use forebay::journal::{DeadLetter, Value};
use forebay::report::{Body, Id, Report};
use rustix::fs::{FileType, fstat};
use serde::Serialize;
use serde_json::value::RawValue;

use super::text::json_line;
use super::{Failure, print};

/// Flags of `forebay journal`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Say what of a journal is whole and what is damaged; exits with 1 where anything is.
    Check {
        /// The journal's folder (journal.dir).
        dir: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write every readable report, dead letters among them, as NDJSON to standard output.
    Export {
        /// The journal's folder (journal.dir).
        dir: PathBuf,
    },
}

/// Runs the command.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Check { dir, json } => check(&dir, json),
        Command::Export { dir } => export(&dir),
    }
}

/// What a journal holds.
#[derive(Debug, Default, Serialize)]
struct Summary {
    whole: bool,
    reports: u64,
    markers: u64,
    streams: usize,
    dead_letters: u64,
    paused: usize,
    /// Whether reports that were drained already may be among these: where damaged files are searched.
    may_have_drained: bool,
    holes: Vec<String>,
    damaged: Vec<String>,
    set_aside: Vec<DamagedView>,
}

fn check(dir: &Path, json: bool) -> Result<(), Failure> {
    let mut summary = Summary::default();
    let mut ids: HashSet<Id> = HashSet::new();
    let examined = examine(dir, |value| {
        match value {
            Value::Entry(entry) => {
                summary.reports += entry.reports();
                summary.markers += entry.records.len() as u64 - entry.reports();
                ids.insert(entry.id);
            }
            Value::DeadLetter(_) => summary.dead_letters += 1,
        }
        Ok(())
    });
    let Examined { holes, unreadable, damaged, set_aside, paused } =
        &examined.context("the journal was not checked")?;
    summary.streams = ids.len();
    summary.paused = *paused;
    summary.holes = holes.iter().map(ToString::to_string).chain(unreadable.clone()).collect();
    summary.may_have_drained = !summary.holes.is_empty();
    summary.damaged = damaged.iter().map(|(name, damage)| format!("{name}: {damage}")).collect();
    summary.set_aside = set_aside.iter().cloned().map(DamagedView::of).collect();
    summary.whole = summary.holes.is_empty() && summary.damaged.is_empty();
    if json {
        print(&format!("{}\n", serde_json::to_string(&summary).context("a summary is JSON")?))?;
    } else {
        print(&summary.for_people())?;
    }
    if summary.whole {
        return Ok(());
    }
    let what = "the journal is damaged; the next start goes on with what is whole and keeps the rest aside";
    Err(Failure::Other(anyhow!(what)))
}

impl Summary {
    fn for_people(&self) -> String {
        let mut text = String::new();
        let Self { reports, markers, streams, dead_letters, paused, holes, damaged, set_aside, .. } = self;
        let mut line = |what: std::fmt::Arguments<'_>| writeln!(text, "{what}").expect("a text can grow");
        line(format_args!("{reports} reports and {markers} markers of {streams} ids, {dead_letters} dead letters"));
        if *paused > 0 {
            line(format_args!("{paused} paused ids"));
        }
        if self.may_have_drained {
            line(format_args!("found in the bytes of the files; some may have been drained already"));
        }
        holes.iter().for_each(|hole| line(format_args!("damaged: {hole}")));
        damaged.iter().for_each(|entry| line(format_args!("damaged: {entry}")));
        set_aside.iter().for_each(|aside| line(format_args!("set aside earlier: {aside}")));
        if self.whole {
            line(format_args!("all of it is whole"));
        }
        text
    }
}

/// A line of an export.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    source: u16,
    seq: u64,
    /// The journal's own number; none for a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    /// Seconds.
    time: Option<f64>,
    code: i32,
    peer: Option<IpAddr>,
    accepted_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<u32>,
    /// As it was sent.
    data: Option<&'a RawValue>,
}

fn export(dir: &Path) -> Result<(), Failure> {
    let mut out = Exported::new().context("cannot make a temporary file; TMPDIR says where")?;
    let mut wrote = Ok(());
    let examined = examine(dir, |value| {
        if wrote.is_ok() {
            wrote = write_value(&mut out, &value);
        }
        Ok(())
    });
    // From here on the journal may be opened by a node again.
    let examined = examined.context("the journal was not exported")?;
    match wrote.and_then(|()| out.finish()) {
        // A reader that went away, such as `head`, is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(Failure::Other(anyhow::Error::new(error).context("cannot write to standard output")));
        }
        _ => {}
    }
    if examined.is_whole() {
        return Ok(());
    }
    let note = if examined.is_searched() { "; reports that were drained already may be among them" } else { "" };
    Err(Failure::Other(anyhow!("the journal is damaged, only what is whole was exported{note} (see `journal check`)")))
}

/// Where lines go until the journal is let go of: who reads them slowly must not keep a node from it.
enum Exported {
    /// Standard output is a file, which is never slow.
    Direct(BufWriter<io::StdoutLock<'static>>),
    /// A file without a name.
    Kept(BufWriter<File>),
}

impl Exported {
    fn new() -> io::Result<Self> {
        let is_file = FileType::from_raw_mode(fstat(io::stdout())?.st_mode).is_file();
        if is_file || cfg!(forebay_plant = "export_under_lock") {
            return Ok(Self::Direct(BufWriter::new(io::stdout().lock())));
        }
        let path = std::env::temp_dir().join(format!("forebay-export-{}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(Self::Kept(BufWriter::new(file)))
    }

    /// Gives all of it to standard output.
    fn finish(self) -> io::Result<()> {
        match self {
            Self::Direct(mut out) => out.flush(),
            Self::Kept(kept) => {
                let mut kept = kept.into_inner().map_err(io::IntoInnerError::into_error)?;
                kept.rewind()?;
                io::copy(&mut kept, &mut io::stdout().lock()).map(drop)
            }
        }
    }
}

impl io::Write for Exported {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Direct(out) => out.write(bytes),
            Self::Kept(kept) => kept.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_value(out: &mut impl io::Write, value: &Value) -> io::Result<()> {
    match value {
        Value::Entry(entry) => entry.records.iter().try_for_each(|record| match &record.body {
            Body::Report(report) => {
                write_line(out, Line { position: Some(record.position.0), ..line(&entry.id, report) })
            }
            Body::Marker(..) => Ok(()),
        }),
        Value::DeadLetter(DeadLetter { id, report, code, reason, .. }) => {
            write_line(out, Line { reason: Some(reason), error_code: *code, ..line(id, report) })
        }
    }
}

fn line<'a>(id: &'a Id, report: &'a Report) -> Line<'a> {
    let data = report.data.as_deref().and_then(|data| serde_json::from_slice(data).ok());
    let accepted_at = UNIX_EPOCH + Duration::from_micros(report.accepted_at);
    Line {
        id: id.as_str(),
        source: report.number.source,
        seq: report.number.seq,
        position: None,
        time: report.time.map(|micros| micros as f64 / 1e6),
        code: report.code,
        peer: report.peer,
        accepted_at: humantime::format_rfc3339_micros(accepted_at).to_string(),
        reason: None,
        error_code: None,
        data,
    }
}

fn write_line(out: &mut impl io::Write, line: Line<'_>) -> io::Result<()> {
    // The data is as it was sent, line ends between its parts too.
    let json = serde_json::to_string(&line)?;
    writeln!(out, "{}", json_line(&json))
}
