//! `forebay streams`.

use std::collections::HashSet;

use forebay::report::Id;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{self, Paged, Query};
use super::text::{Column, Table, age, number, shown, size};
use super::{Failure, finish, print_json, write_out};

/// Where the admin API has them.
pub const PATH: &str = "/api/v1/streams";

/// Ids that a table shows unless asked for more.
const SHOWN: u64 = 100;

/// Ids that a list may have whose order changes: they are kept in memory, about 100 bytes each.
const MAX_KNOWN: usize = 1_000_000;

/// Flags of `forebay streams`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    client: client::Arguments,
    /// What comes first: the largest backlog, the oldest report, or by id.
    #[arg(long, value_enum, default_value_t = Sort::Backlog)]
    sort: Sort,
    /// How many; 100 in a table, all with --json.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Only ids that begin so.
    #[arg(long, value_name = "TEXT", value_parser = Id::new)]
    prefix: Option<Id>,
    /// Print the JSON of the admin API, an id a line.
    #[arg(long)]
    json: bool,
}

/// The order of a list.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// The largest backlog first.
    Backlog,
    /// The oldest report first.
    Oldest,
    /// By id.
    Id,
}

impl Sort {
    /// As the API has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backlog => "backlog",
            Self::Oldest => "oldest",
            Self::Id => "id",
        }
    }
}

/// An id with backlog, or one that is paused, as the admin API has it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Stream {
    pub id: String,
    pub state: String,
    pub backlog: u64,
    pub markers: u64,
    pub bytes: u64,
    pub oldest_age_s: Option<f64>,
    pub last_batch: Option<LastBatch>,
    pub last_error: Option<LastError>,
    pub next_attempt_s: Option<f64>,
    pub paused: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LastBatch {
    pub at: String,
    pub reports: u64,
    pub stored: u64,
    pub duplicates: u64,
    pub dead: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LastError {
    pub at: String,
    pub message: String,
    pub code: Option<u32>,
}

/// Prints the ids that have backlog.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { client, sort, limit, prefix, json } = arguments;
    let client = client.client()?;
    let query = Query::default().with("sort", Some(sort.name())).with("prefix", prefix.as_ref().map(Id::as_str));
    finish(client::block_on(async {
        let mut known = Known::of(sort);
        if json {
            let print = |stream: &RawValue| match known.is_new(client.read::<Named>(stream.get())?.id)? {
                true => print_json(stream.get()),
                false => Ok(()),
            };
            client.list(PATH, query, "streams", limit, print).await?;
            return Ok(());
        }
        let mut table = table();
        let take = |stream: &RawValue| {
            let stream: Stream = client.read(stream.get())?;
            if known.is_new(stream.id.clone())? {
                table.row(stream.cells());
            }
            Ok(())
        };
        let listed = client.list(PATH, query, "streams", Some(limit.unwrap_or(SHOWN)), take).await?;
        let listed = Paged { count: listed.count - known.repeats, ..listed };
        if listed.count == 0 {
            return write_out(b"no id has backlog\n");
        }
        write_out(format!("{table}{}\n", listed.footer("id")).as_bytes())
    }))
}

/// The name alone.
#[derive(Deserialize)]
struct Named {
    id: String,
}

/// The ids that were shown: one whose place in the order changes may be on a later page again.
struct Known {
    /// None where no place ever changes.
    ids: Option<HashSet<String>>,
    /// How often one came again.
    repeats: u64,
}

impl Known {
    fn of(sort: Sort) -> Self {
        Self { ids: (sort != Sort::Id).then(HashSet::new), repeats: 0 }
    }

    /// Whether it was not shown yet.
    ///
    /// # Errors
    /// Past [`MAX_KNOWN`].
    fn is_new(&mut self, id: String) -> anyhow::Result<bool> {
        let Some(known) = &mut self.ids else { return Ok(true) };
        anyhow::ensure!(
            known.len() < MAX_KNOWN || known.contains(&id),
            "there are more than {} ids, which only --sort id can list",
            number(MAX_KNOWN as u64)
        );
        let is_new = known.insert(id);
        self.repeats += u64::from(!is_new);
        Ok(is_new)
    }
}

fn table() -> Table {
    use Column::{Left, Right};
    let numbers = [Right("BACKLOG"), Right("MARKERS"), Right("SIZE"), Right("OLDEST"), Right("NEXT")];
    Table::new(&[&[Left("ID"), Left("STATE")][..], &numbers, &[Left("LAST ERROR")]].concat())
}

impl Stream {
    /// The cells of [`table`].
    fn cells(&self) -> Vec<String> {
        let Self { id, state, backlog, markers, bytes, oldest_age_s, next_attempt_s, .. } = self;
        let span = |seconds: &Option<f64>| seconds.map_or_else(|| "-".to_owned(), age);
        vec![
            shown(id),
            shown(state),
            number(*backlog),
            number(*markers),
            size(*bytes),
            span(oldest_age_s),
            span(next_attempt_s),
            self.error(),
        ]
    }

    /// The last error, fit to be shown.
    pub fn error(&self) -> String {
        let code = |error: &LastError| error.code.map_or(String::new(), |code| format!(" ({code})"));
        self.last_error.as_ref().map_or(String::new(), |error| format!("{}{}", shown(&error.message), code(error)))
    }
}
