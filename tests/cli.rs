//! What the program promises to shells: exit codes, and where its text goes.

use std::path::Path;
use std::process::{Command, Output};

fn forebay(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(arguments).current_dir(folder);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FOREBAY_")) {
        command.env_remove(name);
    }
    command.output().expect("it starts")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn usage_errors_exit_with_two_and_help_with_zero() {
    let folder = folder();
    for arguments in [&["fly"][..], &["serve", "--nonsense"], &["serve", "extra"], &[]] {
        assert_eq!(forebay(folder.path(), arguments).status.code(), Some(2), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["serve", "--help"]] {
        assert_eq!(forebay(folder.path(), arguments).status.code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn check_config_prints_settings_that_say_the_same_again() {
    let folder = folder();
    let first = forebay(folder.path(), &["check-config", "--data-dir", "d", "--listen", "127.0.0.1:0"]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    assert!(text(&first.stdout).contains("url = \"sqlite:d/reports.db\""));
    // The file of the usual name is read without being asked for.
    std::fs::write(folder.path().join("forebay.toml"), &first.stdout).expect("written");
    assert_eq!(forebay(folder.path(), &["check-config"]).stdout, first.stdout);
}

#[test]
fn check_config_shows_no_password() {
    let out = forebay(folder().path(), &["check-config", "--sink", "mysql://u:hunter2@h/d"]);
    assert_eq!(out.status.code(), Some(0));
    assert!(text(&out.stdout).contains("url = \"mysql://u:***@h/d\""), "{}", text(&out.stdout));
}

#[test]
fn every_fault_is_on_standard_error_and_the_exit_code_is_two() {
    let folder = folder();
    std::fs::write(folder.path().join("x.toml"), "node_id = 0\nflush.batch = 0\n").expect("written");
    for command in ["check-config", "serve", "schema"] {
        let out = forebay(folder.path(), &[command, "--config", "x.toml"]);
        assert_eq!((out.status.code(), text(&out.stdout)), (Some(2), ""), "{command}");
        assert_eq!(
            text(&out.stderr),
            "forebay: the configuration has 2 faults:\n  node_id = 0 (x.toml, line 1): must be an integer from 1 to 65535\n  \
             flush.batch = 0 (x.toml, line 2): must be an integer from 1 to 1000000000\n"
        );
    }
}

#[test]
fn a_configuration_file_that_was_asked_for_must_exist() {
    let out = forebay(folder().path(), &["check-config", "--config", "missing.toml"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("missing.toml"), "{}", text(&out.stderr));
}

#[test]
fn schema_names_both_tables() {
    let out = forebay(folder().path(), &["schema"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("reports") && text(&out.stdout).contains("report_streams"));
}
