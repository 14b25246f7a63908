//! An operator sets the first report that waits of an id aside: it becomes a dead letter, and those behind it go on.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep};

use super::Streams;
use crate::drain::Held;
use crate::journal::{Dead, DeadLetter, JournalError};
use crate::report::{Id, Key, LetterKey, LetterKind};

/// The longest reason that an operator may give, in bytes.
pub const MAX_WHY_BYTES: usize = 400;

/// How often it is looked whether a batch has come back from the sink.
const LOOK: Duration = Duration::from_millis(10);

/// How often an id that is drained and comes back meanwhile is held anew.
const TRIES: usize = 10;

/// What a batch may take beyond the time of the sink: the journal is read, too.
const GRACE: Duration = Duration::from_secs(5);

/// Why nothing was set aside.
#[derive(Debug, thiserror::Error)]
pub enum SetAsideError {
    /// No report of it waits.
    #[error("no report of the id {0} waits for the sink")]
    Nothing(Id),
    /// The first one is with the sink, and did not come back in time; or somebody sets another aside.
    #[error("a batch of the id {0} is on its way to the sink, or is being set aside, at this moment; ask again")]
    OnItsWay(Id),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The node stops.
    #[error("the node is stopping")]
    Stopping,
}

impl Streams {
    /// Makes the first report of the id that waits a dead letter, durably, whether the sink is up or not; the letter.
    /// Markers stay. `who` asks for it, and says `why`. Where the outcome of a try of its batch is not known, it may be
    /// a row as well, which a retry of the letter then finds.
    ///
    /// # Errors
    /// [`SetAsideError`].
    pub async fn set_aside(&self, id: &Id, who: &str, why: &str) -> Result<DeadLetter, SetAsideError> {
        let (this, id) = (self.clone(), *id);
        let reason = format!("set aside by {}: {}", escaped(who), escaped(why));
        // To the end, also where nobody waits for the answer any more.
        let setting = tokio::spawn(async move { this.set_first_aside(id, reason).await });
        setting.await.expect("setting a report aside does not panic")
    }

    async fn set_first_aside(&self, id: Id, reason: String) -> Result<DeadLetter, SetAsideError> {
        let held = self.hold(id).await?;
        // What is in the sink already is left alone, though its batch was put back.
        let stored = self.journal.stream(&id).and_then(|stream| stream.lock().progress().stored_through);
        let mut first = self.peek(id, stored, 1).await?.reports;
        let Some((position, report)) = first.pop() else { return Err(SetAsideError::Nothing(id)) };
        let dead_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        let kind = LetterKind::SetAside;
        let letter = DeadLetter { id, report, kind, holder: None, code: None, reason, dead_at, is_twin: false };
        let digest = letter.report.digest();
        let twin = DeadLetter { is_twin: true, ..letter.clone() };
        let buried = self.journal.bury_aside(held.hold(), position, letter.clone()).await;
        buried.ok_or(SetAsideError::Stopping)?;
        drop(held);
        tracing::warn!(key = %letter.key(), reason = %letter.reason, "a report was set aside by request");
        let key = Key { id, number: letter.report.number };
        self.journal.tell_dead(&id, position, Dead { key, kind });
        let found = |key: LetterKey| {
            let journal = self.journal.clone();
            async move {
                let read = tokio::task::spawn_blocking(move || journal.dead_letter(key)).await;
                let letter = read.expect("reading the journal does not panic").ok().flatten();
                letter.filter(|found| found.report.digest() == digest)
            }
        };
        // Somebody may have retried or discarded it by now.
        Ok(match found(letter.key()).await {
            Some(letter) => letter,
            None => found(twin.key()).await.unwrap_or(letter),
        })
    }

    /// Holds an id of which a report waits that no drainer has.
    async fn hold(&self, id: Id) -> Result<Held, SetAsideError> {
        for _ in 0..TRIES {
            let held = match self.flushers.hold(&id) {
                Some(held) => held,
                None if self.journal.stream(&id).is_some() => return Err(SetAsideError::OnItsWay(id)),
                None => return Err(SetAsideError::Nothing(id)),
            };
            self.given_back(&held).await?;
            match held.hold().has_reports(&self.journal) {
                Some(true) => return Ok(held),
                Some(false) => return Err(SetAsideError::Nothing(id)),
                // It was drained and let go, and has come back.
                None => {}
            }
        }
        Err(SetAsideError::OnItsWay(id))
    }

    /// Waits until no drainer has anything of the id.
    async fn given_back(&self, held: &Held) -> Result<(), SetAsideError> {
        let since = Instant::now();
        while held.hold().is_taken() {
            if since.elapsed() > self.sink_timeout + GRACE {
                return Err(SetAsideError::OnItsWay(held.hold().id()));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }
}

/// A text of one line, whatever it was.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\'' | '"' | '\\' => escaped.push(character),
            _ => write!(escaped, "{}", character.escape_debug()).expect("a String takes all that is written to it"),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_whatever_it_was() {
        assert_eq!(escaped("it's \"ok\" – é"), "it's \"ok\" – é");
        assert_eq!(escaped("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
    }
}
