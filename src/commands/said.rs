//! What is said on standard error of arguments and variables, without what may be a secret among them: it was perhaps
//! pasted where it does not belong, and what is said ends in logs.

use std::path::Path;
use std::process::ExitCode;

use forebay::config::{HIDDEN, holds_secret, is_harmless, shown_path};

/// The environment variables whose values may be repeated by an error.
const VARIABLES: &str = "FOREBAY_";

/// Says what is wrong with the arguments, or the help that they ask for; the exit code.
pub fn usage(error: &clap::Error) -> ExitCode {
    let code = ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    if error.use_stderr() {
        // It repeats what cannot be read, wherever it stood.
        let is_shown = |text: &str| is_harmless(text) || shown_path(Path::new(text)) != HIDDEN;
        super::write_err(&without(&error.render().to_string(), |text| !is_shown(text)));
    } else {
        // Whether help was read makes no difference.
        let _ = error.print();
    }
    code
}

/// The text of a failure without the secrets that were given.
pub fn without_secrets(text: &str) -> String {
    without(text, holds_secret)
}

/// The text without each value that was given and is `hidden`.
fn without(text: &str, hidden: impl Fn(&str) -> bool) -> String {
    let mut values: Vec<String> = given().filter(|value| value.len() > 2 && hidden(value)).collect();
    // One may be a part of another.
    values.sort_by_key(|value| std::cmp::Reverse(value.len()));
    values.iter().fold(text.to_owned(), |text, value| {
        let escaped = value.escape_debug().to_string();
        text.replace(value, HIDDEN).replace(&escaped, HIDDEN)
    })
}

/// Values of arguments, with their flag or alone, and of Forebay's variables.
fn given() -> impl Iterator<Item = String> {
    let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    let values = arguments.filter_map(|argument| {
        let flag = argument.split('=').next().unwrap_or_default();
        let is_flag = flag.strip_prefix('-').is_some_and(|name| {
            name.len() <= 24 && !name.starts_with("--") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
        });
        if is_flag { argument.split_once('=').map(|(_, value)| value.to_owned()) } else { Some(argument) }
    });
    let variables = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with(VARIABLES));
    values.chain(variables.map(|(_, value)| value.to_string_lossy().into_owned()))
}
