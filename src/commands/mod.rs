//! The commands, one file each. Exit codes: 0, 1 for a failure, 2 for usage or configuration.

mod allocator;
mod check_config;
mod client;
mod completions;
mod dead_letters;
mod journal;
mod load;
mod logging;
mod man;
mod route;
mod said;
mod schema;
mod serve;
mod settings;
mod status;
mod stream;
mod streams;
mod text;
mod token;
mod top;
mod traces;

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

/// A durable ingest engine: reports are on disk before they are acknowledged, and end in the database exactly once.
#[derive(clap::Parser)]
#[command(name = "forebay", version, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Take reports until told to stop.
    Serve(settings::Arguments),
    /// Print the settings that `serve` would use, without passwords, or everything that is wrong with them.
    CheckConfig(settings::Arguments),
    /// Print the statements that make the sink's tables.
    Schema(schema::Arguments),
    /// Put a node under load, measure it, and hold the sink against what was acknowledged.
    Load(Box<load::Arguments>),
    /// Look into a journal that no node has open.
    Journal(journal::Arguments),
    /// Say how a running node stands; fails where it takes no reports.
    Status(status::Arguments),
    /// List the ids that have backlog.
    Streams(streams::Arguments),
    /// Show one id and what waits of it; drain it now, pause or resume it.
    Stream(stream::Arguments),
    /// Look at the reports that the sink refused, give them to it again, or discard them.
    DeadLetters(dead_letters::Arguments),
    /// Watch a running node in the terminal.
    Top(top::Arguments),
    /// Print the completions of a shell.
    Completions(completions::Arguments),
    /// Print the manual page.
    Man(man::Arguments),
    /// Make tokens for clients and operators.
    Token(token::Arguments),
}

/// Runs the command.
///
/// # Errors
/// What it failed for; nothing of it was printed yet.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::CheckConfig(arguments) => check_config::run(arguments),
        Command::Schema(arguments) => schema::run(arguments),
        Command::Load(arguments) => load::run(*arguments),
        Command::Journal(arguments) => journal::run(arguments),
        Command::Status(arguments) => status::run(arguments),
        Command::Streams(arguments) => streams::run(arguments),
        Command::Stream(arguments) => stream::run(arguments),
        Command::DeadLetters(arguments) => dead_letters::run(arguments),
        Command::Top(arguments) => top::run(arguments),
        Command::Completions(arguments) => completions::run(arguments),
        Command::Man(arguments) => man::run(arguments),
        Command::Token(arguments) => token::run(arguments),
    }
}

/// Why a command failed.
pub enum Failure {
    /// The configuration, a flag, or a file that a flag names: a person must change it.
    Configuration(anyhow::Error),
    /// Anything else.
    Other(anyhow::Error),
}

impl Failure {
    /// The exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Configuration(_) => ExitCode::from(2),
            Self::Other(_) => ExitCode::from(1),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl From<Failure> for anyhow::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Configuration(error) | Failure::Other(error) => error,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(error) | Self::Other(error) => {
                write!(f, "forebay: {}", said::without_secrets(&format!("{error:#}")))
            }
        }
    }
}

/// Reads the arguments; says what is wrong with them, or the help that they ask for.
///
/// # Errors
/// The exit code, where there is nothing to run.
pub fn arguments() -> Result<Arguments, ExitCode> {
    <Arguments as clap::Parser>::try_parse().map_err(|error| said::usage(&error))
}

/// Writes to standard error. Nothing is left to do where that is gone as well.
pub fn write_err(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Nobody takes what the command says.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
struct Unwritten(#[source] io::Error);

/// Writes to standard output.
fn write_out(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    Ok(out.write_all(bytes).and_then(|()| out.flush()).map_err(Unwritten)?)
}

/// Writes JSON and the end of the line; what it holds moves no cursor where a person looks at it.
fn print_json(json: &str) -> anyhow::Result<()> {
    let json = if io::stdout().is_terminal() { text::json_shown(json) } else { text::json_line(json) };
    write_out(format!("{json}\n").as_bytes())
}

/// A reader that went away, such as `head`, is no failure.
fn finish(ended: Result<(), Failure>) -> Result<(), Failure> {
    match &ended {
        Err(Failure::Other(error)) if error.downcast_ref().is_some_and(Unwritten::is_unread) => Ok(()),
        _ => ended,
    }
}

impl Unwritten {
    fn is_unread(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Writes to standard output; a reader that went away is no failure.
fn print(text: &str) -> Result<(), Failure> {
    finish(write_out(text.as_bytes()).map_err(Failure::Other))
}
