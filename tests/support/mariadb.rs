//! A MariaDB, for what is about it alone or needs just any server.

use std::ops::{Deref, DerefMut};

use super::servers::{Kind, Server};

/// A [`Server`] of this kind.
pub struct MariaDb(Server);

#[allow(dead_code, reason = "each test binary uses another part of it")]
impl MariaDb {
    /// A new, empty server with the database `forebay`.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with more options.
    pub async fn start_with(options: &[&str]) -> Self {
        Self(Server::start_with(Kind::MariaDb, options).await)
    }
}

impl From<MariaDb> for Server {
    fn from(MariaDb(server): MariaDb) -> Self {
        server
    }
}

impl Deref for MariaDb {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for MariaDb {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}
