//! One line that tells how far a load is; only where a person looks.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::arguments::End;
use super::shared::Shared;

/// Characters of the bar.
const WIDTH: usize = 24;

/// The line, on standard error.
pub struct Progress {
    is_seen: bool,
    /// Acks when the line was last written.
    before: (Instant, u64),
}

impl Progress {
    /// Nothing is written yet, nor ever where standard error is no terminal.
    pub fn new() -> Self {
        Self { is_seen: io::stderr().is_terminal(), before: (Instant::now(), 0) }
    }

    /// Tells of a load under way.
    pub fn sending(&mut self, shared: &Shared, end: End) {
        if !self.is_seen {
            return;
        }
        let acked = shared.acked.load(Ordering::Relaxed);
        let (now, (then, acked_then)) = (Instant::now(), self.before);
        self.before = (now, acked);
        let rate = (acked - acked_then) as f64 / (now - then).as_secs_f64().max(0.001);
        let part = match end {
            End::Count(count) => acked as f64 / count as f64,
            End::Duration(duration) => shared.start.elapsed().as_secs_f64() / duration.as_secs_f64(),
        };
        let errors: u64 = shared.errors().values().sum();
        let reconnects = shared.reconnects.load(Ordering::Relaxed);
        write(&format!("{} {acked} acks, {rate:.0}/s, {errors} errors, {reconnects} reconnects", bar(part)));
    }

    /// Tells of a sink that rows are on their way to.
    pub fn draining(&self, stored: u64, wanted: u64) {
        if self.is_seen {
            write(&format!(
                "{} {stored} of {wanted} reports are in the sink",
                bar(stored as f64 / wanted.max(1) as f64)
            ));
        }
    }

    /// Takes the line away.
    pub fn clear(&self) {
        if self.is_seen {
            write("");
        }
    }
}

/// The line in the place of the one before.
fn write(line: &str) {
    let mut out = io::stderr().lock();
    // A terminal that went away takes nothing with it.
    let _ = write!(out, "\r\x1b[K{line}").and_then(|()| out.flush());
}

fn bar(part: f64) -> String {
    let part = part.clamp(0.0, 1.0);
    let full = (part * WIDTH as f64) as usize;
    format!("[{}{}] {:3.0} %", "#".repeat(full), " ".repeat(WIDTH - full), part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_its_part() {
        assert_eq!(bar(0.5), "[############            ]  50 %");
        assert_eq!(bar(7.0), "[########################] 100 %");
        assert_eq!(bar(f64::NAN), "[                        ] NaN %");
    }
}
