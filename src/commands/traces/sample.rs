//! Which commits and transactions are traced.

use std::sync::atomic::{AtomicU64, Ordering};

use forebay::trace::{COMMIT, TARGET, TRANSACTION};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

/// The first of each so many commits, the first of each so many transactions, and what is within them. What is left out
/// never comes to the SDK, which is why its own samplers do not choose: they would be asked once all is made.
pub struct OneIn {
    each: u64,
    commits: AtomicU64,
    transactions: AtomicU64,
}

impl OneIn {
    /// `each` is at least 1.
    pub fn new(each: u64) -> Self {
        Self { each, commits: AtomicU64::new(0), transactions: AtomicU64::new(0) }
    }

    fn takes(&self, seen: &AtomicU64) -> bool {
        seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.each)
    }
}

impl<S: Subscriber + for<'span> LookupSpan<'span>> Filter<S> for OneIn {
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        match metadata.name() {
            _ if metadata.target() != TARGET => false,
            COMMIT => self.takes(&self.commits),
            TRANSACTION => self.takes(&self.transactions),
            // This filter's own view: a span around it that is traced.
            _ => context.lookup_current().is_some(),
        }
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.target() == TARGET { Interest::sometimes() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
}
