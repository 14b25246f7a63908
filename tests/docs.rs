//! The docs hold: their links lead somewhere, their settings are the program's defaults, their decisions have one form.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use forebay::config::{Settings, Sources};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every page, those of the top level among them.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for folder in ["", "docs", "docs/decisions"] {
        let entries = fs::read_dir(root().join(folder)).expect("a folder").map(|entry| entry.expect("an entry").path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    assert!(pages.len() > 20, "{} pages", pages.len());
    pages
}

/// A page without its blocks of code.
fn prose(text: &str) -> String {
    let mut in_code = false;
    let is_prose = |line: &&str| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    };
    text.lines().filter(is_prose).collect::<Vec<_>>().join("\n")
}

/// What follows `](` in a text: where its links lead.
fn links(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link).collect()
}

/// The name that a heading has in a link.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn anchors(page: &Path) -> BTreeSet<String> {
    let text = prose(&read(page));
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

#[test]
fn every_link_of_the_docs_leads_somewhere() {
    let mut faults = Vec::new();
    for page in pages() {
        let text = prose(&read(&page));
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (path, heading) = link.split_once('#').map_or((link, None), |(path, heading)| (path, Some(heading)));
            let target = if path.is_empty() { page.clone() } else { page.parent().expect("a folder").join(path) };
            let is_there = target.exists() && heading.is_none_or(|heading| anchors(&target).contains(heading));
            if !is_there {
                faults.push(format!("{}: {link}", page.display()));
            }
        }
    }
    // The alerts name the page that says what to do.
    let rules = read(&root().join("docs/monitoring/forebay.rules.yml"));
    for runbook in rules.lines().filter_map(|line| line.trim().strip_prefix("runbook: ")) {
        let (path, heading) = runbook.split_once('#').expect("a page and a heading");
        if !anchors(&root().join(path)).contains(heading) {
            faults.push(format!("forebay.rules.yml: {runbook}"));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Paths of docs in comments and messages: they move, and nobody follows.
#[test]
fn every_page_that_the_code_names_is_there() {
    let mut faults = Vec::new();
    let mut folders = ["src", "tests", "fuzz/harness"].map(|folder| root().join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let named = text.match_indices("docs/").map(|(at, _)| &text[at..]);
                let named = named.filter_map(|rest| {
                    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"/-_.".contains(c));
                    let name = rest[..end.unwrap_or(rest.len())].trim_end_matches('.');
                    name.ends_with(".md").then_some(name)
                });
                let missing = named.filter(|name| !root().join(name).exists());
                faults.extend(missing.map(|name| format!("{}: {name}", path.display())));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_settings_page_has_every_key_with_its_default() {
    let page = read(&root().join("docs/settings.md"));
    let (_, rest) = page.split_once("```toml\n").expect("a block of settings");
    let (block, _) = rest.split_once("```").expect("its end");
    // The default of this key depends on the machine, so it is not set in the block.
    let set = block.replace("# max_ids", "max_ids");
    assert_ne!(block, set, "journal.max_ids is in the block as a comment");
    let file = Some(("settings.md".to_owned(), block.to_owned()));
    let loaded = Settings::load(&Sources { file, ..Sources::default() }).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(loaded, Settings::default());
    let keys = |text: &str| -> BTreeSet<String> {
        let table: toml::Table = text.parse().expect("TOML");
        let names = |(key, value): (&String, &toml::Value)| match value.as_table() {
            Some(section) => section.keys().map(|name| format!("{key}.{name}")).collect(),
            None => vec![key.clone()],
        };
        table.iter().flat_map(names).collect()
    };
    assert_eq!(keys(&set), keys(&Settings::default().to_string()));
}

#[test]
fn every_decision_has_a_status_and_is_listed() {
    let folder = root().join("docs/decisions");
    let list = read(&folder.join("README.md"));
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("a folder") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        if name == "README.md" {
            continue;
        }
        let page = read(&folder.join(&name));
        let number = name[..4].parse::<u32>().expect("four digits begin its name");
        assert!(page.starts_with(&format!("# {number}. ")), "{name}");
        assert!(list.contains(&format!("| {number} | [")) && list.contains(&format!("({name})")), "{name} in the list");
        let mut rest = page.as_str();
        for part in [
            "\n| status | date | supersedes | superseded by |\n|---|---|---|---|\n| ",
            "\n## Context\n",
            "\n## Choice\n",
            "\n## What was measured\n",
            "\n## What follows\n",
            "\n## What would change it\n",
        ] {
            (_, rest) = rest.split_once(part).unwrap_or_else(|| panic!("{name} has no {part:?} in its place"));
        }
        count += 1;
    }
    assert!(count >= 12, "{count} decisions");
}
