//! Connections before anybody speaks: accepted within caps, encrypted where certificates are set, bounded in time.
//!
//! Duty: what both listeners need below their routes.
//!
//! Invariants:
//! 1. A place is taken before anything is read of a connection, and given back when the last part of it is dropped.
//!    What counts for an address does so from the moment that it is known: for a client of a proxy once that has named
//!    it, and never for the proxy itself.
//! 2. Every wait has a bound: the header of a proxy, a TLS handshake, the head of a request, a write that the client
//!    does not take.
//! 3. A certificate is replaced whole or not at all; connections that are open keep theirs.
//! 4. Whom a connection or a request is from is believed of a trusted proxy alone, and said in one way alone.
//!
//! Does not know: tokens, routes, messages.

mod accept;
mod caps;
mod claims;
mod departure;
mod forwarded;
mod http;
mod preface;
mod reserve;
mod stall;
mod stream;
mod tls;
mod validity;

pub use accept::{Accepted, Caller, Refusal, accept_all, refuse};
pub use caps::{AddressSlot, Caps, Place};
pub use departure::Departure;
pub use forwarded::{Unreadable, client, is_by_header};
pub use http::{SEALED, Terms, problem_body, serve, undecoded};
pub use stall::Unstalled;
pub use stream::{Opening, Stream, open};
pub use tls::{Certificate, Tls, TlsError, certificates};
