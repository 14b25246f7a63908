//! `forebay schema`.

use std::path::PathBuf;

use forebay::config::Flags;

use super::{Failure, print, settings};

/// Flags of `forebay schema`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The sink whose dialect is printed: sqlite:PATH or mysql://user:password@host:3306/database.
    #[arg(long, value_name = "URL")]
    sink: Option<String>,
    /// The configuration file; ./forebay.toml is read if it exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Prints the statements that `create_tables` would run.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let settings = settings::load(arguments.config, Flags { sink: arguments.sink, ..Flags::default() })?;
    print(&forebay::sink::ddl(&settings.sink.target, &settings.sink.table))
}
