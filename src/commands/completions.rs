//! `forebay completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Failure, print};

/// Flags of `forebay completions`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The shell.
    shell: Shell,
}

/// Prints the script.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Arguments::command(), "forebay", &mut script);
    print(&String::from_utf8_lossy(&script))
}
