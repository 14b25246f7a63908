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

#[test]
fn completions_and_manual_pages_know_every_command() {
    let folder = folder();
    let help = forebay(folder.path(), &["--help"]);
    let commands: Vec<&str> = text(&help.stdout)
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .map_while(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.contains(&"dead-letters") && commands.contains(&"top"), "{commands:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = forebay(folder.path(), &["completions", shell]);
        assert_eq!(script.status.code(), Some(0), "{shell}");
        assert!(commands.iter().all(|command| text(&script.stdout).contains(command)), "{shell}");
    }
    assert_eq!(forebay(folder.path(), &["completions", "clay"]).status.code(), Some(2));
    let page = forebay(folder.path(), &["man"]);
    assert!(text(&page.stdout).contains(".TH forebay 1"), "{}", text(&page.stdout));
    assert_eq!(forebay(folder.path(), &["man", "--dir", "missing"]).status.code(), Some(1));
    assert_eq!(forebay(folder.path(), &["man", "--dir", "."]).status.code(), Some(0));
    for command in commands {
        assert!(folder.path().join(format!("forebay-{command}.1")).is_file(), "{command}");
    }
}

#[test]
fn bash_takes_its_completions() {
    let folder = folder();
    let script = forebay(folder.path(), &["completions", "bash"]);
    std::fs::write(folder.path().join("forebay.bash"), &script.stdout).expect("written");
    let complete = "source ./forebay.bash; COMP_WORDS=(forebay dead-letters ret); COMP_CWORD=2; \
                    _forebay forebay ret dead-letters; echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash").args(["-c", complete]).current_dir(folder.path()).output().expect("bash starts");
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("retry\n", ""));
}

/// A shell in which an operator has set where the node is may start one, too.
#[test]
fn variables_of_commands_are_no_settings() {
    let folder = folder();
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.arg("check-config").current_dir(folder.path()).env("FOREBAY_ADMIN_URL", "http://localhost:7002");
    command.env("FOREBAY_ADMIN_TOKEN_FILE", "/nowhere").env("FOREBAY_ADMIN_CA", "/nowhere");
    let output = command.output().expect("it starts");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
