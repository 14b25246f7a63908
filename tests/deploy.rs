//! The files that people deploy with, in docs/deploy/: each is held against what reads it.

use std::path::{Path, PathBuf};
use std::process::Command;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deploy")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_example_is_a_configuration() {
    let mut count = 0;
    for entry in std::fs::read_dir(deploy().join("examples")).expect("there are examples") {
        let path = entry.expect("an entry can be read").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            // Of another program: a proxy's.
            continue;
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FOREBAY_")) {
            command.env_remove(name);
        }
        let output = command.arg("check-config").arg("--config").arg(&path).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{}: {said}", path.display());
        count += 1;
    }
    assert!(count >= 4, "{count} examples");
}

/// The unit with the program under test, and without the manual page that is not installed here.
#[test]
fn the_unit_is_one_that_systemd_takes() {
    let unit = read(&deploy().join("forebay.service"));
    let unit = unit.replace("/usr/bin/forebay", env!("CARGO_BIN_EXE_forebay"));
    let unit: String =
        unit.lines().filter(|line| !line.starts_with("Documentation=")).map(|line| format!("{line}\n")).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("forebay.service");
    std::fs::write(&path, &unit).expect("written");
    // No other unit of this machine is asked for.
    let output = Command::new("systemd-analyze").arg("verify").arg(&path).output();
    let output = output.expect("systemd-analyze (systemd) is there: tests/run.sh installs it");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !said.contains("forebay.service"), "{said}");
    let flags = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("it starts something");
    let flags: Vec<&str> = flags.split_whitespace().skip(2).collect();
    assert_eq!(flags, ["--config", "/etc/forebay/forebay.toml", "--data-dir", "/var/lib/forebay"]);
    for wanted in [
        "ExecReload=/bin/kill -HUP $MAINPID",
        "DynamicUser=yes",
        "ProtectSystem=strict",
        "NoNewPrivileges=yes",
        "SystemCallFilter=@system-service",
    ] {
        assert!(unit.lines().any(|line| line == wanted), "{wanted}");
    }
}

#[test]
fn the_image_copies_what_is_there_and_does_not_run_as_root() {
    let dockerfile = read(&deploy().join("Dockerfile"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let instructions: Vec<Vec<&str>> = dockerfile.lines().map(|line| line.split_whitespace().collect()).collect();
    for line in instructions.iter().filter(|line| line.first() == Some(&"COPY")) {
        let from_build = line[1].starts_with("--from");
        for source in line[1..line.len() - 1].iter().filter(|_| !from_build) {
            assert!(root.join(source).exists(), "there is no {source}");
        }
    }
    let at = |wanted: &str| instructions.iter().rposition(|line| line.first() == Some(&wanted));
    assert!(at("USER") > at("FROM") && at("HEALTHCHECK") > at("FROM"), "{dockerfile}");
}

/// What `cargo deb` puts into the package, but for what docs/deploy/deb.sh makes before.
#[test]
fn the_package_has_what_its_unit_and_its_reader_want() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest: toml::Table = read(&root.join("Cargo.toml")).parse().expect("a manifest");
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().expect("assets");
    let mut places = Vec::new();
    for asset in assets {
        let part = |at: usize| asset[at].as_str().expect("a text");
        let (folder, file) = part(0).rsplit_once('/').expect("a path");
        let (before, after) = file.split_once('*').unwrap_or((file, ""));
        let is_there = |entry: std::fs::DirEntry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.starts_with(before) && name.ends_with(after)
        };
        let found = std::fs::read_dir(root.join(folder)).is_ok_and(|mut all| all.any(|e| e.is_ok_and(is_there)));
        assert!(found || folder.starts_with("target/"), "there is no {}", part(0));
        places.push(part(1).to_owned());
    }
    let script = read(&deploy().join("deb.sh"));
    for made in assets.iter().filter_map(|asset| asset[0].as_str()).filter(|path| path.starts_with("target/")) {
        let folder = made.rsplit_once('/').expect("a path").0;
        assert!(script.contains(folder) || made == "target/release/forebay", "nobody makes {made}");
    }
    // The unit starts /usr/bin/forebay with /etc/forebay/forebay.toml.
    for place in ["usr/bin/", "lib/systemd/system/", "etc/forebay/forebay.toml"] {
        assert!(places.iter().any(|found| found == place), "{place} in {places:?}");
    }
}
