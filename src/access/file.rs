//! The tokens file.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::Deserialize;

use super::Scope;
use super::pattern::Pattern;
use super::token::TokenHash;
use crate::config::{HIDDEN, may_be_secret, shown_message};

/// Tokens of a file; each request is compared with all of them.
const MAX_TOKENS: usize = 1_000;
/// Patterns of a token.
const MAX_PATTERNS: usize = 64;
/// The highest `max_ids`: each id that is counted takes some 10 bytes.
const MAX_IDS: usize = 1_000_000;
/// The largest tokens file, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// The longest name of a token, in bytes.
const MAX_NAME: usize = 64;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) name: String,
    pub(super) sha256: TokenHash,
    pub(super) scope: Scope,
    /// One of these has to match an id.
    pub(super) ids: Vec<Pattern>,
    /// Distinct ids that may be written from start to end of the process; `None`: not counted.
    pub(super) max_ids: Option<usize>,
}

/// The entries of a tokens file: no two of one name or one secret.
#[derive(Debug, Default)]
pub struct Tokens {
    pub(super) entries: Vec<Token>,
}

/// Why there are no tokens; never with a part of one.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The file is larger than 4 MiB.
    #[error("has more than {MAX_FILE} bytes, which is no tokens file")]
    TooLarge,
    /// It is not TOML, or has other keys or types than an entry.
    #[error("line {line}: {problem}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// Entries say what cannot be: all of them.
    #[error("{}", .0.join("; "))]
    Entries(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(default)]
    token: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sha256: String,
    scope: Scope,
    ids: Option<Vec<String>>,
    max_ids: Option<usize>,
}

impl Tokens {
    /// Reads a file.
    ///
    /// # Errors
    /// [`TokensError`], with every entry that is at fault.
    pub fn read(file: &Path) -> Result<Self, TokensError> {
        let mut text = String::new();
        File::open(file)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_FILE { Err(TokensError::TooLarge) } else { Self::parse(&text) }
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`TokensError`], with every entry that is at fault.
    pub fn parse(text: &str) -> Result<Self, TokensError> {
        let Text { token } = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            let line = 1 + text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count();
            TokensError::Syntax { line, problem: shown_message(error.message()) }
        })?;
        let mut faults = Vec::new();
        if token.len() > MAX_TOKENS {
            faults.push(format!("there are {} tokens, at most {MAX_TOKENS} are allowed", token.len()));
        }
        let (mut names, mut hashes) = (HashSet::new(), HashSet::new());
        let mut entries = Vec::new();
        for (number, entry) in token.into_iter().enumerate() {
            let name: String = entry.name.chars().take(MAX_NAME).collect();
            let name = if may_be_secret(&name) { HIDDEN.to_owned() } else { name };
            let label = format!("token {} ({name:?})", number + 1);
            if !names.insert(entry.name.clone()) {
                faults.push(format!("{label}: name is there already"));
            }
            match entry.check() {
                Ok(token) if !hashes.insert(token.sha256) => {
                    faults.push(format!("{label}: sha256 is that of another token"));
                }
                Ok(token) => entries.push(token),
                Err(problems) => faults.extend(problems.into_iter().map(|problem| format!("{label}: {problem}"))),
            }
        }
        if faults.is_empty() { Ok(Self { entries }) } else { Err(TokensError::Entries(faults)) }
    }
}

impl Entry {
    fn check(self) -> Result<Token, Vec<String>> {
        let mut faults = Vec::new();
        let name = &self.name;
        if !(1..=MAX_NAME).contains(&name.len()) || name.chars().any(char::is_control) {
            faults.push(format!("name must have 1 to {MAX_NAME} bytes and no control characters"));
        }
        let sha256 = TokenHash::from_hex(&self.sha256);
        if sha256.is_none() {
            // Not the value: somebody may have written the token itself.
            faults.push("sha256 must be the 64 hexadecimal digits that `forebay token new` prints".to_owned());
        }
        if self.scope != Scope::Ingest && (self.ids.is_some() || self.max_ids.is_some()) {
            faults.push(format!("ids and max_ids are for scope {} alone", Scope::Ingest));
        }
        let texts = self.ids.unwrap_or_else(|| vec!["*".to_owned()]);
        if !(1..=MAX_PATTERNS).contains(&texts.len()) {
            faults.push(format!("ids must have 1 to {MAX_PATTERNS} patterns"));
        }
        let ids: Vec<Pattern> = texts.iter().filter_map(|text| Pattern::new(text)).collect();
        if ids.len() < texts.len() {
            faults.push("ids must be patterns of 1 to 64 characters of A-Z a-z 0-9 . _ : - and *".to_owned());
        }
        if self.max_ids.is_some_and(|limit| !(1..=MAX_IDS).contains(&limit)) {
            faults.push(format!("max_ids must be an integer from 1 to {MAX_IDS}"));
        }
        match sha256 {
            Some(sha256) if faults.is_empty() => {
                Ok(Token { name: self.name, sha256, scope: self.scope, ids, max_ids: self.max_ids })
            }
            _ => Err(faults),
        }
    }
}
