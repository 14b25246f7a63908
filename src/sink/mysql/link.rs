//! The driver's connection, and how it is ended where nothing more can be said over it.

use std::ops::{Deref, DerefMut};

use mysql_async::Conn;

use crate::panics::contain;

/// A connection of the driver that can be cut. There is one until then.
pub(super) struct Link(Option<Conn>);

impl Link {
    pub fn new(conn: Conn) -> Self {
        Self(Some(conn))
    }

    /// Closes the socket, so that the server ends the session and rolls back what it was at, locks and all.
    ///
    /// The driver, when it drops a connection, first reads the rest of an answer, without a limit of time; where the
    /// server or the way to it is silent, the session would live for ever, and hold the locks that the next try waits
    /// for. On a thread without a runtime it does not.
    pub fn cut(&mut self) {
        if let Some(conn) = self.0.take() {
            std::thread::spawn(move || contain(|| drop(conn)));
        }
    }
}

impl Deref for Link {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        self.0.as_ref().expect("a link is cut when its session is dropped")
    }
}

impl DerefMut for Link {
    fn deref_mut(&mut self) -> &mut Conn {
        self.0.as_mut().expect("a link is cut when its session is dropped")
    }
}
