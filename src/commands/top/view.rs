//! What is shown: the last snapshot, what changed since the one before, and what to make of it. Pure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::streams::Sort;
use super::super::text::{age, counted, number, shown};
use super::poll::{Polled, Snapshot};

/// Seconds of history that a chart has.
const HISTORY: usize = 240;

/// Past this, figures are not those of now.
const STALE: Duration = Duration::from_secs(3);

/// Everything that is drawn.
pub struct View {
    /// The node's URL.
    pub node: String,
    pub sort: Sort,
    pub held: bool,
    pub snapshot: Option<Arc<Snapshot>>,
    pub error: Option<String>,
    pub rates: Rates,
    /// Reports accepted a second, the newest last.
    pub accepted: VecDeque<u64>,
    /// Rows stored a second, likewise.
    pub stored: VecDeque<u64>,
    started: Instant,
}

/// Reports a second between the last two snapshots.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    pub accepted: f64,
    /// New rows and duplicates.
    pub drained: f64,
    pub dead: f64,
}

/// The first thing that an operator wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    Well,
    Warning,
    Bad,
}

impl View {
    pub fn new(node: String) -> Self {
        Self {
            node,
            sort: Sort::Backlog,
            held: false,
            snapshot: None,
            error: None,
            rates: Rates::default(),
            accepted: VecDeque::new(),
            stored: VecDeque::new(),
            started: Instant::now(),
        }
    }

    /// Stays as it is until it is let go.
    pub fn hold(&mut self) {
        self.held = !self.held;
    }

    pub fn hear(&mut self, polled: Polled) {
        if self.held {
            return;
        }
        self.error = polled.error.as_deref().map(shown);
        let Some(new) = polled.snapshot else { return };
        if let Some(old) = self.snapshot.as_ref().filter(|old| old.at < new.at) {
            self.rates = Rates::between(old, &new);
            push(&mut self.accepted, self.rates.accepted);
            push(&mut self.stored, self.rates.drained);
        }
        self.snapshot = Some(new);
    }

    /// Whether all is well, in a few words.
    pub fn verdict(&self, now: Instant) -> (Grade, String) {
        let heard = self.snapshot.as_ref().map_or(self.started, |snapshot| snapshot.at);
        let silence = now.saturating_duration_since(heard);
        if let Some(error) = &self.error {
            return (Grade::Bad, format!("NO FIGURES for {}: {error}", age(silence.as_secs_f64())));
        }
        if silence > STALE && !self.held {
            return (Grade::Bad, format!("NO ANSWER for {}", age(silence.as_secs_f64())));
        }
        let Some(snapshot) = &self.snapshot else { return (Grade::Warning, "asking".to_owned()) };
        let status = &snapshot.status;
        let sink = &status.sink;
        if !status.ready {
            (Grade::Bad, format!("NOT READY: {}", status.why_not_ready()))
        } else if !status.audit.balanced {
            (Grade::Bad, "THE AUDIT DOES NOT BALANCE".to_owned())
        } else if sink.state != "up" {
            (Grade::Bad, format!("SINK {}; reports are kept in the journal", shown(&sink.state).to_uppercase()))
        } else if sink.last_error.is_some() {
            (Grade::Warning, "THE SINK FAILS over some ids; they wait".to_owned())
        } else if status.audit.dead > 0 {
            (Grade::Warning, counted(status.audit.dead, "dead letter").to_uppercase())
        } else {
            (Grade::Well, "WELL".to_owned())
        }
    }

    /// How long the backlog will last, as it goes now.
    pub fn outlook(&self) -> String {
        let Some(snapshot) = &self.snapshot else { return String::new() };
        let backlog = snapshot.status.audit.backlog;
        let shrinks = self.rates.drained + self.rates.dead - self.rates.accepted;
        if backlog == 0 {
            "nothing waits".to_owned()
        } else if shrinks >= 1.0 {
            format!("drained in {}", age(backlog as f64 / shrinks))
        } else if shrinks <= -1.0 {
            format!("grows by {}/s", number(-shrinks as u64))
        } else {
            String::new()
        }
    }
}

impl Rates {
    /// A node that started anew in between counts from zero.
    fn between(old: &Snapshot, new: &Snapshot) -> Self {
        let seconds = new.at.saturating_duration_since(old.at).as_secs_f64().max(f64::MIN_POSITIVE);
        if new.status.uptime_s < old.status.uptime_s {
            return Self::default();
        }
        let (old, new) = (&old.status.audit, &new.status.audit);
        let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 / seconds;
        Self {
            accepted: rate(old.accepted, new.accepted),
            drained: rate(old.stored + old.duplicates, new.stored + new.duplicates),
            dead: rate(old.dead, new.dead),
        }
    }
}

fn push(history: &mut VecDeque<u64>, rate: f64) {
    if history.len() == HISTORY {
        history.pop_front();
    }
    history.push_back(rate.round() as u64);
}
