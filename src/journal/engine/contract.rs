//! What every engine promises, by operations made up against a model.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::super::seal::Seal;
use super::memory::{Memory, Positions};
use super::sled::Trees;
use super::{Engine, Found, Kind, Outcome, Places as _, Settings, Writer as _};
use crate::report::{Id, Position};

const IDS: usize = 3;
const KEYS: u8 = 4;
const KINDS: [Kind; 3] = [Kind::Letter, Kind::Pause, Kind::Damaged];

#[derive(Debug, Clone)]
enum Step {
    /// An entry of so many records.
    Append(usize, u64, Vec<u8>),
    /// The oldest so many entries of an id.
    Truncate(usize, usize),
    Put(usize, u8, Option<Vec<u8>>),
    Sync,
    /// A sync that the engine refuses, if it may.
    Refuse,
    /// An end in order, and an opening.
    Reopen,
    /// What kill -9 leaves, and an opening.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        6 => (0..IDS, 1..4u64, bytes()).prop_map(|(id, records, value)| Step::Append(id, records, value)),
        3 => (0..IDS, 1..4usize).prop_map(|(id, count)| Step::Truncate(id, count)),
        2 => (0..KINDS.len(), 0..KEYS, proptest::option::of(bytes())).prop_map(|(kind, key, value)| {
            Step::Put(kind, key, value)
        }),
        4 => Just(Step::Sync),
        1 => Just(Step::Refuse),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

fn id(number: usize) -> Id {
    Id::new(["a", "ab", "b.1"][number]).expect("an id")
}

/// Entries by id, in order of position: first, last, value.
type Entries = HashMap<usize, Vec<(Position, Position, Vec<u8>)>>;
type Values = BTreeMap<(usize, Vec<u8>), Vec<u8>>;

/// What is known of an engine.
#[derive(Default, Clone)]
struct Model {
    entries: Entries,
    values: Values,
    stamp: Position,
}

/// Opens an engine anew, from its files or from what was left in memory.
type Reopen<E> = fn(&Bench<E>, Option<E>, &mut Taken<<E as Engine>::Places>) -> (E, <E as Engine>::Writer);

/// An engine, opened, and how it is opened again.
struct Bench<E: Engine> {
    dir: TempDir,
    engine: Option<(E, E::Writer)>,
    places: HashMap<Id, E::Places>,
    reopen: Reopen<E>,
    /// What a crash would leave.
    crash: fn(&Bench<E>) -> (TempDir, Option<E>),
    /// Makes the next sync one that is refused; none for an engine whose syncs end well or finally.
    refuses: Option<fn(&E)>,
    /// What an opening found.
    found: Model,
    /// What there is, and what of it was synced last.
    now: Model,
    synced: Model,
    /// Of entries that are not synced yet.
    locations: Vec<(usize, <E::Writer as super::Writer>::Location)>,
    next: u64,
}

/// What an opening found.
struct Taken<P> {
    places: HashMap<Id, P>,
    entries: HashMap<Id, Vec<Bytes>>,
    stamp: Position,
}

impl<P: Default> Found<P> for Taken<P> {
    fn entry(&mut self, id: Id, value: Bytes) -> &mut P {
        self.entries.entry(id).or_default().push(value);
        self.places.entry(id).or_default()
    }

    fn damaged(&mut self, name: &[u8], _: Bytes) {
        panic!("{} is damaged", name.escape_ascii());
    }

    fn stamp(&mut self, position: Position) {
        self.stamp = position;
    }
}

fn settings(dir: &Path) -> Settings {
    Settings { dir: dir.join("journal"), seal: Seal::of(&[7; 32]), lanes: 2, cache_bytes: 1 << 20 }
}

impl<E: Engine> Bench<E> {
    fn open(&mut self, engine: Option<E>) {
        let mut taken = Taken { places: HashMap::new(), entries: HashMap::new(), stamp: Position(0) };
        self.engine = Some((self.reopen)(self, engine, &mut taken));
        self.places = taken.places;
        let numbered = (0..IDS).map(|number| {
            let values = taken.entries.remove(&id(number)).unwrap_or_default();
            (number, values.into_iter().map(|value| (Position(0), Position(0), value.to_vec())).collect())
        });
        self.found = Model { entries: numbered.collect(), values: Values::new(), stamp: taken.stamp };
    }

    fn writer(&mut self) -> &mut E::Writer {
        &mut self.engine.as_mut().expect("it is open").1
    }

    /// All that a reading gives of an id, up to a position.
    fn read(&mut self, number: usize, through: Position) -> Vec<(Position, Vec<u8>)> {
        let (engine, id) = (&self.engine.as_ref().expect("it is open").0, id(number));
        let places = self.places.entry(id).or_default();
        let cursor = engine.cursor(&id, places, Position(1), through);
        let mut read = Vec::new();
        let all = engine.read(&id, cursor, &mut |first, value| {
            read.push((first, value.to_vec()));
            ControlFlow::Continue(())
        });
        all.expect("it can be read");
        read
    }

    fn values(&self) -> Values {
        let engine = &self.engine.as_ref().expect("it is open").0;
        let of = |kind: usize| {
            let pages = std::iter::successors(Some(Vec::new()), |page: &Vec<(Vec<u8>, Bytes)>| {
                let after = page.last().map_or(&[][..], |(key, _)| key);
                Some(engine.list(KINDS[kind], after, 2).expect("it can be listed")).filter(|page| !page.is_empty())
            });
            let listed: Vec<_> = pages.flatten().collect();
            for (key, value) in &listed {
                assert_eq!(engine.get(KINDS[kind], key).expect("it can be read").as_ref(), Some(value));
            }
            listed.into_iter().map(move |(key, value)| ((kind, key), value.to_vec()))
        };
        (0..KINDS.len()).flat_map(of).collect()
    }

    /// Runs the steps, and holds what is read, listed and found against the model.
    fn run(mut self, steps: Vec<Step>) {
        self.open(None);
        for step in steps {
            match step {
                Step::Append(number, records, value) => self.append(number, records, value),
                Step::Truncate(number, count) => self.truncate(number, count),
                Step::Put(kind, key, value) => self.put(kind, key, value),
                Step::Sync => self.sync(),
                Step::Refuse => self.refuse(),
                Step::Reopen => {
                    self.sync();
                    let (engine, writer) = self.engine.take().expect("it is open");
                    writer.close().expect("it closes");
                    self.open(Some(engine));
                    self.hold_against_what_is_found();
                }
                Step::Crash => {
                    let (dir, engine) = (self.crash)(&self);
                    drop(self.engine.take());
                    self.dir = dir;
                    self.open(engine);
                    self.locations.clear();
                    self.hold_against_what_is_found();
                    self.go_on_from_what_is_found();
                }
            }
            self.hold_against_what_is_read();
        }
    }

    fn append(&mut self, number: usize, records: u64, value: Vec<u8>) {
        let (first, last) = (Position(self.next), Position(self.next + records - 1));
        self.next += records;
        let location = self.writer().append(&id(number), first, last, &value).expect("it takes entries");
        self.locations.push((number, location));
        self.now.entries.entry(number).or_default().push((first, last, value));
    }

    fn truncate(&mut self, number: usize, count: usize) {
        // What is not synced cannot be settled.
        let count = count.min(self.readable(number).len());
        let entries = self.now.entries.entry(number).or_default();
        let Some((_, through, _)) = entries.drain(..count).next_back() else { return };
        let freed = self.places.entry(id(number)).or_default().settle(through);
        self.writer().truncate(&id(number), through, freed).expect("it truncates");
    }

    fn put(&mut self, kind: usize, key: u8, value: Option<Vec<u8>>) {
        let old = self.writer().put(KINDS[kind], &[key], value.as_deref()).expect("it keeps values");
        let known = match value {
            Some(value) => self.now.values.insert((kind, vec![key]), value),
            None => self.now.values.remove(&(kind, vec![key])),
        };
        assert_eq!(old, known.map(|known| known.len()));
    }

    fn sync(&mut self) {
        let stamp = Position(self.next);
        assert!(matches!(self.writer().sync(stamp), Ok(Outcome::Synced(_))));
        for (number, location) in std::mem::take(&mut self.locations) {
            self.places.entry(id(number)).or_default().add(location);
        }
        self.now.stamp = stamp;
        self.synced = self.now.clone();
        let bytes = self.engine.as_ref().expect("it is open").0.bytes_on_disk();
        assert_eq!(bytes > 0, self.refuses.is_none(), "what is synced is on a disk, if there is one");
    }

    fn refuse(&mut self) {
        let Some(refuses) = self.refuses else { return };
        refuses(&self.engine.as_ref().expect("it is open").0);
        let stamp = Position(self.next);
        assert!(matches!(self.writer().sync(stamp), Ok(Outcome::Refused(_))));
        self.locations.clear();
        let kept: HashMap<_, _> = (0..IDS).map(|number| (number, self.readable(number))).collect();
        self.now = Model { entries: kept, ..self.synced.clone() };
    }

    /// The entries of an id that are synced and not truncated.
    fn readable(&self, number: usize) -> Vec<(Position, Position, Vec<u8>)> {
        let of = |model: &Model| model.entries.get(&number).cloned().unwrap_or_default();
        let synced = of(&self.synced);
        of(&self.now).into_iter().filter(|entry| synced.contains(entry)).collect()
    }

    fn hold_against_what_is_read(&mut self) {
        for number in 0..IDS {
            let readable = self.readable(number);
            let through = readable.last().map_or(Position(0), |(_, last, _)| *last);
            let readable: Vec<_> = readable.into_iter().map(|(first, _, value)| (first, value)).collect();
            assert_eq!(self.read(number, through), readable, "id {number}");
        }
        assert_eq!(self.values(), self.now.values);
    }

    /// All that was synced and is not truncated is there, in order; what else there is was appended or truncated since.
    fn hold_against_what_is_found(&self) {
        assert!(self.found.stamp >= self.synced.stamp);
        for number in 0..IDS {
            let of = |model: &Model| model.entries.get(&number).cloned().unwrap_or_default();
            let found: Vec<_> = self.found.entries[&number].iter().map(|(.., value)| value.clone()).collect();
            let kept: Vec<_> = self.readable(number).into_iter().map(|entry| entry.2).collect();
            let mut all = of(&self.synced);
            let since: Vec<_> = of(&self.now).into_iter().filter(|entry| !all.contains(entry)).collect();
            all.extend(since);
            let all: Vec<_> = all.into_iter().map(|entry| entry.2).collect();
            let is_of_all = found.is_empty() || all.windows(found.len()).any(|window| window == found);
            assert!(is_of_all, "{found:?} of {all:?}");
            let has_kept = kept.is_empty() || found.windows(kept.len()).any(|window| window == kept);
            assert!(has_kept, "{kept:?} in {found:?}");
        }
    }

    /// After a crash: the youngest of what was appended may be gone, the youngest of what was truncated may be back.
    fn go_on_from_what_is_found(&mut self) {
        for number in 0..IDS {
            let read = self.read(number, Position(u64::MAX >> 1));
            let entries = read.into_iter().map(|(first, value)| (first, first, value)).collect();
            self.now.entries.insert(number, entries);
        }
        self.now.values = self.values();
        self.now.stamp = self.found.stamp;
        self.synced = self.now.clone();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for file in fs::read_dir(from).expect("it is there") {
        let file = file.expect("it is there");
        let target = to.join(file.file_name());
        if file.file_type().expect("it is there").is_dir() {
            copy(&file.path(), &target);
        } else {
            fs::copy(file.path(), target).expect("it can be copied");
        }
    }
}

fn memory() -> Bench<Memory> {
    Bench {
        dir: TempDir::new().expect("a folder"),
        engine: None,
        places: HashMap::new(),
        reopen: |_, engine, found: &mut Taken<Positions>| engine.unwrap_or_default().reopen(found),
        crash: |bench| {
            let left = bench.engine.as_ref().expect("it is open").0.crash();
            (TempDir::new().expect("a folder"), Some(left))
        },
        refuses: Some(Memory::refuse),
        found: Model::default(),
        now: Model::default(),
        synced: Model::default(),
        locations: Vec::new(),
        next: 1,
    }
}

fn on_disk<E: Engine>() -> Bench<E> {
    Bench {
        dir: TempDir::new().expect("a folder"),
        engine: None,
        places: HashMap::new(),
        reopen: |bench, engine, found| {
            drop(engine);
            E::open(&settings(bench.dir.path()), found).expect("it opens")
        },
        crash: |bench| {
            let left = TempDir::new().expect("a folder");
            copy(&settings(bench.dir.path()).dir, &settings(left.path()).dir);
            (left, None)
        },
        refuses: None,
        found: Model::default(),
        now: Model::default(),
        synced: Model::default(),
        locations: Vec::new(),
        next: 1,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn memory_keeps_what_it_promises(steps in proptest::collection::vec(step(), 1..40)) {
        memory().run(steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn sled_keeps_what_it_promises(steps in proptest::collection::vec(step(), 1..40)) {
        on_disk::<Trees>().run(steps);
    }
}
