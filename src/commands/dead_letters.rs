//! `forebay dead-letters`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, anyhow};
use forebay::report::{Id, LetterKey, LetterKind};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{self, AskError, Client, Query};
use super::text::{Column, Table, counted, number, shown, since, size};
use super::{Failure, finish, print_json, write_out};

/// Where the admin API has them.
pub const PATH: &str = "/api/v1/dead-letters";

/// Letters that a table shows unless asked for more.
const SHOWN: u64 = 100;

/// Flags of `forebay dead-letters`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    client: client::Arguments,
    /// Print the JSON of the admin API; of lists, an entry a line.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List them in order of key, without their data; what is done where nothing is said.
    List {
        /// Those of one id.
        #[arg(long, value_parser = Id::new)]
        id: Option<Id>,
        /// Those of one kind: refused, key_taken, no_table, set_aside or damaged.
        #[arg(long, value_parser = kind)]
        kind: Option<LetterKind>,
        /// How many; 100 in a table, all with --json.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
    /// Show one with its data.
    Show {
        /// Its key, id~source~seq.
        key: LetterKey,
    },
    /// Give them to the sink again; fails where the sink refuses one again.
    #[command(group = clap::ArgGroup::new("which").required(true).args(["key", "all"]))]
    Retry {
        /// The key of one, id~source~seq.
        key: Option<LetterKey>,
        /// All of them.
        #[arg(long)]
        all: bool,
        /// Of all, those of one id.
        #[arg(long, requires = "all", value_parser = Id::new)]
        id: Option<Id>,
    },
    /// Discard one for good.
    Discard {
        /// Its key, id~source~seq.
        key: LetterKey,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Write them with their data as NDJSON to standard output, as they were sent.
    Export {
        /// Those of one id.
        #[arg(long, value_parser = Id::new)]
        id: Option<Id>,
    },
}

/// A dead letter, as the admin API has it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Letter {
    pub key: String,
    pub kind: String,
    pub error_code: Option<u32>,
    pub reason: String,
    pub dead_at: String,
    pub accepted_at: String,
    pub time: Option<f64>,
    pub code: i32,
    pub peer: Option<String>,
    pub data_bytes: u64,
    pub data: Option<Box<RawValue>>,
    pub holder: Option<Holder>,
}

/// What the sink has under a letter's key.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Holder {
    pub time: Option<String>,
    pub code: Option<String>,
    pub accepted_at: Option<String>,
    pub data_bytes: u64,
    pub data: Option<String>,
}

/// What became of a retry.
#[derive(Debug, Deserialize)]
struct Retried {
    stored: u64,
    duplicates: u64,
    refused: u64,
    last_refusal: Option<Letter>,
}

/// How many were discarded.
#[derive(Debug, Deserialize)]
struct Discarded {
    #[serde(rename = "discarded")]
    _discarded: u64,
}

/// Runs the command.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { client, json, command } = arguments;
    let client = client.client()?;
    let command = command.unwrap_or(Command::List { id: None, kind: None, limit: None });
    if let Command::Discard { yes: false, .. } = &command
        && !client::can_ask()
    {
        return Err(Failure::Configuration(anyhow!("discard needs --yes where there is no terminal to ask")));
    }
    finish(client::block_on(async {
        match command {
            Command::List { id, kind, limit } if json => list_json(&client, of_kind(id, kind), limit).await,
            Command::List { id, kind, limit } => list(&client, of_kind(id, kind), limit.unwrap_or(SHOWN)).await,
            Command::Show { key } => show(&client, key, json).await,
            Command::Retry { key: Some(key), .. } => retry(&client, &format!("{PATH}/{key}/retry"), json).await,
            Command::Retry { id, .. } => retry(&client, &format!("{PATH}/retry{}", of(id).as_str()), json).await,
            Command::Discard { key, yes } => discard(&client, key, yes, json).await,
            Command::Export { id } => export(&client, &format!("{PATH}/export{}", of(id).as_str())).await,
        }
    }))
}

fn of(id: Option<Id>) -> Query {
    Query::default().with("id", id.as_ref().map(Id::as_str))
}

fn of_kind(id: Option<Id>, kind: Option<LetterKind>) -> Query {
    of(id).with("kind", kind.map(LetterKind::name))
}

fn kind(name: &str) -> Result<LetterKind, String> {
    let names = LetterKind::ALL.map(LetterKind::name).join(", ");
    LetterKind::of_name(name).ok_or_else(|| format!("it may be one of {names}"))
}

async fn list_json(client: &Client, which: Query, limit: Option<u64>) -> anyhow::Result<()> {
    client.list(PATH, which, "dead_letters", limit, |letter| print_json(letter.get())).await?;
    Ok(())
}

async fn list(client: &Client, which: Query, limit: u64) -> anyhow::Result<()> {
    use Column::{Left, Right};
    let mut table =
        Table::new(&[Left("KEY"), Left("KIND"), Right("AGE"), Right("SIZE"), Right("CODE"), Left("REASON")]);
    let take = |letter: &RawValue| {
        let letter: Letter = client.read(letter.get())?;
        let code = letter.error_code.map_or(String::new(), |code| code.to_string());
        let (key, reason) = (shown(&letter.key), shown(&letter.reason));
        table.row(vec![key, shown(&letter.kind), since(&letter.dead_at), size(letter.data_bytes), code, reason]);
        Ok(())
    };
    let listed = client.list(PATH, which, "dead_letters", Some(limit), take).await?;
    if listed.count == 0 {
        return write_out(b"no dead letters\n");
    }
    write_out(format!("{table}{}\n", listed.footer("dead letter")).as_bytes())
}

async fn show(client: &Client, key: LetterKey, json: bool) -> anyhow::Result<()> {
    let text = client.get(&format!("{PATH}/{key}")).await?;
    if json {
        return print_json(&text);
    }
    let letter: Letter = client.read(&text)?;
    write_out(letter.for_people().as_bytes())
}

async fn retry(client: &Client, path: &str, json: bool) -> anyhow::Result<()> {
    let text = client.post(path).await?;
    let Retried { stored, duplicates, refused, last_refusal } = client.read(&text)?;
    if json {
        print_json(&text)?;
    } else {
        let there = if duplicates == 0 { String::new() } else { format!(", {} there already", number(duplicates)) };
        write_out(format!("{} stored{there}, {} refused again\n", number(stored), number(refused)).as_bytes())?;
    }
    let last =
        last_refusal.map_or(String::new(), |last| format!(", last {}: {}", shown(&last.key), shown(&last.reason)));
    anyhow::ensure!(refused == 0, "the sink refused {} again{last}", counted(refused, "dead letter"));
    Ok(())
}

/// As it comes; on a terminal line by line, so that no text of a client moves the cursor.
async fn export(client: &Client, path: &str) -> anyhow::Result<()> {
    if !io::stdout().is_terminal() {
        return client.stream(path, write_out).await;
    }
    let mut rest = Vec::new();
    let write = |piece: &[u8]| {
        rest.extend_from_slice(piece);
        let whole = rest.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = rest.drain(..whole).collect();
        String::from_utf8(lines).context("the export is no text")?.lines().try_for_each(print_json)
    };
    client.stream(path, write).await
}

async fn discard(client: &Client, key: LetterKey, yes: bool, json: bool) -> anyhow::Result<()> {
    if !yes {
        let about = match client.get(&format!("{PATH}/{key}")).await {
            Ok(text) => client.read::<Letter>(&text)?.for_people(),
            // A damaged one cannot be shown.
            Err(AskError::Refused { status, detail }) if status.is_server_error() => format!("{detail}\n"),
            Err(error) => return Err(error.into()),
        };
        let mut out = io::stderr().lock();
        write!(out, "{about}Discard it for good? [y/N] ")
            .and_then(|()| out.flush())
            .context("cannot ask on standard error")?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
        let is_yes = matches!(answer.trim(), "y" | "Y" | "yes");
        anyhow::ensure!(is_yes, "nothing was discarded");
    }
    let text = client.delete(&format!("{PATH}/{key}")).await?;
    client.read::<Discarded>(&text)?;
    if json { print_json(&text) } else { write_out(format!("{key} is discarded\n").as_bytes()) }
}

impl Letter {
    fn for_people(&self) -> String {
        let Self { key, kind, error_code, reason, dead_at, accepted_at, time, code, peer, data_bytes, data, holder } =
            self;
        let error = error_code.map_or(String::new(), |code| format!(" ({code})"));
        let lines = [
            ("key", shown(key)),
            ("kind", shown(kind)),
            ("reason", format!("{}{error}", shown(reason))),
            ("dead", format!("{}, {} ago", shown(dead_at), since(dead_at))),
            ("accepted", shown(accepted_at)),
            ("time", time.map_or_else(|| "-".to_owned(), |time| time.to_string())),
            ("code", code.to_string()),
            ("peer", peer.as_deref().map_or_else(|| "-".to_owned(), shown)),
            ("size", size(*data_bytes)),
            ("data", data.as_deref().map_or_else(|| "-".to_owned(), |data| super::text::json_shown(data.get()))),
        ];
        let holder = holder.as_ref().map_or_else(String::new, Holder::for_people);
        lines.map(|(name, what)| format!("{name:<9} {what}\n")).concat() + &holder
    }
}

impl Holder {
    fn for_people(&self) -> String {
        let Self { time, code, accepted_at, data_bytes, data } = self;
        let text = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), shown);
        let lines = [
            ("accepted", text(accepted_at)),
            ("time", text(time)),
            ("code", text(code)),
            ("size", size(*data_bytes)),
            ("data", text(data)),
        ];
        let lines = lines.map(|(name, what)| format!("  {name:<9} {what}\n"));
        format!("the sink has under this key:\n{}", lines.concat())
    }
}
