//! `forebay man`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory as _;

use super::{Failure, print};

/// Flags of `forebay man`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Write the pages of all commands into this folder instead, forebay.1 and forebay-serve.1 and so on.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints the page, or writes all of them.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let command = super::Arguments::command();
    if let Some(dir) = arguments.dir {
        let context = || format!("cannot write the pages to {}", forebay::config::shown_path(&dir));
        return Ok(clap_mangen::generate_to(command, &dir).with_context(context)?);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).context("a page is text")?;
    print(&String::from_utf8_lossy(&page))
}
