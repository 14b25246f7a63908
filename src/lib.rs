//! Forebay: a write-ahead-logged, durable ingest engine.
//!
//! Clients send reports; each is on disk in the journal before it is acknowledged. Flushers and drainers, made on
//! demand, move the backlog of each id into a sink with idempotent inserts, and then truncate the journal. A crash at
//! any instant neither loses an acknowledged report nor stores one twice.
//!
//! # The map
//! Bytes flow one way: socket, [`report::Draft`], journal, [`report::Batch`], sink. Three things come back: the ack, a
//! wake-up, and the truncation. A room imports only from floors below its own.
//!
//! | floor | room | duty |
//! |---|---|---|
//! | 6 | `commands` (of the program) | the command line |
//! | 5 | [`serve()`] | one node: start, signals, reload, stop |
//! | 4 | [`ingest`] | the ingest listener: WebSockets and `POST /reports` |
//! | 4 | [`admin`] | the admin listener: status, streams, dead letters, metrics, the dashboard |
//! | 3 | [`service`] | the one front of journal, flushers and sink |
//! | 2 | [`drain`] | when an id is drained, and by whom |
//! | 1 | [`journal`] | durable appends, order, recovery, truncation, dead letters |
//! | 1 | [`sink`] | transactions, classes of error, splitting |
//! | 1 | [`access`], [`net`] | tokens and hosts; connections, TLS, proxies |
//! | 0 | [`report`], [`config`], [`metrics`], [`trace`], [`panics`], `sync` | what everybody needs; they need nobody |
//!
//! # The words
//! A *report* is one message to be kept. Its *id* names its stream, and its *key* `(id, source, seq)` makes it unique
//! in the sink. A *position* is the journal's own number of a *record*, which is a report or a *marker* (`done`,
//! `disconnected`). A *commit* makes all waiting *appends* durable with one *sync*. *Backlog* is what is in the journal
//! and not yet in the sink. A *dead letter* is a report that cannot be a row; it is kept with its reason.
//! `docs/glossary.md` has the others, and `docs/architecture.md` the way of a report through the rooms.
//!
//! # An example
//! The service without its listeners: one report, and its ack once it is on disk. `docs/examples/` has whole programs.
//!
//! ```
//! use std::sync::Arc;
//!
//! use forebay::config::{Flags, Settings, Sources};
//! use forebay::service::Service;
//! use forebay::journal::{Answer, Append, Content, Drained, Outlet, ReplyTo};
//! use forebay::report::{Draft, Id};
//! use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
//!
//! /// Who waits for the answers of the journal.
//! struct Client(UnboundedSender<Answer>);
//!
//! impl Outlet for Client {
//!     fn answer(&self, answers: &mut dyn Iterator<Item = (u64, Answer)>, _at_once: bool) {
//!         answers.for_each(|(_ticket, answer)| drop(self.0.send(answer)));
//!     }
//!     fn drained(&self, _ticket: u64, _drained: Drained) {}
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> anyhow::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path().display().to_string();
//! let flags = Flags { data_dir: Some(folder), ..Flags::default() };
//! let settings = Settings::load(&Sources { flags, ..Sources::default() })?;
//! let service = Service::open(&settings).await?;
//!
//! let (answers, mut answered) = unbounded_channel();
//! let draft = Draft { seq: Some(42), time: None, code: 0, peer: None, data: Some("{}".into()) };
//! let reply_to = ReplyTo { outlet: Arc::new(Client(answers)), ticket: 0, since: tokio::time::Instant::now() };
//! let append = Append { id: Id::new("sensor-7")?, content: Content::Report(draft), reply_to: Some(reply_to) };
//! service.append(vec![append], 0);
//! assert!(matches!(answered.recv().await, Some(Answer::Kept(_))), "the report is on disk");
//!
//! service.shut_down().await?;
//! service.close()?;
//! # Ok(())
//! # }
//! ```

#![cfg_attr(all(test, feature = "models"), allow(dead_code, reason = "the model has no files"))]

pub mod access;
pub mod admin;
pub mod config;
pub mod drain;
pub mod ingest;
pub mod journal;
pub mod metrics;
pub mod net;
mod node;
pub mod panics;
pub mod report;
pub mod service;
pub mod sink;
mod sync;
pub mod trace;

pub use node::{FileFaults, Files, Reload, Signals, serve};
