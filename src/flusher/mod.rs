//! Flushers: one task an id, made on demand, that drains the id's backlog into the sink.
//!
//! A flusher waits for a batch, a marker or the tick (`policy.rs`), hands its id over to one of the drainers, and gets
//! back what became of the records; then it buries what was refused, settles and truncates (`task.rs`). A drainer takes
//! the ids that are ready, reads their backlog from the journal, and stores it in one shared transaction
//! (`drainer.rs`). So what is in memory is bounded by the transactions under way, however many ids have backlog and
//! however long the sink is down.
//!
//! # Invariants
//! 1. An id is with one drainer at a time, so its records reach the sink in order.
//! 2. Nothing is settled or truncated before the sink confirmed it or it is durable as a dead letter.
//! 3. A marker is stored after the reports before it, never ahead of them.
//! 4. An id whose flusher has ended has no backlog.
//! 5. An id that the sink fails over is put back: it is stored alone, again and again with a growing delay, and others
//!    do not wait for it.
//!
//! # What it does not know
//! How the journal and the sink keep things, and the clients.

mod drainer;
#[cfg(all(test, feature = "models"))]
mod models;
mod policy;
mod supervisor;
mod task;
#[cfg(test)]
mod tests;

pub use policy::Policy;
pub use supervisor::{Flushers, Limits};
