//! `forebay check-config`.

use super::{Failure, print, settings};

/// Prints the settings, without passwords.
pub fn run(arguments: settings::Arguments) -> Result<(), Failure> {
    print(&arguments.load()?.to_string())
}
