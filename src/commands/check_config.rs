//! `forebay check-config`.

use super::{Failure, print, settings};

/// Prints the settings, without passwords.
pub fn run(arguments: settings::Arguments) -> Result<(), Failure> {
    let settings = arguments.load()?;
    settings::files(&settings)?;
    print(&settings.to_string())
}
