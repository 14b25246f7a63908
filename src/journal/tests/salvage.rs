//! A start that finds damage, or what another start left of it: nobody comes second, nothing outside of the folder is
//! touched, and a salvage that was cut off is gone on with wherever that was.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::*;

/// All names below a folder, with the bytes of the files.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for path in fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path()) {
        if path.is_dir() {
            found.extend(contents(&path));
            found.insert(path, Vec::new());
        } else {
            let bytes = fs::read(&path).expect("a file");
            found.insert(path, bytes);
        }
    }
    found
}

fn names(folder: &Path) -> Vec<String> {
    files::names(folder).expect("a folder")
}

/// A journal with three reports, closed.
fn closed() -> Bench {
    let mut bench = Bench::new();
    bench.append("a", (0..3).map(|n| report(Some(n), &n.to_string())).collect());
    bench.open.take().expect("open").stop().expect("a sound journal");
    bench
}

fn damage(dir: &Path) {
    fs::write(dir.join("conf"), "torn by a power cut").expect("written");
}

/// The same, damaged.
fn damaged() -> Bench {
    let bench = closed();
    damage(&bench.settings.dir);
    bench
}

fn recovers(bench: &mut Bench) -> u64 {
    let (journal, metrics) = open(&bench.settings);
    (bench.open, bench.metrics) = (Some(journal), metrics);
    bench.metrics.audit.snapshot().recovered
}

/// A salvage once began before any lock: with a second process, that one moved the live journal away.
#[test]
fn who_comes_second_reads_and_changes_nothing_of_a_journal_however_damaged() {
    let bench = damaged();
    let dir = &bench.settings.dir;
    fs::create_dir(dir.with_file_name("journal.salvaging")).expect("made");
    let first = fs::File::create(dir.join("lock")).expect("made");
    flock(&first, FlockOperation::NonBlockingLockExclusive).expect("nobody has it");
    let before = contents(bench.dir.path());
    let around = Surroundings { node_id: 3, max_queued_bytes: 1, max_entry_records: 1 };
    let second = Opened::open(&bench.settings, around, Arc::default());
    assert!(matches!(second, Err(JournalError::InUse { .. })), "{:?}", second.err());
    let looked = offline::examine(dir, |_| Ok(()));
    assert!(matches!(looked, Err(JournalError::InUse { .. })), "{:?}", looked.err());
    assert!(contents(bench.dir.path()) == before, "{:?}", names(dir));
    drop(first);
    let mut bench = bench;
    assert_eq!(recovers(&mut bench), 3);
}

#[test]
fn a_journal_is_locked_as_long_as_it_is_open_and_a_copy_of_it_is_not() {
    let mut bench = closed();
    assert_eq!(recovers(&mut bench), 3);
    let dir = bench.settings.dir.clone();
    // As somebody who cleans up would: sled's own lock goes with its file.
    fs::rename(dir.join("db"), dir.join("moved")).expect("renamed");
    let around = Surroundings { node_id: 3, max_queued_bytes: 1, max_entry_records: 1 };
    let second = Opened::open(&bench.settings, around, Arc::default());
    assert!(matches!(second, Err(JournalError::InUse { .. })), "{:?}", second.err());
    fs::rename(dir.join("moved"), dir.join("db")).expect("renamed");
    bench.copy_and_reopen();
    assert_eq!(bench.metrics.audit.snapshot().recovered, 3);
    assert!(bench.settings.dir.join("lock").exists());
}

#[test]
fn what_looks_into_a_folder_without_a_journal_makes_nothing_in_it() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    assert!(offline::examine(dir.path(), |_| Ok(())).is_err());
    assert!(offline::examine(&dir.path().join("missing"), |_| Ok(())).is_err());
    assert_eq!(names(dir.path()), [""; 0]);
}

/// It was once moved to the disk of the link, and the damaged files were lost to the other.
#[test]
fn a_journal_whose_folder_is_a_link_is_salvaged_where_it_is() {
    let mut bench = damaged();
    let (dir, elsewhere) = (bench.settings.dir.clone(), bench.dir.path().join("elsewhere"));
    fs::rename(&dir, &elsewhere).expect("renamed");
    std::os::unix::fs::symlink(&elsewhere, &dir).expect("linked");
    assert_eq!(recovers(&mut bench), 3);
    assert!(fs::symlink_metadata(&dir).expect("it is there").is_symlink(), "the link is gone");
    assert!(elsewhere.join("damaged-1/conf").exists() && elsewhere.join("db").exists(), "{:?}", names(&elsewhere));
    assert_eq!(names(bench.dir.path()), ["elsewhere", "journal"]);
}

/// `lost+found` of a mount point is root's, and cannot be moved.
#[test]
fn what_else_lies_in_the_folder_is_left_as_it_is() {
    let mut bench = damaged();
    let dir = bench.settings.dir.clone();
    let others = dir.join("lost+found");
    fs::create_dir(&others).expect("made");
    fs::write(dir.join("README"), "of a person").expect("written");
    fs::set_permissions(&others, fs::Permissions::from_mode(0o755)).expect("its owner");
    assert_eq!(recovers(&mut bench), 3);
    assert_eq!(fs::metadata(&others).expect("it is there").permissions().mode() & 0o777, 0o755);
    assert!(dir.join("README").exists() && !dir.join("damaged-1/README").exists());
}

#[test]
fn each_salvage_keeps_its_files_apart_from_those_of_others() {
    let mut bench = damaged();
    let dir = bench.settings.dir.clone();
    fs::create_dir(dir.join("damaged-7")).expect("made");
    for aside in ["damaged-8", "damaged-9"] {
        assert_eq!(recovers(&mut bench), 3, "{aside}");
        bench.open.take().expect("open").stop().expect("a sound journal");
        assert!(dir.join(aside).join("conf").exists(), "{:?}", names(&dir));
        damage(&dir);
    }
}

/// Moves up to `count` of the journal's files from one folder into another.
fn move_files(from: &Path, to: &Path, count: usize) {
    fs::create_dir_all(to).expect("made");
    for path in files::own(from).expect("a folder").into_iter().take(count) {
        fs::rename(&path, to.join(path.file_name().expect("a name"))).expect("renamed");
    }
}

/// The new journal is told from the damaged one by what it holds: two reports.
fn cut_off(name: &str, moved_aside: usize, moved_in: usize) -> Bench {
    let bench = damaged();
    let dir = bench.settings.dir.clone();
    let mut new = Bench::new();
    new.append("new", vec![report(Some(1), "1"), report(Some(2), "2")]);
    new.open.take().expect("open").stop().expect("a sound journal");
    move_files(&dir, &dir.join("damaged-1"), moved_aside);
    let from = dir.join(name);
    move_files(&new.settings.dir, &from, usize::MAX);
    move_files(&from, &dir, moved_in);
    bench
}

#[test]
fn a_salvage_that_was_cut_off_at_any_step_is_begun_again_or_gone_on_with() {
    let mut bench = damaged();
    let half = bench.settings.dir.join("salvaging");
    fs::create_dir(&half).expect("made");
    fs::write(half.join("identity"), "torn").expect("written");
    assert_eq!(recovers(&mut bench), 3);
    assert!(!half.exists() && bench.settings.dir.join("damaged-1/conf").exists());
    let all = usize::MAX;
    for (name, aside, moved_in) in [
        ("salvaged.damaged-1", 0, 0),
        ("salvaged.damaged-1", 2, 0),
        ("salvaged.damaged-1", all, 0),
        ("moving-in", all, 0),
        ("moving-in", all, 2),
        ("moving-in", all, all),
    ] {
        let mut bench = cut_off(name, aside, moved_in);
        assert_eq!(recovers(&mut bench), 2, "{name}, {aside} moved aside, {moved_in} moved in");
        let dir = &bench.settings.dir;
        assert!(!dir.join(name).exists() && dir.join("damaged-1/conf").exists(), "{:?}", names(dir));
        assert_eq!(bench.metrics.salvages.get(), 0, "it was salvaged again");
    }
}

/// `journal check` may be the first to come.
#[test]
fn what_looks_into_a_journal_that_was_cut_off_sees_the_new_one() {
    for (name, moved_in) in [("salvaged.damaged-1", 0), ("moving-in", 0), ("moving-in", 3)] {
        let mut bench = cut_off(name, if name == "moving-in" { usize::MAX } else { 0 }, moved_in);
        let mut found = 0;
        let examined = examine(&bench.settings.dir, |_| {
            found += 1;
            Ok(())
        });
        assert!(examined.is_whole() && found > 0, "{examined:?}");
        assert_eq!(recovers(&mut bench), 2);
    }
}

/// A crash between the two renames of the version before, and one before them. In between somebody may have made the
/// folder anew, as service managers do.
#[test]
fn a_salvage_of_the_version_before_that_was_cut_off_is_finished_or_begun_again() {
    for made_again in [false, true] {
        let mut bench = closed();
        let (dir, new) = (bench.settings.dir.clone(), bench.dir.path().join("journal.salvaging"));
        fs::rename(&dir, &new).expect("renamed");
        if made_again {
            fs::create_dir(&dir).expect("made");
            fs::write(dir.join("lock"), "").expect("made");
        }
        assert_eq!(recovers(&mut bench), 3, "the folder was made again: {made_again}");
        bench.open.take().expect("open").stop().expect("a sound journal");
        fs::create_dir(&new).expect("made");
        assert_eq!((recovers(&mut bench), new.exists()), (3, false));
    }
}
