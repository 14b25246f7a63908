//! `forebay token`.

use std::fmt::Write as _;

use anyhow::Context as _;
use forebay::access::{Scope, Secret, Tokens};

use super::{Failure, print};

/// What to do with tokens.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Print a new token, this once, and the entry for the tokens file that lets it in.
    New(New),
}

#[derive(clap::Args)]
struct New {
    /// What the token is called in the tokens file and in what clients are told.
    #[arg(long, default_value = "unnamed")]
    name: String,
    /// What it is for: ingest, admin-read or admin-write.
    #[arg(long, default_value = "ingest", value_parser = scope)]
    scope: Scope,
    /// A pattern of ids that it may write, such as `eu-*`; may be given several times; all ids where it is not.
    #[arg(long, value_name = "PATTERN")]
    ids: Vec<String>,
    /// How many distinct ids it may write while the node runs.
    #[arg(long, value_name = "N")]
    max_ids: Option<u32>,
}

fn scope(text: &str) -> Result<Scope, String> {
    let scopes = [Scope::Ingest, Scope::AdminRead, Scope::AdminWrite];
    let found = scopes.into_iter().find(|scope| scope.name() == text);
    found.ok_or_else(|| format!("must be one of {}", scopes.map(Scope::name).join(", ")))
}

/// Runs `forebay token …`.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let Command::New(new) = arguments.command;
    let secret = Secret::new().context("the system gives no random numbers")?;
    let entry = new.entry(&secret);
    // What the entry may hold is said by those who will read it.
    Tokens::parse(&entry).map_err(|error| Failure::Configuration(anyhow::Error::new(error)))?;
    let token = secret.expose();
    print(&format!("# The token; it is shown this once:\n{token}\n\n# For the tokens file (access.tokens):\n{entry}"))
}

impl New {
    fn entry(&self, secret: &Secret) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let mut entry = format!("[[token]]\nname = {}\nsha256 = \"{}\"\n", quoted(&self.name), secret.hash());
        // A String takes every write.
        let _ = writeln!(entry, "scope = \"{}\"", self.scope);
        if !self.ids.is_empty() {
            let ids: Vec<String> = self.ids.iter().map(|pattern| quoted(pattern)).collect();
            let _ = writeln!(entry, "ids = [{}]", ids.join(", "));
        }
        if let Some(max_ids) = self.max_ids {
            let _ = writeln!(entry, "max_ids = {max_ids}");
        }
        entry
    }
}
