//! One load, and what the processes that carry it used while it was measured.

use std::time::{Duration, Instant};

use super::client::{Load, Outcome, Protocol};
use super::options::Options;
use super::process::Usage;

/// What was seen of a load that has ended.
pub struct Measured {
    /// What the client has to say.
    pub outcome: Outcome,
    /// How long it was measured.
    pub window: Duration,
    /// The processes, in the order in which they were given, before the load.
    pub before: Vec<Usage>,
    /// What they used while it was measured.
    pub used: Vec<Usage>,
    /// The same of the client.
    pub client: Usage,
}

/// Runs a load for the options' `warm-up`, then measures it for their `seconds`, then stops it.
pub async fn measure<P: Protocol>(load: Load, processes: &[u32], options: &Options) -> Measured {
    let usage = || processes.iter().map(Usage::of).collect::<Vec<_>>();
    let before = usage();
    let running = load.start_over::<P>().await;
    tokio::time::sleep(Duration::from_secs(options.get("warm-up"))).await;
    let (start, client, at_start) = (Instant::now(), Usage::of("self"), usage());
    running.measure();
    tokio::time::sleep(Duration::from_secs(options.get("seconds"))).await;
    running.measured();
    let (window, client, at_end) = (start.elapsed(), Usage::of("self").since(client), usage());
    let outcome = running.stop().await;
    let used = at_end.iter().zip(at_start).map(|(end, start)| end.since(start)).collect();
    Measured { outcome, window, before, used, client }
}
