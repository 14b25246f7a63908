//! The spans of a node: where a commit and a transaction spend their time.
//!
//! | span | in | what it is |
//! |---|---|---|
//! | `commit` | | one group commit of reports and markers, up to its last ack |
//! | `write` | `commit` | its entries put into the journal |
//! | `sync` | `commit` | the journal's flush and the sync of its file |
//! | `transaction` | | what a drainer does for the ids that it took: all of it, waiting for the sink included |
//! | `read` | `transaction` | their backlog read from the journal |
//! | `attempt` | `transaction` | one try to store (a part of) it |
//!
//! A span that nobody asked for costs a look at a static: no allocation and no clock. No field holds an id or anything
//! else that a client chose. Who collects them is not known here.

/// The target of all spans, and of nothing else.
pub const TARGET: &str = "otlp";

/// A commit that has reports or markers.
pub const COMMIT: &str = "commit";

/// One round of a drainer.
pub const TRANSACTION: &str = "transaction";
