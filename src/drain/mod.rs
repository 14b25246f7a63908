//! Flushers: one an id, made on demand, that drain the id's backlog into the sink.
//!
//! A flusher is a task while it waits for a batch, a marker or the tick (`policy.rs`); then it hands its id over to the
//! drainers and ends (`task.rs`). A drainer takes the ids that are ready, reads their backlog from the journal, stores
//! it in one shared transaction, settles and truncates it, and lets each id go on (`drainer.rs`): at once, with a new
//! flusher, or not at all. What cannot be stored is buried on the way (`graves.rs`). So what is in memory is bounded by
//! the transactions under way, however many ids have backlog and however long the sink is down.
//!
//! # Invariants
//! 1. An id is with one drainer at a time, so its records reach the sink in order.
//! 2. Nothing is settled or truncated before the sink confirmed it or it is durable as a dead letter.
//! 3. A marker is stored after the reports before it, never ahead of them.
//! 4. An id with backlog has a flusher, or is with the drainers; never both, and never two.
//! 5. An id that the sink fails over is put back: it is stored alone, again and again with a growing delay, and others
//!    do not wait for it.
//!
//! # What it does not know
//! How the journal and the sink keep things, and the clients.

mod drainer;
mod graves;
#[cfg(all(test, feature = "models"))]
mod models;
mod policy;
mod supervisor;
mod task;
#[cfg(test)]
mod tests;

pub use policy::Policy;
pub use supervisor::{Flushers, Held, Limits};
