//! The commands, one file each. Exit codes: 0, 1 for a failure, 2 for usage or configuration.

mod check_config;
mod journal;
mod logging;
mod schema;
mod serve;
mod settings;
mod token;

use std::fmt;
use std::io::{self, Write as _};
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
    /// Look into a journal that no node has open.
    Journal(journal::Arguments),
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
        Command::Journal(arguments) => journal::run(arguments),
        Command::Token(arguments) => token::run(arguments),
    }
}

/// Why a command failed.
pub enum Failure {
    /// The configuration, or a file that a flag names: a person must change it.
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
            Self::Configuration(error) | Self::Other(error) => write!(f, "forebay: {error:#}"),
        }
    }
}

/// Writes to standard output; a reader that went away, such as `head`, is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Other(anyhow::Error::new(error).context("cannot write to standard output")))
        }
        _ => Ok(()),
    }
}
