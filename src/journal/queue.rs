//! The way to the commit thread: one list under a lock, taken whole.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::append::Append;
use super::dead_letters::DeadLetter;
use super::pauses::PauseError;
use super::set_aside::Damaged;
use crate::report::{Id, LetterKey, Position};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// What the commit thread is asked to do; it does it in the order of the asking.
pub(super) enum Command {
    /// Make these durable and answer. The bytes were reserved for them.
    Append(Vec<Append>, usize),
    /// The same, but for all of these or none.
    AppendTogether(Vec<Append>, usize),
    /// Remove entries that are settled.
    Truncate(Settled),
    /// Keep these as dead letters, durably, before the answer.
    Bury(Vec<DeadLetter>, oneshot::Sender<Buried>),
    /// Change dead letters, durably, before the answer.
    Revise(Vec<Revision>, oneshot::Sender<()>),
    /// Pause an id, or resume it, durably, before the answer.
    Pause(Id, bool, oneshot::Sender<Result<(), PauseError>>),
    /// Move a damaged value out of the way.
    SetAside(Box<Damaged>),
    /// Bundles up to `through` are in runs, and the settlements up to `swept` are noted there.
    Sorted { through: u64, swept: u64 },
    /// Sync and end.
    Stop,
}

impl Command {
    /// Whether it comes from a client who waits for its answer.
    pub(super) fn is_append(&self) -> bool {
        matches!(self, Self::Append(..) | Self::AppendTogether(..))
    }
}

/// Entries that are settled, of some ids.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Each id, and where they end: all of it up to there is settled.
    pub(super) ids: Vec<(Id, Position)>,
    /// The bundles of those that are in no run, one for each.
    pub(super) in_bundles: Vec<u64>,
}

/// What became of reports that were to be kept as dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buried {
    /// Dead letters that are new.
    pub new: u64,
    /// Reports whose key the dead letters had already.
    pub known: u64,
}

/// What an operator's request made of a dead letter.
#[derive(Debug, Clone)]
pub enum Revision {
    /// The sink took it: as a new row, or it had it already.
    Stored {
        /// The letter's key.
        key: LetterKey,
        /// Whether the row is new.
        is_new: bool,
    },
    /// The sink refused it again, for a reason that takes the place of the former.
    Refused(Box<DeadLetter>),
    /// The operator wants it gone.
    Discarded(LetterKey),
}

/// How long the commit thread looks out for appends before it goes to work. Less than a sync takes.
const LINGER: Duration = Duration::from_micros(60);

/// Commands that wait for the commit thread. Bounded by what is reserved for appends, by one batch an id, and by
/// what an operator asks for.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    commands: Vec<Command>,
    /// How many of them are appending ones.
    appending: usize,
    thread_sleeps: bool,
    /// How many appending commands the thread wants to be woken by, where it looks out for more.
    wanted: usize,
    /// The thread has ended: what is pushed is dropped, and whoever waits for its answer sees that.
    closed: bool,
}

impl Queue {
    /// Adds a command.
    pub(super) fn push(&self, command: Command) {
        let mut waiting = self.lock();
        if waiting.closed {
            return;
        }
        waiting.appending += usize::from(command.is_append());
        waiting.commands.push(command);
        if waiting.thread_sleeps && waiting.appending >= waiting.wanted {
            waiting.thread_sleeps = false;
            drop(waiting);
            self.wake.notify_one();
        }
    }

    /// Takes all that waits, into an empty list; waits for the first command, or for `patience`.
    pub(super) fn take(&self, into: &mut Vec<Command>, patience: Option<Duration>) {
        let mut waiting = self.lock();
        while waiting.commands.is_empty() {
            #[cfg(forebay_plant = "lose_a_wake_up")]
            {
                drop(waiting);
                waiting = self.lock();
            }
            waiting.thread_sleeps = true;
            let Some(patience) = patience else {
                waiting = self.wake.wait(waiting).expect(NO_PANIC);
                continue;
            };
            let timeout;
            (waiting, timeout) = self.wake.wait_timeout(waiting, patience).expect(NO_PANIC);
            if timeout.timed_out() {
                break;
            }
        }
        waiting.thread_sleeps = false;
        waiting.appending = 0;
        std::mem::swap(&mut waiting.commands, into);
    }

    /// Waits until there are `answered` more appending commands than now, for [`LINGER`] at most, and not where that is
    /// less than `few`. Sleeps until the last of them, so that those who bring them have the processors.
    pub(super) fn linger(&self, answered: usize, few: usize) {
        let mut waiting = self.lock();
        let expected = waiting.appending + answered;
        if expected < few || answered == 0 {
            return;
        }
        let began = Instant::now();
        while waiting.appending < expected {
            let Some(left) = LINGER.checked_sub(began.elapsed()) else { break };
            (waiting.thread_sleeps, waiting.wanted) = (true, expected);
            waiting = self.wake.wait_timeout(waiting, left).expect(NO_PANIC).0;
        }
        (waiting.thread_sleeps, waiting.wanted) = (false, 0);
    }

    /// Drops all that waits, and all that comes.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        let dropped = std::mem::take(&mut waiting.commands);
        drop(waiting);
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect(NO_PANIC)
    }
}

const NO_PANIC: &str = "no holder of the queue panics: it only moves commands";

#[cfg(all(test, not(feature = "models")))]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// What it wanted to be woken by while it looked out holds no longer than that.
    #[test]
    fn who_looked_out_in_vain_is_woken_by_the_next_command() {
        let queue = Arc::new(Queue::default());
        let mut taken = Vec::new();
        for _ in 0..200 {
            queue.linger(100, 1);
            let pusher = std::thread::spawn({
                let queue = Arc::clone(&queue);
                move || queue.push(Command::Append(Vec::new(), 0))
            });
            queue.take(&mut taken, None);
            assert_eq!(taken.drain(..).count(), 1);
            pusher.join().expect("no panic");
        }
    }
}
