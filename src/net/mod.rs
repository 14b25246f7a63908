//! Connections before anybody speaks: accepted within caps, encrypted where certificates are set, bounded in time.
//!
//! Duty: what both listeners need below their routes.
//!
//! Invariants:
//! 1. A place is taken before anything is read of a connection, and given back when the last part of it is dropped.
//! 2. Every wait has a bound: a TLS handshake, the head of a request, a write that the client does not take.
//! 3. A certificate is replaced whole or not at all; connections that are open keep theirs.
//!
//! Does not know: tokens, routes, messages.

mod accept;
mod caps;
mod http;
mod stall;
mod stream;
mod tls;
mod validity;

pub use accept::accept_all;
pub use caps::{Caps, Place};
pub use http::{problem_body, serve, undecoded};
pub use stall::Unstalled;
pub use stream::{Stream, open};
pub use tls::{Certificate, Tls, TlsError, certificates};
