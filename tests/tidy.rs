//! Keeps the house as docs and style have it: floors, who may name which library, sizes. Reads the sources as text.
//!
//! A floor imports only what is below it, rooms of one floor don't import each other, and one room alone names each
//! of the libraries that may have to be replaced. Tests inside `src/` may reach anywhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every room with its floor. A room that is not listed has no floor, and the first test says so.
const FLOORS: &[(&str, u8)] = &[
    ("report", 0),
    ("config", 0),
    ("metrics", 0),
    ("sync", 0),
    ("panics", 0),
    ("trace", 0),
    ("access", 1),
    ("net", 1),
    ("journal", 1),
    ("sink", 1),
    ("drain", 2),
    ("service", 3),
    ("ingest", 4),
    ("admin", 4),
    ("node", 5),
    ("commands", 6),
];

/// A library, and the one room that may name it.
const ONLY: &[(&str, &str)] = &[
    ("sled", "journal"),
    ("bincode", "journal"),
    ("mysql_async", "sink"),
    ("rusqlite", "sink"),
    ("prometheus_client", "metrics"),
    ("ratatui", "commands"),
    ("opentelemetry", "commands"),
    ("opentelemetry_sdk", "commands"),
    ("opentelemetry_otlp", "commands"),
    ("tracing_opentelemetry", "commands"),
];

/// Lines of a file in `src/`, its tests included.
const MAX_LINES: usize = 500;

/// Characters of a line.
const MAX_COLUMNS: usize = 120;

/// A source file of the crate.
struct Source {
    path: PathBuf,
    /// The first part of its path in `src/`, such as `journal`; `None` for `main` and `lib`.
    room: Option<String>,
    text: String,
}

impl Source {
    /// The code before the file's unit tests, comments and strings taken out.
    fn code(&self) -> String {
        let tests = self.text.find("\n#[cfg(test)]\nmod ").unwrap_or(self.text.len());
        without_comments_and_strings(&self.text[..tests])
    }

    /// Rooms that the code names.
    fn rooms_named(&self) -> BTreeSet<String> {
        let code = self.code();
        let mut named = BTreeSet::new();
        // The program names the crate's rooms by the crate's name.
        let paths = ["crate::", "forebay::"].map(|path| code.match_indices(path).collect::<Vec<_>>());
        for (at, path) in paths.into_iter().flatten() {
            let rest = code[at + path.len()..].trim_start();
            match rest.strip_prefix('{') {
                // `use crate::{journal::x, sink}`: the first word of each part.
                Some(list) => named.extend(parts(list).into_iter().map(first_word)),
                None => drop(named.insert(first_word(rest))),
            }
        }
        // From a file in a folder, `super::super::` may leave the room as well: the house writes `crate::`.
        named
    }
}

/// The parts of a list in braces, up to its end, those of lists within it left out.
fn parts(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&list[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

/// Blanks out comments, strings and characters; lines stay where they are.
fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r\"") || rest.starts_with("r#") {
            raw_string(rest)
        } else if c == '"' {
            string(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("'\\") && rest.is_char_boundary(3) {
            // The character after the backslash may be a quote itself.
            rest[3..].find('\'').map_or(rest.len(), |end| end + 4)
        } else {
            0
        };
        if skipped == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[skipped..];
        }
    }
    code
}

/// The length of the raw string that the text begins with; 0 where it is none (`r#type`).
fn raw_string(text: &str) -> usize {
    let hashes = text[1..].bytes().take_while(|&b| b == b'#').count();
    if text.as_bytes().get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = 2 + hashes;
    text[body..].find(&end).map_or(text.len(), |at| body + at + end.len())
}

/// The length of the string that the text begins with.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return at + 1,
            _ => escaped = false,
        }
    }
    text.len()
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("an entry can be read").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source is UTF-8");
                let path = path.strip_prefix(root).expect("it is in the repository").to_owned();
                let part = path.components().nth(1).map(|part| part.as_os_str().to_string_lossy().into_owned());
                let room = part.map(|part| part.trim_end_matches(".rs").to_owned());
                let room = room.filter(|room| room != "main" && room != "lib");
                found.push(Source { path, room, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn floor(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn a_room_imports_only_from_floors_below() {
    let mut faults = Vec::new();
    for source in sources("src") {
        let Some(room) = &source.room else { continue };
        let Some(own) = floor(room) else {
            faults.push(format!("{}: the room `{room}` has no floor in tests/tidy.rs", source.path.display()));
            continue;
        };
        for named in source.rooms_named() {
            if named != *room && floor(&named).is_some_and(|other| other >= own) {
                faults.push(format!("{}: floor {own} names `{named}`", source.path.display()));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn a_library_is_named_in_its_one_room_only() {
    let mut faults = Vec::new();
    for source in sources("src") {
        let code = source.code();
        for (library, room) in ONLY {
            let named = code.match_indices(library).any(|(at, _)| {
                let before = code[..at].chars().next_back();
                let rest = code[at + library.len()..].trim_start();
                let word = before.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
                let declared = code[..at].ends_with("use ") && (rest.starts_with(';') || rest.starts_with(" as"));
                word && (rest.starts_with("::") || declared)
            });
            if named && source.room.as_deref() != Some(*room) {
                faults.push(format!("{}: only `{room}` names {library}", source.path.display()));
            }
        }
    }
    assert_none(&faults);
}

/// Only a commit that was synced makes an ack; stand-ins in tests make theirs up.
#[test]
fn no_ack_is_made_up() {
    let made_up = |source: &Source| source.code().contains("made_up");
    let paths: Vec<PathBuf> = sources("src").into_iter().filter(made_up).map(|source| source.path).collect();
    assert_eq!(paths, [Path::new("src/journal/append.rs")]);
}

#[test]
fn files_and_lines_stay_short() {
    let mut faults = Vec::new();
    for source in sources("src").into_iter().chain(sources("tests")).chain(sources("fuzz")) {
        let path = source.path.display();
        let lines = source.text.lines().count();
        if source.path.starts_with("src") && lines > MAX_LINES {
            faults.push(format!("{path}: {lines} lines, at most {MAX_LINES}"));
        }
        for (number, line) in source.text.lines().enumerate() {
            let columns = line.chars().count();
            // The formatter leaves a line alone whose text it would have to break.
            let is_text = line.contains('"');
            if columns > MAX_COLUMNS && !is_text && !source.path.starts_with("fuzz/target") {
                faults.push(format!("{path}:{}: {columns} columns, at most {MAX_COLUMNS}", number + 1));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn what_can_fail_says_why_it_cannot() {
    let mut faults = Vec::new();
    for source in sources("src") {
        for (number, line) in source.code().lines().enumerate() {
            if line.contains(".unwrap()") || line.contains(".unwrap_err()") {
                faults.push(format!("{}:{}: `expect` with the reason", source.path.display(), number + 1));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn the_reader_of_sources_sees_what_it_should() {
    let source = |text: &str| Source { path: PathBuf::new(), room: None, text: text.to_owned() };
    let text = "use crate::{journal::{entry, sink}, report::Id, config};\n// crate::admin\nlet x = \"crate::ingest\"; \
                crate::service::open();\n#[cfg(test)]\nmod tests { use crate::commands; }\n";
    let named: Vec<String> = source(text).rooms_named().into_iter().collect();
    assert_eq!(named, ["config", "journal", "report", "service"]);
    let strings = r##"a '"' b "x \" y" c r#"z " z"# d '\'' e r#type // f"##;
    let code = without_comments_and_strings(strings);
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "b", "c", "d", "e", "r#type"]);
}
