//! Damage to the journal's files: whatever it is, the next start goes on with what is whole, no report comes back with
//! other bytes, and none is missing without a word.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;

use super::identity::Known;
use super::store::recent;
use super::*;

/// A journal of some segments, stopped in order: what was drained and what is left.
struct Template {
    bench: Bench,
    /// All that was ever appended.
    sent: HashMap<(String, u64), String>,
    /// What was not drained.
    left: Vec<(String, u64)>,
    letters: u64,
}

const IDS: [&str; 4] = ["a", "b", "c", "d"];

fn settings(settings: &mut config::Journal) {
    settings.lanes = 3;
    // Some of it in bundles, some in runs.
    settings.recent_bytes = 512 << 10;
}

/// Small and large reports, drained here and there, and restarted; with dead letters, so that sled's log is long.
fn template() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let template = made(190);
        let db = fs::metadata(template.bench.settings.dir.join("db")).expect("a file").len();
        assert!(db > 2 * log::SEGMENT_BYTES as u64, "too few segments to damage: {db} bytes");
        template
    })
}

/// The same with few.
fn short_template() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| made(3))
}

fn made(letters: u64) -> Template {
    let mut bench = Bench::with(settings);
    let (mut sent, mut left) = (HashMap::new(), Vec::new());
    // The last ones are small: what a stop writes behind the last commit is less than a page then.
    for seq in 0..510_u64 {
        let id = IDS[seq as usize % 4];
        let data = format!("\"{seq}-{}\"", "x".repeat(if seq % 12 == 0 && seq < 490 { 60_000 } else { 300 }));
        ack(&bench.append(id, vec![report(Some(seq), &data)])[0]);
        sent.insert((id.to_owned(), seq), data);
        left.push((id.to_owned(), seq));
        if seq % 50 == 49 && seq < 400 {
            while !bench.drain(id, 4).is_empty() {}
            left.retain(|(of, _)| of != id);
        }
        if seq == 300 {
            bench.reopen();
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for seq in 0..letters {
        let letter = forged::letter_of("a", seq, format!("\"{}\"", "x".repeat(90_000)), "no");
        runtime.block_on(bench.journal().bury(vec![letter])).expect("a sound journal");
    }
    bench.open.take().expect("open").stop().expect("a sound journal");
    assert!(fs::read_dir(bench.settings.dir.join("runs")).expect("a folder").count() > 1, "nothing was sorted");
    Template { bench, sent, left, letters }
}

/// Copies a journal that nobody writes, but for its sorting: bundles go only after the runs that they moved into count.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    let mut names = files::names(from).expect("a folder");
    names.sort_by_key(|name| (name != "synced", name.clone()));
    for name in names {
        let (from, to) = (from.join(&name), to.join(&name));
        if !from.is_dir() {
            fs::copy(from, to).expect("copied");
        } else {
            while !is_copied(&from, &to) {
                fs::remove_dir_all(&to).expect("just made");
            }
        }
    }
}

/// Copies the files of a folder; whether they are of one instant.
fn is_copied(from: &Path, to: &Path) -> bool {
    let manifest = || fs::read(from.join("manifest")).unwrap_or_default();
    let before = manifest();
    fs::create_dir(to).expect("a folder");
    let names = files::names(from).expect("a folder");
    names.iter().all(|name| fs::copy(from.join(name), to.join(name)).is_ok()) && manifest() == before
}

#[derive(Debug, Clone)]
enum Damaging {
    Flip,
    Zero { bytes: u64 },
    Scribble { bytes: u64 },
    Cut,
}

fn damaging() -> impl Strategy<Value = Damaging> {
    prop_oneof![
        4 => Just(Damaging::Flip),
        2 => prop_oneof![Just(20), Just(512), Just(4096), Just(1 << 20)].prop_map(|bytes| Damaging::Zero { bytes }),
        1 => prop_oneof![Just(16), Just(4096)].prop_map(|bytes| Damaging::Scribble { bytes }),
        1 => Just(Damaging::Cut),
    ]
}

/// Where: in the file as a whole, at the beginning of a segment, or near the end of what is written.
fn place() -> impl Strategy<Value = (u8, f64)> {
    (0u8..3, 0f64..1.0)
}

fn apply(damage: &Damaging, (whereabouts, fraction): (u8, f64), file: &Path) {
    let file = fs::File::options().write(true).read(true).open(file).expect("a file");
    let length = file.metadata().expect("a length").len();
    if length == 0 {
        // The lock has nothing in it.
        return;
    }
    let written = {
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes.iter().rposition(|&byte| byte != 0).map_or(1, |last| last as u64 + 1)
    };
    let part = |bytes: u64| (bytes as f64 * fraction) as u64;
    let at = match whereabouts {
        0 => part(written),
        1 => part(length.div_ceil(log::SEGMENT_BYTES as u64)) * log::SEGMENT_BYTES as u64 + part(20),
        _ => written.saturating_sub(part(8_192) + 1),
    };
    let at = at.min(length - 1);
    match *damage {
        Damaging::Flip => {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("read");
            file.write_all_at(&[byte[0] ^ (1 << (at % 8))], at).expect("written");
        }
        Damaging::Zero { bytes } => file.write_all_at(&vec![0; bytes.min(length - at) as usize], at).expect("written"),
        Damaging::Scribble { bytes } => {
            file.write_all_at(&vec![0xA5; bytes.min(length - at) as usize], at).expect("written");
        }
        Damaging::Cut => file.set_len(at).expect("cut"),
    }
}

/// Opens a copy that `damage` was done to, drains all, and compares. Whether the damage was said.
fn survives(damage: impl FnOnce(&Path)) -> bool {
    survives_on(template(), damage)
}

/// The same, where the damage is not to sled's log.
fn survives_beside(damage: impl FnOnce(&Path)) -> bool {
    survives_on(short_template(), damage)
}

fn survives_on(template: &Template, damage: impl FnOnce(&Path)) -> bool {
    let Template { bench: template, sent, left, letters } = template;
    let folder = tempfile::tempdir().expect("a folder for the test");
    let dir = folder.path().join("journal");
    copy(&template.settings.dir, &dir);
    damage(&dir);
    let settings = config::Journal { dir: dir.clone(), ..template.settings.clone() };
    let (journal, metrics) = open(&settings);
    let bench = Bench { dir: folder, settings, metrics, open: Some(journal) };
    let mut found = std::collections::HashSet::new();
    for id in IDS {
        let Some(stream) = bench.stream(id) else { continue };
        let Taken { batch, .. } = bench.journal().read(&stream, usize::MAX, usize::MAX).expect("a sound journal");
        for record in batch.records {
            let Body::Report(report) = record.body else { panic!("no marker was sent") };
            let key = (id.to_owned(), report.number.seq);
            assert_eq!(report.data.as_deref(), sent.get(&key).map(String::as_bytes), "{key:?}");
            found.insert(key);
        }
    }
    let kept = bench.metrics.audit.snapshot().dead;
    let said = bench.journal().status().damaged > 0 || bench.settings.dir.join("damaged-1").exists();
    assert!(said || kept == *letters, "not a word of {} dead letters", letters - kept);
    let missing: Vec<_> = left.iter().filter(|key| !found.contains(*key)).collect();
    assert!(said || missing.is_empty(), "not a word of {} missing reports: {missing:?}", missing.len());
    assert!(said || found.len() == left.len(), "not a word, and settled reports are back");
    ack(&bench.append("new", vec![report(None, "1")])[0]);
    said
}

#[test]
fn an_undamaged_copy_is_whole() {
    assert!(!survives(|_| {}));
}

/// What sled alone would lose without a word.
#[test]
fn a_damaged_header_of_any_segment_is_seen() {
    let segments = fs::metadata(template().bench.settings.dir.join("db")).expect("a file").len();
    for segment in 0..segments.div_ceil(log::SEGMENT_BYTES as u64) {
        let at = segment * log::SEGMENT_BYTES as u64;
        let scribble = |dir: &Path| {
            let file = fs::File::options().write(true).open(dir.join("db")).expect("a file");
            file.write_all_at(&[0xA5; 20], at).expect("written");
        };
        assert!(survives(scribble), "the header of segment {segment}");
    }
}

/// Who the journal in a folder is.
pub(super) fn identity(dir: &Path) -> Identity {
    match Known::of(dir).expect("it can be read") {
        Known::Sealed(identity) => identity,
        known => panic!("{known:?}"),
    }
}

pub(super) fn seal(dir: &Path) -> Seal {
    Seal::of(&identity(dir).secret)
}

/// The last segment that was written, and the end of what is in it.
fn end_of_bundles(dir: &Path) -> (std::path::PathBuf, u64) {
    let (name, end) = recent::end(dir, &identity(dir)).expect("it can be read");
    (Path::new(recent::FOLDER).join(name.file_name().expect("a name")), end)
}

#[test]
fn the_loss_of_the_last_commit_is_seen() {
    let (segment, end) = end_of_bundles(&short_template().bench.settings.dir);
    let open = |dir: &Path| fs::File::options().write(true).open(dir.join(&segment)).expect("a file");
    assert!(survives_beside(|dir| open(dir).write_all_at(&[0; 100], end - 100).expect("written")));
    assert!(survives_beside(|dir| open(dir).set_len(end - 100).expect("cut")));
    assert!(survives_beside(|dir| open(dir).set_len(0).expect("cut")));
}

#[test]
fn the_loss_of_bundles_is_seen() {
    let (segment, _) = end_of_bundles(&short_template().bench.settings.dir);
    assert!(survives_beside(|dir| fs::remove_file(dir.join(&segment)).expect("removed")));
    assert!(survives_beside(|dir| fs::remove_dir_all(dir.join(recent::FOLDER)).expect("removed")));
}

#[test]
fn the_loss_of_runs_is_seen() {
    let folder = short_template().bench.settings.dir.join("runs");
    let names: Vec<_> = fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").file_name()).collect();
    assert!(names.len() > 1, "there are no runs");
    for name in names {
        assert!(survives_beside(|dir| fs::remove_file(dir.join("runs").join(&name)).expect("removed")), "{name:?}");
    }
}

#[test]
fn the_loss_of_what_was_done_last_to_trees_is_seen() {
    let Template { bench, .. } = template();
    let end = log::end(&bench.settings.dir, &seal(&bench.settings.dir)).expect("it can be read");
    assert!(survives(|dir| {
        let file = fs::File::options().write(true).open(dir.join("db")).expect("a file");
        file.write_all_at(&[0; 4096], end - 4096).expect("written");
    }));
    assert!(survives(|dir| {
        fs::File::options().write(true).open(dir.join("db")).expect("a file").set_len(end - 4096).expect("cut");
    }));
}

/// sled would make an empty one.
#[test]
fn the_loss_of_the_log_is_seen() {
    assert!(survives(|dir| fs::remove_file(dir.join("db")).expect("removed")));
}

/// sled makes `conf` first, in two writes: a kill between them was once taken for damage.
#[test]
fn a_first_start_that_was_cut_off_is_no_damage() {
    let bench = Bench::new();
    bench.append("a", vec![report(Some(1), "1")]);
    let whole = fs::read(bench.settings.dir.join("conf")).expect("a file");
    for length in 0..=whole.len() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let settings = config::Journal { dir: folder.path().join("journal"), ..bench.settings.clone() };
        fs::create_dir(&settings.dir).expect("made");
        fs::write(settings.dir.join("conf"), &whole[..length]).expect("written");
        open(&settings).0.stop().expect("a sound journal");
        assert!(!settings.dir.join("damaged-1").exists(), "{length} bytes of conf");
    }
}

fn cases() -> u32 {
    std::env::var("FOREBAY_DAMAGES").map_or(24, |cases| cases.parse().expect("FOREBAY_DAMAGES is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn damage_to_the_log_is_survived_and_said(damage in damaging(), place in place()) {
        survives(|dir| apply(&damage, place, &dir.join("db")));
    }

    #[test]
    fn damage_to_bundles_is_survived_and_said(damage in damaging(), place in place(), which in 0usize..100) {
        survives_beside(|dir| {
            let mut files: Vec<_> = fs::read_dir(dir.join(recent::FOLDER)).expect("a folder").collect::<Result<_, _>>().expect("files");
            files.sort_by_key(fs::DirEntry::path);
            apply(&damage, place, &files[which % files.len()].path());
        });
    }

    #[test]
    fn damage_to_runs_is_survived_and_said(damage in damaging(), place in place(), which in 0usize..100) {
        survives_beside(|dir| {
            let mut files: Vec<_> = fs::read_dir(dir.join("runs")).expect("a folder").collect::<Result<_, _>>().expect("files");
            files.sort_by_key(fs::DirEntry::path);
            apply(&damage, place, &files[which % files.len()].path());
        });
    }

    #[test]
    fn damage_to_any_other_file_is_survived(damage in damaging(), place in place(), which in 0usize..8) {
        survives_beside(|dir| {
            let files = fs::read_dir(dir).expect("a folder").map(|file| file.expect("a file").path());
            let mut files: Vec<_> = files.filter(|path| path.is_file() && !path.ends_with("db")).collect();
            files.sort();
            apply(&damage, place, &files[which % files.len()]);
        });
    }
}
