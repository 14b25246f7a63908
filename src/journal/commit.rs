//! The commit thread: the one writer of the journal.
//!
//! A cycle takes all commands that wait, writes them, syncs once, and only then lets anybody know. While it syncs, the
//! next cycle's commands gather: group commit, with at most [`super::queue`]'s moment of looking out for more.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::answers::{Group, Verdict, answer, note_done_waiter};
use super::append::{Append, Content, ReplyTo};
use super::bundle::{BUNDLE_BYTES, Bundles, Spot};
use super::entry::{self, RECORD_OVERHEAD_BYTES, Stamp};
use super::error::JournalError;
use super::limits::Level;
use super::pauses;
use super::positions::Positions;
use super::queue::{Buried, Command, Settled};
use super::senders::{Wanted, note_senders};
use super::stream::{Committed, Stream};
use super::{Drain, Shared};
use crate::metrics::Revised;
use crate::report::{Id, Marker, Position, Refusal};
use crate::trace;

/// Reports of one id and commit share entries up to this size; a larger report has an entry of its own.
pub(super) const SHARED_ENTRY_BYTES: usize = 32 * 1024;
/// How long an answer about the free disk holds. What is written meanwhile is far less than a sensible reserve.
const DISK_CHECK: Duration = Duration::from_millis(50);
/// Bundles that one cycle removes at the most, beyond as many as the one before added: an ack waits for it.
const REMOVED_AT_ONCE: usize = 256;
/// Appending commands that are worth looking out for. With fewer, who looks is in the way of those who bring them.
const WORTH_LINGERING: usize = 16;
/// The part of `journal.recent_bytes` that bundles have while there are runs.
const SHARE_BESIDE_RUNS: u64 = 4;
/// Appends are refused once bundles have so many times what they may have, and so many bytes.
const BEHIND: u64 = 3;
const LEAST_BEHIND: u64 = 64 << 20;
/// What is changed in trees, and which bundles are gone, is synced after this time where nobody waits for it.
const IDLE_SYNC: Duration = Duration::from_millis(500);

/// The commit thread's own state.
pub(super) struct Committer {
    pub(super) shared: Arc<Shared>,
    drain: Arc<dyn Drain>,
    positions: Positions,
    pub(super) bundles: Bundles,
    /// Whether the disk is at its reserve, and when it was asked.
    disk_is_low: Option<(Instant, bool)>,
    /// Since when something is changed that no sync has covered, and no ack waits for.
    pub(super) dirty: Option<Instant>,
    /// Entries in the bundle that is being written, which is in `value`.
    entries: u32,
    /// Where the entries of the cycle are.
    spots: Vec<Spot>,
    pub(super) value: Vec<u8>,
}

/// An append that was looked at, and why it is refused, if it is.
pub(super) struct Weighed {
    stream: Arc<Stream>,
    size: u64,
    /// Whether somebody waits for its `done`.
    waits: bool,
    pub(super) refusal: Option<Refusal>,
}

/// What one cycle gathers, and releases after the sync.
#[derive(Default)]
pub(super) struct Cycle {
    groups: Vec<Group>,
    answers: Vec<(ReplyTo, Verdict)>,
    /// Bytes that were reserved for the cycle's appends.
    reserved: usize,
    /// Bytes that the cycle adds to the journal, by estimate.
    added: u64,
    /// Clients that will wait for a `done` of it.
    waiters: u64,
    buried: Vec<(Buried, oneshot::Sender<Buried>)>,
    revised: Revised,
    /// Who waits for revisions.
    waiting: Vec<oneshot::Sender<()>>,
    pauses: Vec<pauses::Change>,
    /// Whether bundles must be on disk at its end, and trees.
    must_sync: bool,
    must_sync_trees: bool,
    stop: bool,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, drain: Arc<dyn Drain>, positions: Positions, bundles: Bundles) -> Self {
        Self {
            shared,
            drain,
            positions,
            bundles,
            disk_is_low: None,
            dirty: None,
            entries: 0,
            spots: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Runs until [`Command::Stop`].
    ///
    /// # Errors
    /// The first failed write or sync. It is never tried again, and nothing of its cycle is released.
    pub(super) fn run(mut self) -> Result<(), JournalError> {
        self.shared.sorting.ask(self.bundles.next() - 1, self.is_much());
        let mut commands = Vec::new();
        // How many appending commands the last cycle had.
        let mut answered = 0;
        loop {
            // Who was answered may be back at once, and a cycle for all costs less than one for each.
            self.shared.queue.linger(answered, WORTH_LINGERING);
            self.shared.queue.take(&mut commands, self.dirty.map(|since| IDLE_SYNC.saturating_sub(since.elapsed())));
            answered = commands.iter().filter(|command| command.is_append()).count();
            let overdue = self.dirty.is_some_and(|since| since.elapsed() >= IDLE_SYNC);
            if self.cycle(commands.drain(..), overdue)? {
                return Ok(());
            }
        }
    }

    /// One cycle, which syncs all there is where it `must_sync`; whether it was told to stop.
    fn cycle(&mut self, commands: impl Iterator<Item = Command>, must_sync: bool) -> Result<bool, JournalError> {
        let mut cycle = Cycle { must_sync, must_sync_trees: must_sync, ..Cycle::default() };
        for command in commands {
            self.perform(command, &mut cycle)?;
        }
        let commit = cycle.span().entered();
        tracing::info_span!(target: trace::TARGET, "write").in_scope(|| self.write(&mut cycle))?;
        let stop = cycle.stop;
        if cfg!(forebay_plant = "ack_before_sync") {
            self.acknowledge(&mut cycle);
        }
        if cycle.must_sync {
            let began = Instant::now();
            let store = &self.shared.store;
            let synced = tracing::info_span!(target: trace::TARGET, "sync").in_scope(|| store.sync_bundles());
            self.shared.metrics.syncs.observe(began.elapsed());
            if cfg!(not(forebay_plant = "go_on_after_failed_sync")) {
                synced?;
            }
        }
        self.acknowledge(&mut cycle);
        drop(commit);
        if cycle.must_sync_trees {
            self.sync_trees()?;
        }
        self.release(cycle);
        Ok(stop)
    }

    /// No ack waits for this.
    fn sync_trees(&mut self) -> Result<(), JournalError> {
        if self.shared.store.trees_are_changed() {
            self.positions.take(1, now_micros());
            self.shared.store.sync_trees(self.positions.last())?;
        }
        self.dirty = None;
        Ok(())
    }

    fn perform(&mut self, command: Command, cycle: &mut Cycle) -> Result<(), JournalError> {
        match command {
            Command::Append(appends, reserved) => {
                cycle.reserved += reserved;
                appends.into_iter().for_each(|append| self.admit(append, cycle));
            }
            Command::AppendTogether(appends, reserved) => {
                cycle.reserved += reserved;
                self.admit_together(appends, cycle);
            }
            Command::Truncate(settled) => self.truncate(settled),
            Command::Sorted { through, swept } => {
                self.bundles.sorted(through, swept);
                self.dirty.get_or_insert_with(Instant::now);
            }
            Command::Bury(letters, done) => {
                let buried = self.bury(&letters)?;
                cycle.must_sync_trees |= !letters.is_empty();
                cycle.buried.push((buried, done));
                cycle.must_sync = true;
            }
            Command::Revise(revisions, done) => {
                for revision in revisions {
                    self.revise(revision, &mut cycle.revised)?;
                }
                cycle.waiting.push(done);
                (cycle.must_sync, cycle.must_sync_trees) = (true, true);
            }
            Command::Pause(id, paused, done) => {
                let change = Self::change_pause(&self.shared, (id, paused), done, cycle.pauses.len())?;
                cycle.pauses.push(change);
                (cycle.must_sync, cycle.must_sync_trees) = (true, true);
            }
            Command::SetAside(damaged) => {
                damaged.set_aside(&self.shared.store)?;
                (cycle.must_sync, cycle.must_sync_trees) = (true, true);
            }
            Command::Stop => {
                cycle.stop = true;
                (cycle.must_sync, cycle.must_sync_trees) = (true, true);
            }
        }
        Ok(())
    }

    /// Notes what is settled. Bundles go when nothing is left of them, runs likewise.
    fn truncate(&mut self, settled: Settled) {
        settled.in_bundles.into_iter().for_each(|bundle| self.bundles.leave(bundle));
        if cfg!(not(forebay_plant = "forget_settlements")) {
            self.bundles.settled(settled.ids);
        }
        self.dirty.get_or_insert_with(Instant::now);
    }

    /// Puts an append into the group of its id, or notes why it is refused.
    fn admit(&mut self, append: Append, cycle: &mut Cycle) {
        let weighed = self.weigh(&append, cycle);
        self.enter(append, weighed, cycle);
    }

    /// Looks at an append against all limits, with what is on its way already. It counts from here on.
    pub(super) fn weigh(&mut self, append: &Append, cycle: &mut Cycle) -> Weighed {
        let Append { id, content, reply_to } = append;
        let size = content_bytes(id, content) as u64;
        let stream = self.shared.index.join_commit(id);
        let backlog = stream.lock().occupancy();
        let waits = reply_to.is_some() && *content == Content::Marker(Marker::Done);
        let level = Level {
            backlog,
            held: self.held(backlog == 1, waits, cycle),
            journal_bytes: self.shared.bytes() + cycle.added + size,
            disk_is_low: self.disk_is_low(),
            sorting_is_behind: self.sorting_is_behind(),
            stopping: self.shared.is_stopping(),
        };
        let refusal = self.shared.limits.refusal(id, content, level);
        let (size, waits) = if refusal.is_none() { (size, waits) } else { (0, false) };
        cycle.added += size;
        cycle.waiters += u64::from(waits);
        Weighed { stream, size, waits, refusal }
    }

    /// An append that was found good is refused after all.
    pub(super) fn unweigh(&mut self, weighed: &Weighed, cycle: &mut Cycle) {
        cycle.added -= weighed.size;
        cycle.waiters -= u64::from(weighed.waits);
    }

    /// Puts an append that was looked at where that says.
    pub(super) fn enter(&mut self, append: Append, weighed: Weighed, cycle: &mut Cycle) {
        let Append { id, content, reply_to } = append;
        let Weighed { stream, refusal, .. } = weighed;
        let verdict = match refusal {
            Some(refusal) => {
                self.shared.index.leave_commit(&stream);
                if reply_to.is_none() {
                    tracing::warn!(%id, reason = %refusal, "a disconnected marker was not kept");
                }
                Verdict::Refused(Box::new(refusal))
            }
            None => cycle.join(stream, content),
        };
        if let Some(reply_to) = reply_to
            && (cfg!(not(forebay_plant = "refuse_silently")) || matches!(verdict, Verdict::Written { .. }))
        {
            cycle.answers.push((reply_to, verdict));
        }
    }

    /// Ids in memory, where an append needs more of it: the first of its id, or a `done` that somebody waits for. Two
    /// who wait cost about what an id does.
    fn held(&self, is_first: bool, waits: bool, cycle: &Cycle) -> u64 {
        if !is_first && !waits {
            return 0;
        }
        let waiters = self.shared.done_waiters.load(Ordering::Relaxed) + cycle.waiters + u64::from(waits);
        self.shared.index.streams() as u64 + waiters / 2
    }

    /// Whether the disk is at its reserve, as of [`DISK_CHECK`] ago at the most.
    fn disk_is_low(&mut self) -> bool {
        match self.disk_is_low {
            Some((asked, low)) if asked.elapsed() < DISK_CHECK => low,
            _ => {
                let low = self.shared.disk_is_low();
                self.disk_is_low = Some((Instant::now(), low));
                low
            }
        }
    }

    /// Numbers and writes the cycle's groups. Settlements go with them, or with what is synced otherwise.
    fn write(&mut self, cycle: &mut Cycle) -> Result<(), JournalError> {
        let (added, holds) = (self.bundles.added(), self.shared.sorting.holds_settlements());
        if self.bundles.remove_oldest(REMOVED_AT_ONCE + added, holds, &self.shared.store) {
            self.dirty.get_or_insert_with(Instant::now);
        }
        self.value.clear();
        self.spots.clear();
        while self.bundles.has_settlements() && (cycle.must_sync || !cycle.groups.is_empty()) {
            self.close_bundle(self.value.len())?;
            self.bundles.write_settlements(self.shared.store.seal(), &mut self.value);
        }
        if !cycle.groups.is_empty() {
            let now = now_micros();
            for group in &mut cycle.groups {
                group.first = self.positions.take(group.contents.len() as u64, now);
            }
            for group in &mut cycle.groups {
                self.write_group(group, now)?;
            }
            cycle.must_sync = true;
        }
        self.close_bundle(self.value.len())?;
        if cycle.must_sync
            && let Some(heading) = self.bundles.mark(self.positions.last())
        {
            self.shared.store.add_bundle(heading, &[])?;
        }
        Ok(())
    }

    fn write_group(&mut self, group: &mut Group, now: u64) -> Result<(), JournalError> {
        let id = &group.stream.id;
        let (mut written, begun) = (0, self.spots.len());
        while written < group.contents.len() {
            let rest = &group.contents[written..];
            let count = entry_length(id, rest, self.shared.max_entry_records);
            let first = Position(group.first.0 + written as u64);
            let stamp = Stamp { first, accepted_at: now, node_id: self.shared.node_id };
            let mut offset = self.value.len();
            entry::encode(self.shared.store.seal(), id, stamp, rest[..count].iter(), &mut self.value);
            let length = self.value.len() - offset;
            if offset > 0 && self.value.len() > BUNDLE_BYTES {
                self.close_bundle(offset)?;
                offset = 0;
            }
            self.entries += 1;
            let spot = Spot::new(self.bundles.next(), first, offset..offset + length, count);
            self.spots.push(spot.expect("a bundle and a shared entry are bounded"));
            group.bytes += length as u64;
            written += count;
        }
        group.spots = begun..self.spots.len();
        Ok(())
    }

    /// Writes the bundle that ends there, if it is one; what is behind begins the next.
    fn close_bundle(&mut self, end: usize) -> Result<(), JournalError> {
        if end > 0 {
            self.shared.store.add_bundle(self.bundles.heading(self.positions.last()), &self.value[..end])?;
            self.bundles.add(std::mem::take(&mut self.entries), end);
            self.value.drain(..end);
        }
        Ok(())
    }

    /// Lets the world know of what is durable in bundles: counters, flushers, and last the clients.
    fn acknowledge(&mut self, cycle: &mut Cycle) {
        let (groups, answers) = (std::mem::take(&mut cycle.groups), std::mem::take(&mut cycle.answers));
        let metrics = &*self.shared.metrics;
        let reports = groups.iter().map(|g| g.reports).sum();
        metrics.audit.accepted(reports);
        if !groups.is_empty() {
            metrics.commits.observe(reports);
        }
        self.shared.done_waiters.fetch_add(std::mem::take(&mut cycle.waiters), Ordering::Relaxed);
        self.shared.grow(groups.iter().map(|g| g.bytes).sum());
        let mut wanted = Wanted::new();
        for (to, verdict) in &answers {
            let Verdict::Written { group, index } = *verdict else { continue };
            note_done_waiter(&groups[group], index, to);
            if to.outlet.wants_dead() {
                wanted.push((group, index, Arc::clone(&to.outlet)));
            }
        }
        wanted.sort_by_key(|(group, ..)| *group);
        let mut wanted = wanted.into_iter().peekable();
        let now = Instant::now();
        for (at, group) in groups.iter().enumerate() {
            let count = group.contents.len() as u64;
            let through = Position(group.first.0 + count - 1);
            let mut state = group.stream.lock();
            let added = Committed { reports: group.reports, markers: count - group.reports, bytes: group.bytes };
            let synced = state.synced;
            let its = std::iter::from_fn(|| wanted.next_if(|(of, ..)| *of == at).map(|(_, index, to)| (index, to)));
            note_senders(&mut state.senders, its, group.first, synced);
            state.committed(&added, group.first, through, now);
            state.add_recent(&self.spots[group.spots.clone()]);
            self.drain.backlog_grew(&group.stream, &mut state);
        }
        // Only now: whoever sorts them finds their places in the streams.
        self.shared.sorting.ask(self.bundles.next() - 1, self.is_much());
        answer(answers, &groups, self.shared.node_id, metrics);
        self.shared.reservations.add_permits(std::mem::take(&mut cycle.reserved));
    }

    /// Whether the bundles have more than is to be in them. Where there are runs, what comes waits behind them: it
    /// would be sorted sooner or later, and a start reads all that is not.
    fn is_much(&self) -> bool {
        let share = if self.shared.sorting.holds_settlements() { SHARE_BESIDE_RUNS } else { 1 };
        let (most_bytes, most_places) = (self.shared.recent_bytes, self.shared.limits.max_places());
        self.bundles.bytes() > most_bytes / share || self.bundles.places() > most_places / share
    }

    /// Whether the bundles have far more, so that their places would take memory without end.
    fn sorting_is_behind(&self) -> bool {
        let most_bytes = self.shared.recent_bytes.max(LEAST_BEHIND).saturating_mul(BEHIND);
        let most_places = self.shared.limits.max_places().saturating_mul(BEHIND);
        self.bundles.bytes() > most_bytes || self.bundles.places() > most_places
    }

    /// Lets those know who wait for trees, or for all that was queued before: its flushers are started.
    fn release(&self, cycle: Cycle) {
        let Cycle { buried, revised, waiting, pauses, .. } = cycle;
        self.shared.metrics.audit.revised(revised);
        for (buried, done) in buried {
            // A flusher that is gone asks again after the restart.
            let _ = done.send(buried);
        }
        for done in waiting {
            let _ = done.send(());
        }
        pauses.into_iter().for_each(|change| change.release(&self.shared));
    }
}

impl Cycle {
    /// The span of a cycle that commits reports or markers; others have none.
    fn span(&self) -> tracing::Span {
        if self.groups.is_empty() {
            return tracing::Span::none();
        }
        tracing::info_span!(
            target: trace::TARGET,
            trace::COMMIT,
            forebay.reports = self.groups.iter().map(|group| group.reports).sum::<u64>() as i64,
            forebay.ids = self.groups.len() as i64,
            forebay.bytes = self.added as i64,
        )
    }

    /// Adds a content to the group that its stream has in this cycle, or to a new one.
    fn join(&mut self, stream: Arc<Stream>, content: Content) -> Verdict {
        let next = self.groups.len() as u32;
        let group = *stream.lock().group.get_or_insert(next);
        if group == next {
            let (first, contents, spots) = (Position(0), Vec::new(), 0..0);
            self.groups.push(Group { stream, first, spots, contents, reports: 0, bytes: 0 });
        }
        let group = group as usize;
        let Group { contents, reports, .. } = &mut self.groups[group];
        *reports += u64::from(matches!(content, Content::Report(_)));
        #[cfg(forebay_plant = "marker_overtakes")]
        if matches!(content, Content::Marker(_)) {
            contents.insert(0, content);
            return Verdict::Written { group, index: 0 };
        }
        contents.push(content);
        Verdict::Written { group, index: contents.len() - 1 }
    }
}

/// How many of `contents` go into the next entry: at least one, and more while they stay below the shared size.
fn entry_length(id: &Id, contents: &[Content], max_records: usize) -> usize {
    let mut bytes = 0;
    let fits = |content: &&Content| {
        bytes += content_bytes(id, content);
        bytes <= SHARED_ENTRY_BYTES
    };
    contents.iter().take(max_records).take_while(fits).count().max(1)
}

/// The bytes that a content takes in the journal, at most (its share of a shared entry is less).
fn content_bytes(id: &Id, content: &Content) -> usize {
    let data = match content {
        Content::Report(draft) => draft.data.as_ref().map_or(0, bytes::Bytes::len),
        Content::Marker(_) => 0,
    };
    data + id.as_bytes().len() + RECORD_OVERHEAD_BYTES
}

/// The wall clock, in microseconds of the epoch; 0 where it stands before it.
pub(super) fn now_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

#[cfg(all(test, not(feature = "models")))]
mod tests;
