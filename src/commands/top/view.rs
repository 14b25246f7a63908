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

#[cfg(test)]
pub(super) mod tests {
    use super::super::super::status::{Audit, Status};
    use super::*;

    /// A node that is well, and started this many seconds before.
    pub fn snapshot(at: Instant, uptime_s: f64, accepted: u64, stored: u64) -> Snapshot {
        let audit = Audit { accepted, stored, backlog: accepted - stored, balanced: true, ..Audit::default() };
        let mut status = Status { ready: true, uptime_s, audit, ..Status::default() };
        status.sink.state = "up".to_owned();
        Snapshot { at, status, streams: Vec::new(), letters: Vec::new() }
    }

    pub fn hearing(snapshots: impl IntoIterator<Item = Snapshot>) -> View {
        let mut view = View::new("http://localhost:7002".to_owned());
        for snapshot in snapshots {
            view.hear(Polled { snapshot: Some(Arc::new(snapshot)), error: None });
        }
        view
    }

    #[test]
    fn rates_are_of_the_time_between_two_answers() {
        let start = Instant::now();
        let later = start + Duration::from_secs(2);
        let view = hearing([snapshot(start, 10.0, 1_000, 0), snapshot(later, 12.0, 1_400, 600)]);
        assert_eq!(view.rates, Rates { accepted: 200.0, drained: 300.0, dead: 0.0 });
        assert_eq!(view.outlook(), "drained in 8s");
        assert_eq!((view.accepted.back(), view.stored.back()), (Some(&200), Some(&300)));
        let view = hearing([snapshot(start, 10.0, 0, 0), snapshot(later, 12.0, 5_000, 0)]);
        assert_eq!(view.outlook(), "grows by 2,500/s");
        let view = hearing([snapshot(start, 10.0, 1_000, 1_000), snapshot(later, 1.0, 10, 10)]);
        assert_eq!((view.rates, view.outlook().as_str()), (Rates::default(), "nothing waits"), "a new start");
    }

    #[test]
    fn the_verdict_names_the_worst_first() {
        let now = Instant::now();
        let mut worse = snapshot(now, 1.0, 1, 1);
        let mut verdicts = vec![hearing([worse.clone()]).verdict(now)];
        worse.status.audit.dead = 2;
        verdicts.push(hearing([worse.clone()]).verdict(now));
        worse.status.sink.last_error = Some("a trigger".to_owned());
        verdicts.push(hearing([worse.clone()]).verdict(now));
        worse.status.sink.state = "blocked".to_owned();
        verdicts.push(hearing([worse.clone()]).verdict(now));
        worse.status.audit.balanced = false;
        verdicts.push(hearing([worse.clone()]).verdict(now));
        worse.status.ready = false;
        worse.status.not_ready = Some("the disk\u{1b}[2J".to_owned());
        verdicts.push(hearing([worse.clone()]).verdict(now));
        verdicts.push(hearing([worse.clone()]).verdict(now + Duration::from_secs(9)));
        let texts: Vec<&str> = verdicts.iter().map(|(_, text)| text.as_str()).collect();
        let wanted = [
            "WELL",
            "2 DEAD LETTERS",
            "THE SINK FAILS over some ids; they wait",
            "SINK BLOCKED; reports are kept in the journal",
            "THE AUDIT DOES NOT BALANCE",
            "NOT READY: the disk\\u{1b}[2J",
            "NO ANSWER for 9s",
        ];
        assert_eq!(texts, wanted);
        let grades: Vec<Grade> = verdicts.iter().map(|(grade, _)| *grade).collect();
        assert_eq!(grades[..4], [Grade::Well, Grade::Warning, Grade::Warning, Grade::Bad]);
    }

    #[test]
    fn history_is_bounded_and_a_held_view_stays() {
        let start = Instant::now();
        let at = |n: u64| snapshot(start + Duration::from_secs(n), n as f64, n, n);
        let mut view = hearing((0..HISTORY as u64 + 50).map(at));
        assert_eq!((view.accepted.len(), view.stored.len()), (HISTORY, HISTORY));
        view.hold();
        view.hear(Polled { snapshot: None, error: Some("gone".to_owned()) });
        assert_eq!(view.error, None);
    }
}
