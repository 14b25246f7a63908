//! Target `config`: configurations, from a file and from variables.

use forebay::config::{Flags, Settings, SinkTarget, Sources};

/// No panic; what loads is shown as a file that loads as the same.
///
/// The input is a file's text, and, after a zero byte, `NAME=VALUE` lines.
pub fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (file, lines) = text.split_once('\0').unwrap_or((text, ""));
    let variables =
        lines.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (format!("FOREBAY_{k}"), v.to_owned()));
    let sources = Sources {
        file: Some(("forebay.toml".to_owned(), file.to_owned())),
        variables: variables.collect(),
        flags: Flags::default(),
    };
    match Settings::load(&sources) {
        Err(faults) => assert!(!faults.to_string().is_empty()),
        Ok(settings) => {
            let shown = settings.to_string();
            let file = Some(("shown".to_owned(), shown.clone()));
            let again = Settings::load(&Sources { file, ..Sources::default() });
            match &settings.sink.target {
                // Its password is not shown, so only what is shown can be compared.
                SinkTarget::Mysql(_) => assert!(again.is_err() || again.is_ok_and(|again| again.to_string() == shown)),
                SinkTarget::Sqlite(_) => assert_eq!(again.as_ref(), Ok(&settings)),
            }
        }
    }
}
