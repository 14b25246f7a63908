//! What stands around a session: a client's two halves, and a journal that keeps nothing.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use forebay::ingest::Backend;
use forebay::journal::{Ack, Answer, Append, Content, Drained, ReplyTo};
use forebay::report::{Id, Marker, Position, Refusal};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The node that numbers reports.
pub const NODE: u16 = 7;

/// What a client sends.
pub struct Input {
    bytes: Vec<u8>,
    at: usize,
    chunk: Option<usize>,
    /// The next read waits once.
    waits: bool,
    silent: bool,
    stops_at: Option<usize>,
    stop: CancellationToken,
}

impl Input {
    /// Gives `bytes` as [`super::frames`] says.
    pub fn new(
        bytes: Vec<u8>,
        chunk: Option<usize>,
        silent: bool,
        stops_at: Option<usize>,
        stop: CancellationToken,
    ) -> Self {
        Self { bytes, at: 0, chunk, waits: chunk.is_some(), silent, stops_at, stop }
    }
}

impl AsyncRead for Input {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.stops_at.is_some_and(|at| this.at >= at.min(this.bytes.len())) {
            this.stop.cancel();
        }
        if std::mem::take(&mut this.waits) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let rest = &this.bytes[this.at..];
        if rest.is_empty() && this.silent {
            return Poll::Pending;
        }
        let count = rest.len().min(buf.remaining()).min(this.chunk.unwrap_or(usize::MAX));
        buf.put_slice(&rest[..count]);
        this.at += count;
        this.waits = this.chunk.is_some();
        Poll::Ready(Ok(()))
    }
}

/// What a client takes.
pub struct Output {
    out: Arc<Mutex<Vec<u8>>>,
    stalls_after: Option<usize>,
}

impl Output {
    /// Takes all into `out`, or stalls.
    pub fn new(out: Arc<Mutex<Vec<u8>>>, stalls_after: Option<usize>) -> Self {
        Self { out, stalls_after }
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut out = self.out.lock().expect("nobody panicked");
        let room = self.stalls_after.map_or(usize::MAX, |limit| limit - out.len());
        let count = bytes.len().min(room);
        if count == 0 && !bytes.is_empty() {
            return Poll::Pending;
        }
        out.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// When appends are answered, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commits {
    /// Before the append returns.
    AtOnce,
    /// By a task of its own, together with others.
    Later,
    /// As `Later`, and every third is refused.
    RefusingSome,
    /// Not at all.
    Never,
}

/// Stands in for the journal. A cheap handle.
#[derive(Clone)]
pub struct StandIn {
    commits: Commits,
    state: Arc<Mutex<Kept>>,
    work: Arc<Notify>,
}

/// What was given to a [`StandIn`].
#[derive(Default)]
pub struct Kept {
    appends: u64,
    waiting: Vec<(ReplyTo, Answer, bool)>,
    /// Whether the last that was kept of an id is a report.
    last: BTreeMap<Id, bool>,
    marked: Vec<Id>,
}

impl Kept {
    /// Ids with a marker that the session left, in order.
    pub fn marked(&self) -> Vec<Id> {
        let mut marked = self.marked.clone();
        marked.sort();
        marked
    }

    /// Ids that are owed one, in order.
    pub fn owed(&self) -> Vec<Id> {
        self.last.iter().filter_map(|(id, report)| report.then_some(*id)).collect()
    }
}

impl StandIn {
    /// One that answers as `commits` says.
    pub fn new(commits: Commits) -> Self {
        Self { commits, state: Arc::default(), work: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, Kept> {
        self.state.lock().expect("nobody panicked")
    }

    /// What was kept.
    pub fn kept(self) -> Kept {
        std::mem::take(&mut *self.state())
    }

    /// Answers what waits, for as long as it is polled.
    pub async fn commit(&self) {
        loop {
            self.work.notified().await;
            tokio::task::yield_now().await;
            self.answer();
        }
    }

    fn answer(&self) {
        let waiting = std::mem::take(&mut self.state().waiting);
        let Some(outlet) = waiting.first().map(|(to, ..)| Arc::clone(&to.outlet)) else { return };
        let done = |(to, answer, done): &(ReplyTo, Answer, bool)| {
            (*done && matches!(answer, Answer::Kept(_))).then_some(to.ticket)
        };
        let dones: Vec<u64> = waiting.iter().filter_map(done).collect();
        outlet.answer(&mut waiting.into_iter().map(|(to, answer, _)| (to.ticket, answer)), true);
        dones.into_iter().for_each(|ticket| outlet.drained(ticket, Drained { reports: 1, dead: 0 }));
    }
}

impl Backend for StandIn {
    async fn reserve(&self, bytes: usize) {
        assert!(bytes > 0);
        if self.commits == Commits::Later {
            tokio::task::yield_now().await;
        }
    }

    fn append(&self, appends: Vec<Append>, _: usize) {
        let mut state = self.state();
        for Append { id, content, reply_to } in appends {
            state.appends += 1;
            let Some(reply_to) = reply_to else {
                assert_eq!(content, Content::Marker(Marker::Disconnected));
                state.marked.push(id);
                continue;
            };
            let answer = if self.commits == Commits::RefusingSome && state.appends.is_multiple_of(3) {
                Answer::Refused(Refusal::backlog_full(&id, 1, 1))
            } else {
                state.keep(id, &content);
                Answer::Kept(Ack::made_up(&content, NODE, Position(state.appends)))
            };
            state.waiting.push((reply_to, answer, content == Content::Marker(Marker::Done)));
        }
        drop(state);
        match self.commits {
            Commits::AtOnce => self.answer(),
            Commits::Later | Commits::RefusingSome => self.work.notify_one(),
            Commits::Never => {}
        }
    }
}

impl Kept {
    fn keep(&mut self, id: Id, content: &Content) {
        match content {
            Content::Report(_) => drop(self.last.insert(id, true)),
            // Of an id that never reported here, it changes nothing.
            Content::Marker(_) => drop(self.last.entry(id).and_modify(|report| *report = false)),
        }
    }
}
